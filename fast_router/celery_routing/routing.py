"""Celery routing as the API process sees it: ask a routing worker which provider takes a request.

`decide` publishes a task to the model's queue and waits for the answer without polling. It never waits
longer than the deadline for a sign of life: if broker, workers or Redis are away or slow, it returns None,
which means "pick for yourself". A model that stays silent is asked again once a second by one request; the
others do not wait for it.

Each process has one link (`link`) for the event loop of its main thread, and one on a background
loop for everything else: threads, short-lived loops, synchronous callers. After a fork the child starts
with links of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fast_router.celery_routing import requirements  # noqa: F401 - before what needs the packages
from fast_router.celery_routing.envelope import Reply, request_of
from fast_router.celery_routing.grant import Grant
from fast_router.celery_routing.link import Link
from fast_router.celery_routing.server_queues import QueueReader
from fast_router.celery_routing.settings import Candidate, CelerySettings
from fast_router.errors import BUSY, ModelBusyError, RoutingTimeoutError

if TYPE_CHECKING:
    from fast_router.engine import Engine

__all__ = ["CeleryRouting"]

logger = logging.getLogger("fast_router.celery")

T = TypeVar("T")

_COMPLAIN_SECONDS = 60.0
_ANNOUNCE_SECONDS = 60.0
_SILENCES = 3
_PROBE_SECONDS = 1.0
_DROP = ("drop", -1, -1, -1)


class _Gate:
    """Whether a model's workers are worth waiting for."""

    __slots__ = ("probing", "shut_until", "silences")

    def __init__(self) -> None:
        self.silences = 0
        self.shut_until = 0.0
        self.probing = False

    def admits(self, now: float) -> bool:
        if self.silences < _SILENCES:
            return True
        if self.probing or now < self.shut_until:
            return False
        self.probing = True
        return True

    def heard(self) -> None:
        self.silences = 0
        self.probing = False

    def silent(self, now: float) -> None:
        self.silences += 1
        self.probing = False
        self.shut_until = now + _PROBE_SECONDS


