"""One event loop's link to broker and Redis: publish, read the replies, settle, keep reservations alive.

Everything that costs a round trip runs in tasks of its own. A request only publishes and waits for its
future; one blocking read per link resolves all of them. Releases are gathered and sent together.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import socket
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from redis.exceptions import RedisError, ResponseError

from fast_router.celery_routing.broker import Failed, make_broker, redis_client
from fast_router.celery_routing.envelope import MEMORY_MS, Keys, Reply, body, lua, parse_reply
from fast_router.celery_routing.settings import CelerySettings

__all__ = ["Link"]

_READ_SECONDS = 1.0
_BATCH = 128
_GATHER_SECONDS = 0.01
_CLOSE_ROUNDS = 5
# Requests that travel in one task: most of a task's cost is Celery's, but one worker does them one after another.
_TOGETHER = 8
# While so many tasks of a model are under way, its requests wait for company: for one of them to be answered, ...
_AT_ONCE = 2
# ... or for this many seconds.
_LINGER = 0.002
# Releases kept while Redis is away; the reservations behind any that are dropped lapse by themselves.
_MOST_PENDING = 20_000


class _Lane:
    """The requests of one model and priority on their way to the workers."""

    __slots__ = ("flying", "model", "priority", "timer", "waiting")

    def __init__(self, model: str, priority: int) -> None:
        self.model = model
        self.priority = priority
        self.waiting: list[tuple[dict[str, str], float, Failed]] = []
        # Tasks without an answer.
        self.flying = 0
        self.timer: asyncio.Handle | None = None


class _Flight:
    """A task under way; it has landed with the first of its requests, because they are answered together."""

    __slots__ = ("landed", "lane")

    def __init__(self, lane: _Lane) -> None:
        self.lane = lane
        self.landed = False


class Link:
    """The transport of the event loop it was made on; use it from there only, except `settle`.

    Args:
        settings: Where to connect.
        on_reply: Called on the loop with each answer.
        complain: Called with a message when something is away.
    """

    def __init__(
        self, settings: CelerySettings, on_reply: Callable[[Link, Reply], None], complain: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.keys = Keys(settings)
        self.process = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.reply_key = self.keys.reply(self.process)
        self.broker = make_broker(settings)
        self.redis_up = False
        # True until the first request had its chance to wait for the connections.
        self.fresh = True
        # Futures of requests that wait for a word, and the provider of every request under way.
        self.waiting: dict[str, asyncio.Future[Reply | str]] = {}
        self.held: dict[str, str] = {}
        self._numbers = itertools.count()
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._flights: dict[str, _Flight] = {}
        self._on_reply = on_reply
        self._complain = complain
        self._reading: Any = None
        self._read_at = self.loop.time()
        self._client = redis_client(settings.redis_url, settings)
        self._settle_script = self._client.register_script(lua("settle"))
        self._hold_script = self._client.register_script(lua("hold"))
        self._observe_script = self._client.register_script(lua("observe"))
        self._pending: deque[tuple[Any, ...]] = deque(maxlen=_MOST_PENDING)
        self._dirty = asyncio.Event()
        self._settled: list[Callable[[], None]] = []
        self._tasks = [
            self.loop.create_task(work, name=f"fast_router celery {name}")
            for name, work in (
                ("broker", self.broker.run()),
                ("replies", self._read()),
                ("settle", self._settle()),
                ("heartbeat", self._beat()),
                ("watch", self._watch()),
            )
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    @property
    def up(self) -> bool:
        """True while both the broker and Redis answer."""
        return self.redis_up and self.broker.up

    def next_id(self) -> str:
        """A request id that no other process uses."""
        return f"{self.process}:{next(self._numbers)}"

    async def ready(self, timeout: float) -> bool:
        """Wait until both servers answer, at most `timeout` seconds."""
        until = self.loop.time() + timeout
        while not self.up and self.loop.time() < until:
            await asyncio.sleep(0.005)
        return self.up

    def ask(self, request: dict[str, str], priority: int, expires: float, failed: Failed) -> None:
        """Publish a request; call `landed` when nobody waits for its answer any more.

        Those of one moment, model and priority travel in one task, up to a few. When some tasks are under way
        already, the next requests wait a little for each other: the more there is to do, the less each one costs.

        Args:
            request: See `envelope.request_of`.
            priority: 0 is the lowest.
            expires: Seconds after which nobody waits for the answer.
            failed: Told if the broker does not take it.
        """
        key = (request["model"], priority)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(*key)
        lane.waiting.append((request, expires, failed))
        if lane.timer is None:
            if lane.flying < _AT_ONCE:
                lane.timer = self.loop.call_soon(self._post, lane)
            else:
                lane.timer = self.loop.call_later(_LINGER, self._post, lane)
        elif len(lane.waiting) == _TOGETHER:
            self._hurry(lane)

    def landed(self, rid: str) -> None:
        """The request `rid` was answered or given up."""
        flight = self._flights.pop(rid, None)
        if flight is None or flight.landed:
            return
        flight.landed = True
        lane = flight.lane
        lane.flying -= 1
        if lane.waiting:
            self._hurry(lane)
        elif not lane.flying and lane.timer is None:
            # Models come and go.
            self._lanes.pop((lane.model, lane.priority), None)

    def _hurry(self, lane: _Lane) -> None:
        """Post soon, but after all that arrives in this moment."""
        if lane.timer is not None:
            lane.timer.cancel()
        lane.timer = self.loop.call_soon(self._post, lane)

    def _post(self, lane: _Lane) -> None:
        # Whoever gave up meanwhile is not asked for.
        entries, lane.waiting = [entry for entry in lane.waiting if entry[0]["id"] in self.waiting], []
        lane.timer = None
        for start in range(0, len(entries), _TOGETHER):
            together = entries[start : start + _TOGETHER]
            requests = [request for request, _, _ in together]
            lane.flying += 1
            flight = _Flight(lane)
            for request in requests:
                self._flights[request["id"]] = flight
            self.broker.publish(
                lane.model,
                requests[0]["id"],
                body(requests),
                lane.priority,
                max(expires for _, expires, _ in together),
                partial(_tell, [failed for _, _, failed in together]),
            )

    def settle(self, row: tuple[Any, ...], then: Callable[[], None] | None = None) -> None:
        """Send the end of a request soon (see lua/settle.lua for the row); call from the link's loop."""
        self._pending.append(row)
        if then is not None:
            self._settled.append(then)
        self._dirty.set()

    async def announce(self, model: str) -> None:
        """Tell the workers that this model has a queue."""
        with contextlib.suppress(RedisError, OSError, asyncio.TimeoutError):
            seconds, _ = await self._client.time()
            await self._client.zadd(self.keys.models, {model: seconds})

    async def observe(self, rows: Sequence[tuple[str, float]]) -> None:
        """Publish how many requests wait in providers' own queues: (provider, waiting)."""
        with contextlib.suppress(RedisError, OSError, asyncio.TimeoutError):
            await self._observe_script(args=[self.keys.prefix, json.dumps(rows)])

    async def claim(self, names: Sequence[str], milliseconds: int, *, again: bool = False) -> list[str]:
        """Those of the servers that this process may look at now, and nobody else for so long.

        Args:
            names: Names of servers.
            milliseconds: How long a claim holds.
            again: Claim them whoever has them.
        """
        if not names:
            return []
        with contextlib.suppress(RedisError, OSError, asyncio.TimeoutError):
            async with self._client.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.set(self.keys.look(name), self.process, px=milliseconds, nx=not again)
                granted = await pipeline.execute()
            return [name for name, yes in zip(names, granted, strict=True) if yes]
        return []

    async def close(self) -> None:
        """Send what is pending, drop the reply list, end the tasks."""
        if self.redis_up:
            with contextlib.suppress(RedisError, OSError, asyncio.TimeoutError):
                await self._send()
                await self._client.delete(self.reply_key)
        left = set(self._tasks)
        for _ in range(_CLOSE_ROUNDS):
            # More than once: asyncio before 3.12 can lose a cancellation that comes together with what is awaited.
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=1.0)
            if not left:
                return
        self._complain(f"{', '.join(sorted(task.get_name() for task in left))} did not end")

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            # A defect of ours: without this task the link is deaf, so it counts as down.
            self.redis_up = False
            self._complain(f"{task.get_name()} ended: {task.exception()!r}")

    # -- replies -----------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Take answers as they come, over a connection of its own.

        redis-py's connection is used below its client: the client's bookkeeping costs more than the read.
        """
        pool = redis_client(self.settings.redis_url, self.settings, timeout=None).connection_pool
        many = True
        pause = 0.05
        connection: Any = None
        try:
            while True:
                try:
                    if connection is None:
                        fresh: Any = pool.make_connection()  # type: ignore[no-untyped-call]
                        await asyncio.wait_for(fresh.connect(), self.settings.connect_timeout)
                        connection = self._reading = fresh
                        take = [connection.pack_command(*words) for words in self._commands()]
                        self.redis_up, pause = True, 0.05
                    self._read_at = self.loop.time()
                    if many:
                        await connection.send_packed_command(take[0], check_health=False)
                        got = await connection.read_response()
                        answers = got[1] if got else ()
                    else:
                        answers = await self._read_old(connection, take)
                    self.redis_up = True
                    for raw in answers:
                        self._dispatch(raw)
                except ResponseError as error:
                    if many and "unknown command" in str(error).lower():
                        many = False  # a server before 7.0
                        continue
                    self._lost(error)
                    await asyncio.sleep(pause)
                except (RedisError, OSError, asyncio.TimeoutError) as error:
                    self._lost(error)
                    if connection is not None:
                        with contextlib.suppress(RedisError, OSError):
                            await connection.disconnect(nowait=True)
                        connection = self._reading = None
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 0.5)
        finally:
            self.redis_up = False
            if connection is not None:
                with contextlib.suppress(RedisError, OSError):
                    await connection.disconnect(nowait=True)

    def _commands(self) -> tuple[tuple[Any, ...], ...]:
        return (
            ("BLMPOP", _READ_SECONDS, 1, self.reply_key, "LEFT", "COUNT", _BATCH),
            ("BLPOP", self.reply_key, int(_READ_SECONDS)),
            ("LPOP", self.reply_key, _BATCH),
        )

    async def _read_old(self, connection: Any, take: list[Any]) -> list[bytes]:
        await connection.send_packed_command(take[1], check_health=False)
        first = await connection.read_response()
        if not first:
            return []
        await connection.send_packed_command(take[2], check_health=False)
        return [first[1], *(await connection.read_response() or [])]

    async def _watch(self) -> None:
        """End a read that should have come back long ago: nobody else notices a connection to nowhere."""
        while True:
            await asyncio.sleep(_READ_SECONDS)
            reading = self._reading
            if reading is not None and self.loop.time() - self._read_at > _READ_SECONDS + 2:
                self._lost(TimeoutError())
                with contextlib.suppress(RedisError, OSError):
                    await reading.disconnect(nowait=True)

    def _lost(self, error: BaseException) -> None:
        if self.redis_up:
            self._complain(f"Redis is away ({type(error).__name__})")
        self.redis_up = False

    def _dispatch(self, raw: bytes) -> None:
        try:
            reply = parse_reply(raw)
        except (ValueError, UnicodeDecodeError):
            self._complain("an answer could not be read; another program may use the same key prefix")
            return
        self._on_reply(self, reply)

    # -- the end of requests, and heartbeats ---------------------------------------------------------

    async def _settle(self) -> None:
        try:
            while True:
                await self._dirty.wait()
                # Ends come in crowds; one call for all of the next moment costs no request anything.
                await asyncio.sleep(_GATHER_SECONDS)
                self._dirty.clear()
                try:
                    await self._send()
                except (RedisError, OSError, asyncio.TimeoutError):
                    await asyncio.sleep(0.25)
                    self._dirty.set()
        finally:
            with contextlib.suppress(Exception):
                await self._client.aclose()

    async def _send(self) -> None:
        while self._pending:
            batch = [self._pending.popleft() for _ in range(min(_BATCH, len(self._pending)))]
            then, self._settled = self._settled, []
            try:
                await self._settle_script(
                    args=[
                        self.keys.prefix,
                        MEMORY_MS,
                        int(self.settings.metrics_window * 1000),
                        json.dumps(batch),
                    ]
                )
            except BaseException:
                # Settling twice is settling once, so all of it may be sent again.
                self._pending.extendleft(reversed(batch))
                self._settled = then + self._settled
                raise
            for call in then:
                call()

    async def _beat(self) -> None:
        ttl = int(self.settings.reservation_ttl * 1000)
        while True:
            await asyncio.sleep(self.settings.reservation_ttl / 3)
            rows = list(self.held.items())
            with contextlib.suppress(RedisError, OSError, asyncio.TimeoutError):
                for start in range(0, len(rows), _BATCH):
                    await self._hold(rows[start : start + _BATCH], ttl)

    async def _hold(self, rows: list[tuple[str, str]], ttl: int) -> None:
        await self._hold_script(args=[self.keys.prefix, ttl, max(MEMORY_MS, ttl * 2), json.dumps(rows)])

    async def hold_local(self, rid: str, provider: str) -> None:
        """Make a request that was picked here visible to the workers."""
        self.held[rid] = provider
        with contextlib.suppress(RedisError, OSError, asyncio.TimeoutError):
            await self._hold([(rid, provider)], int(self.settings.reservation_ttl * 1000))


def _tell(everybody: Sequence[Failed], why: str) -> None:
    for failed in everybody:
        failed(why)