class CeleryRouting:
    """Asks routing workers for providers.

    Safe to use from several threads and event loops, and across a fork. Nothing is connected before the
    first `decide` (or `start`).

    Args:
        settings: Where broker and Redis are, and how long to wait.
        rng: Source of the jitter between retries.
    """

    def __init__(self, settings: CelerySettings, *, rng: random.Random | None = None) -> None:
        self.settings = settings
        self._rng = rng or random.Random()
        self._lock = threading.Lock()
        self._reset()
        _everyone.add(self)

    def _reset(self) -> None:
        self._main: Link | None = None
        self._background: Link | None = None
        self._thread: threading.Thread | None = None
        self._reader: QueueReader | None = None
        self._followed: weakref.WeakSet[Engine] = weakref.WeakSet()
        self._gates: dict[str, _Gate] = {}
        self._announced: dict[tuple[str, str], float] = {}
        self._resting: dict[str, deque[asyncio.Future[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts: Counter[str] = Counter()
        self._complaints: dict[str, tuple[float, int]] = {}
        self._closed = False

    # -- the public calls --------------------------------------------------------------------------

    async def decide(
        self,
        model: str,
        candidates: Sequence[Candidate],
        *,
        deadline: float | None = None,
        priority: int = 0,
        strategy: str | None = None,
    ) -> Grant | None:
        """The provider that takes this request, chosen by a routing worker.

        Args:
            model: The model's id; names the queue.
            candidates: The providers that may serve it.
            deadline: Seconds without a sign of a worker until None is returned; the settings' by default.
            priority: 0 (lowest) to the settings' `max_priority`.
            strategy: How providers are compared; the settings' by default.

        Returns:
            The provider's id, a `str` with its reservation behind it: call `release` when the request is
            over. None: pick locally (workers, broker or Redis are away or slow).

        Raises:
            ModelBusyError: All providers were at their limit, at every retry (503, with `retry_after`).
            RoutingTimeoutError: They still were when the soft time limit was over (504).
        """
        if not candidates or self._closed:
            return None
        link = self._link_here()
        work = self._decide(link, model, candidates, deadline, priority, strategy)
        if link.loop is asyncio.get_running_loop():
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, link.loop))

    def decide_sync(
        self,
        model: str,
        candidates: Sequence[Candidate],
        *,
        deadline: float | None = None,
        priority: int = 0,
        strategy: str | None = None,
    ) -> Grant | None:
        """`decide` for synchronous callers; blocks this thread."""
        if not candidates or self._closed:
            return None
        link = self._background_link()
        work = self._decide(link, model, candidates, deadline, priority, strategy)
        return asyncio.run_coroutine_threadsafe(work, link.loop).result()

    def may_block(self) -> bool:
        """Whether `decide_sync` here holds up nobody else: False on the event loop that asynchronous calls use."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return True
        return self._main is None or self._main.loop is not loop

    async def start(self, timeout: float = 5.0) -> bool:
        """Connect now instead of at the first request; True if broker and Redis answered in time (seconds)."""
        link = self._link_here()
        return await self._on(link, link.ready(timeout))

    async def note_local(self, model: str, provider: str) -> Grant:
        """Make a request that was picked locally visible to the workers; release the grant at its end."""
        link = self._link_here()
        rid = link.next_id()
        await self._on(link, link.hold_local(rid, provider))
        return self._grant(link, model, rid, provider)

    async def observe_queue(self, provider: str, waiting: float) -> None:
        """Tell the workers how many requests wait in a provider's own queue (for vLLM: num_requests_waiting)."""
        link = self._link_here()
        await self._on(link, link.observe([(provider, waiting)]))

    def follow(self, engine: Engine) -> None:
        """Read the queues of the servers behind an engine's deployments by ourselves (vLLM and TEI show theirs).

        Every `queue_interval` seconds, by one process of the fleet. An engine that is followed already costs nothing.
        """
        reader = self._reader
        if reader is None:
            with self._lock:
                if self._reader is None:
                    self._reader = QueueReader(self)
                reader = self._reader
        if engine not in self._followed:
            self._followed.add(engine)
            reader.follow(engine)

    def link_in_use(self) -> Link | None:
        """A link that exists already, None before the first request."""
        return self._main or self._background

    def stats(self) -> dict[str, Any]:
        """Counts of this process: grants, local picks by reason, retries, late answers, requests under way."""
        links = [link for link in (self._main, self._background) if link is not None]
        return {
            "up": any(link.up for link in links),
            "granted": self._counts["granted"],
            "local": {name[6:]: count for name, count in sorted(self._counts.items()) if name.startswith("local:")},
            "retries": self._counts["retries"],
            "busy": self._counts["busy"],
            "timeouts": self._counts["timeouts"],
            "late": self._counts["late"],
            "held": sum(len(link.held) for link in links),
        }

    async def close(self) -> None:
        """End the links; requests under way keep their providers, their reservations lapse."""
        self._closed = True
        if self._reader is not None:
            self._reader.stop()
        main, background, thread = self._main, self._background, self._thread
        self._main = self._background = self._thread = None
        if main is not None and main.loop is asyncio.get_running_loop():
            await main.close()
        if background is not None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(background.close(), background.loop))
            background.loop.call_soon_threadsafe(background.loop.stop)
            if thread is not None:
                thread.join(5)

    # -- one decision, on the link's loop ------------------------------------------------------------

    async def _decide(
        self,
        link: Link,
        model: str,
        candidates: Sequence[Candidate],
        deadline: float | None,
        priority: int,
        strategy: str | None,
    ) -> Grant | None:
        settings, loop = self.settings, link.loop
        silence = settings.deadline if deadline is None else deadline
        if not link.up and not (link.fresh and await link.ready(silence)):
            link.fresh = False
            self._local("broker" if link.redis_up else "redis")
            return None
        link.fresh = False
        gate = self._gates.get(model)
        if gate is None:
            gate = self._gates.setdefault(model, _Gate())
        if not gate.admits(loop.time()):
            self._local("paused")
            return None
        self._announce(link, model)
        started = loop.time()
        how = settings.canonical(strategy)
        retries = 0
        base = link.next_id()
        while True:
            # Each try has an id of its own: a redelivered copy of an earlier one is then a stray that is dropped.
            rid = f"{base}.{retries}"
            request = request_of(rid, link.reply_key, model, how, candidates)
            try:
                answer = await self._ask(link, request, priority, silence)
            except asyncio.CancelledError:
                gate.probing = False
                self._give_up(link, rid)
                raise
            if isinstance(answer, str):
                self._give_up(link, rid)
                if answer == "deadline":
                    gate.silent(loop.time())
                else:
                    gate.probing = False
                self._local(answer)
                return None
            gate.heard()
            if answer.provider is not None:
                self._counts["granted"] += 1
                return self._grant(link, model, rid, answer.provider)
            pause = self._pause(retries, answer.wait)
            if retries >= settings.max_retries:
                self._counts["busy"] += 1
                raise ModelBusyError(BUSY, retry_after=max(pause, 1.0))
            left = settings.soft_time_limit - (loop.time() - started)
            if pause >= left:
                await self._rest(loop, model, max(left, 0.0))
                self._counts["timeouts"] += 1
                raise RoutingTimeoutError(
                    f"no provider of {model!r} became free within {settings.soft_time_limit:g} s",
                    retry_after=max(pause, 1.0),
                )
            await self._rest(loop, model, pause)
            retries += 1
            self._counts["retries"] += 1

    async def _ask(self, link: Link, request: dict[str, str], priority: int, silence: float) -> Reply | str:
        """Publish and wait for the answer; a string says why there is none."""
        rid = request["id"]
        future: asyncio.Future[Reply | str] = link.loop.create_future()
        link.waiting[rid] = future
        link.ask(request, priority, silence, partial(_resolve, future))
        timer = link.loop.call_later(silence, _resolve, future, "deadline")
        try:
            return await future
        finally:
            timer.cancel()
            link.waiting.pop(rid, None)
            link.landed(rid)

    def _on_reply(self, link: Link, reply: Reply) -> None:
        future = link.waiting.get(reply.rid)
        if future is not None and not future.done():
            if reply.provider is not None:
                link.held[reply.rid] = reply.provider
            future.set_result(reply)
        elif reply.provider is not None and reply.rid not in link.held:
            # Nobody waits for it any more: what it reserved is given back.
            self._counts["late"] += 1
            link.settle((reply.rid, reply.provider, *_DROP))

    def _give_up(self, link: Link, rid: str) -> None:
        link.held.pop(rid, None)
        link.settle((rid, "", *_DROP))

    def _pause(self, retries: int, hint: float) -> float:
        settings = self.settings
        longest = settings.retry_countdown_max
        pause = min(settings.retry_countdown * settings.retry_backoff**retries, longest)
        if hint > 0:
            # The worker knows how fast requests end: no use to ask before, nor to wait much longer.
            pause = min(max(hint, pause / 4), longest, pause * 2)
        return pause * self._rng.uniform(0.75, 1.25)

    async def _rest(self, loop: asyncio.AbstractEventLoop, model: str, seconds: float) -> None:
        """Wait for the next try, or until a request of this process that used the model is over."""
        future: asyncio.Future[None] = loop.create_future()
        queue = self._resting.setdefault(model, deque())
        queue.append(future)
        timer = loop.call_later(seconds, _resolve, future, None)
        try:
            await future
        finally:
            timer.cancel()
            if future in queue:
                queue.remove(future)

    def _freed(self, link: Link, model: str) -> None:
        queue = self._resting.get(model)
        while queue:
            future = queue.popleft()
            if future.get_loop() is not link.loop:
                future.get_loop().call_soon_threadsafe(_resolve, future, None)
                return
            if not future.done():
                future.set_result(None)
                return

    # -- grants ------------------------------------------------------------------------------------

    def _grant(self, link: Link, model: str, rid: str, provider: str) -> Grant:
        return Grant(provider, rid=rid, model=model, release=partial(self._release, link))

    def _release(self, link: Link, grant: Grant, outcome: str, times: tuple[float, float, float]) -> None:
        try:
            link.loop.call_soon_threadsafe(self._released, link, grant, outcome, times)
        except RuntimeError:
            return  # the loop is closed: the reservation lapses

    def _released(self, link: Link, grant: Grant, outcome: str, times: tuple[float, float, float]) -> None:
        link.held.pop(grant.rid, None)
        link.settle((grant.rid, str(grant), outcome, *times), partial(self._freed, link, grant.model))

    # -- links ---------------------------------------------------------------------------------------

    def _link_here(self) -> Link:
        if threading.current_thread() is not threading.main_thread():
            return self._background_link()
        loop = asyncio.get_running_loop()
        link = self._main
        if link is None or link.loop is not loop:
            link = self._main = Link(self.settings, self._on_reply, self._complain)
        return link

    def _background_link(self) -> Link:
        link = self._background
        if link is not None:
            return link
        with self._lock:
            if self._background is None:
                made: list[Link] = []
                ready = threading.Event()
                thread = threading.Thread(
                    target=self._run_background, args=(made, ready), name="fast_router celery", daemon=True
                )
                thread.start()
                ready.wait()
                self._background, self._thread = made[0], thread
            return self._background

    def _run_background(self, made: list[Link], ready: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)

        async def make() -> None:
            made.append(Link(self.settings, self._on_reply, self._complain))

        loop.run_until_complete(make())
        ready.set()
        try:
            loop.run_forever()
        finally:
            loop.close()

    async def _on(self, link: Link, work: Coroutine[Any, Any, T]) -> T:
        if link.loop is asyncio.get_running_loop():
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, link.loop))

    def _announce(self, link: Link, model: str) -> None:
        now = link.loop.time()
        key = (link.process, model)
        if now - self._announced.get(key, -_ANNOUNCE_SECONDS) >= _ANNOUNCE_SECONDS:
            self._announced[key] = now
            task = link.loop.create_task(link.announce(model))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # -- what is told ----------------------------------------------------------------------------------

    def _local(self, reason: str) -> None:
        self._counts[f"local:{reason}"] += 1
        what = _REASONS[reason]
        if reason in ("redis", "broker") and (assumed := self.settings.assumed()):
            what = f"{what}; {assumed}"
        self._complain(what)

    def _complain(self, what: str) -> None:
        now = time.monotonic()
        last, hidden = self._complaints.get(what, (-_COMPLAIN_SECONDS, 0))
        if now - last < _COMPLAIN_SECONDS:
            self._complaints[what] = (last, hidden + 1)
            return
        self._complaints[what] = (now, 0)
        more = f" ({hidden} times more since the last such line)" if hidden else ""
        logger.warning("Celery routing: %s%s", what, more)


_REASONS = {
    "redis": "Redis is away, requests are picked locally",
    "broker": "the broker is away, requests are picked locally",
    "deadline": "no worker answered within the deadline, the request is picked locally",
    "paused": "workers were silent, requests are picked locally until one answers a probe",
    "full": "a model's queue is full, requests are picked locally",
}


def _resolve(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


_everyone: weakref.WeakSet[CeleryRouting] = weakref.WeakSet()
# A child must neither use nor close what it shares with its parent: the sockets are kept, untouched.
_inherited: list[object] = []


def _after_fork() -> None:
    for routing in _everyone:
        _inherited.append((routing._main, routing._background, routing._thread, routing._tasks))
        routing._lock = threading.Lock()
        routing._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
