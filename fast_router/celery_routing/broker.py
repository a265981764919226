"""Publishing a routing task, to RabbitMQ or to Redis, and knowing whether the broker is there.

Both keep their own connection alive in the background and never wait for it on a request: a publish
while the broker is away fails at once, and the caller picks for itself.

RabbitMQ is spoken to with py-amqp, the library below Celery, driven by the event loop: a publish is one
write, and confirmations are read when they arrive. (An asyncio client spends four times the CPU on it.)
What blocks - connecting, declaring a queue - runs in a thread, on a connection that nobody else uses.

Messages are transient on purpose: none of them is of any use after the deadline of its request, which is
shorter than a broker's restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from amqp import Message
from amqp.exceptions import AMQPError, PreconditionFailed
from kombu import Connection
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from fast_router.celery_routing.envelope import amqp_headers, queue_name, redis_envelope, redis_queue, redis_queues
from fast_router.celery_routing.settings import CelerySettings

__all__ = ["AmqpBroker", "Broker", "Failed", "RedisBroker", "make_broker", "redis_client"]

logger = logging.getLogger("fast_router.celery")

_LONGEST_PAUSE = 2.0
_HEARTBEAT = 10
# A write that the broker does not take for this long ends the connection; it would hold up the event loop.
_WRITE_SECONDS = 0.2
# A list in Redis that no worker reads outlives its last task by this many ms.
_KEEP_MS = 60_000

Failed = Callable[[str], None]
"""Told that a task was not taken: `broker` (away) or `full` (the queue has no room)."""


class Broker(Protocol):
    """Where routing tasks are published."""

    up: bool

    async def run(self) -> None:
        """Keep the connection alive until cancelled."""

    def publish(self, model: str, rid: str, payload: bytes, priority: int, expires: float, failed: Failed) -> None:
        """Hand one task to the model's queue; it is void after `expires` seconds.

        Returns at once. `failed` is called, now or later, if the broker did not take it.
        """


def redis_client(url: str, settings: CelerySettings, *, timeout: float | None = 0.5) -> Redis:
    """A Redis client that fails soon instead of retrying for seconds, as redis-py does by default."""
    return Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=settings.connect_timeout,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1),
    )


class AmqpBroker:
    """RabbitMQ through one confirming channel. Use it from its event loop only."""

    def __init__(self, settings: CelerySettings) -> None:
        self.settings = settings
        self.up = False
        self._loop = asyncio.get_running_loop()
        self._connection: Any = None
        self._channel: Any = None
        self._lost: asyncio.Future[None] | None = None
        self._tag = 0
        self._unconfirmed: dict[int, Failed] = {}
        self._declared: set[str] = set()
        # What waits for its queue to be declared.
        self._undeclared: dict[str, list[Callable[[], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Connect, stay until the connection ends, connect again with a growing pause."""
        pause = 0.05
        while True:
            try:
                connection, channel = await asyncio.to_thread(self._connect)
            except (OSError, AMQPError):
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = 0.05
            try:
                await self._serve(connection, channel)
            except asyncio.CancelledError:
                with contextlib.suppress(OSError, AMQPError):
                    await asyncio.to_thread(connection.close)
                raise
            finally:
                # Closes the socket without asking; after a polite close there is none.
                connection.collect()

    def _connect(self) -> tuple[Any, Any]:
        connection = self._open()
        channel = connection.channel()
        channel.confirm_select()
        return connection, channel

    def _open(self) -> Any:
        return Connection(
            self.settings.broker_url,
            connect_timeout=self.settings.connect_timeout,
            heartbeat=_HEARTBEAT,
            transport_options={
                "read_timeout": self.settings.connect_timeout,
                "write_timeout": _WRITE_SECONDS,
                "on_blocked": self._blocked,
                "on_unblocked": self._unblocked,
            },
        ).connect()

    async def _serve(self, connection: Any, channel: Any) -> None:
        lost = self._lost = self._loop.create_future()
        events = channel.events
        events["basic_ack"].add(self._acked)
        events["basic_nack"].add(self._nacked)
        events["basic_return"].add(self._returned)
        self._connection, self._channel, self._tag = connection, channel, 0
        descriptor = connection.sock.fileno()
        self._loop.add_reader(descriptor, self._readable)
        self.up = True
        try:
            while not lost.done():
                await asyncio.wait([lost], timeout=_HEARTBEAT / 4)
                if not lost.done():
                    connection.heartbeat_tick()
        except (OSError, AMQPError):
            pass  # no heartbeat from the other side, or it does not take ours
        finally:
            self.up = False
            self._loop.remove_reader(descriptor)
            self._connection = self._channel = None
            unconfirmed, self._unconfirmed = self._unconfirmed, {}
            self._declared.clear()
            for failed in unconfirmed.values():
                failed("broker")

    def publish(self, model: str, rid: str, payload: bytes, priority: int, expires: float, failed: Failed) -> None:
        """See `Broker.publish`."""
        channel = self._channel
        if channel is None or not self.up:
            failed("broker")
            return
        queue = queue_name(self.settings, model)
        if queue not in self._declared:
            self._declare_first(queue, lambda: self.publish(model, rid, payload, priority, expires, failed), failed)
            return
        message = Message(
            payload,
            application_headers=amqp_headers(rid),
            content_type="application/json",
            content_encoding="utf-8",
            correlation_id=rid,
            priority=min(max(priority, 0), self.settings.max_priority),
            expiration=str(max(int(expires * 1000), 1)),
            delivery_mode=1,
        )
        self._tag += 1
        self._unconfirmed[self._tag] = failed
        try:
            channel.basic_publish(message, exchange="", routing_key=queue, mandatory=True)
        except (OSError, AMQPError, AttributeError):
            # py-amqp lets go of its transport when a write fails, and of ours with it: hence AttributeError.
            self._gone()

    def _readable(self) -> None:
        connection = self._connection
        try:
            while True:
                connection.drain_events(timeout=0)
        except TimeoutError:
            return  # read dry
        except (OSError, AMQPError, AttributeError):
            self._gone()

    def _gone(self) -> None:
        self.up = False
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def _acked(self, tag: int, multiple: bool) -> None:
        self._confirmed(tag, multiple)

    def _nacked(self, tag: int, multiple: bool) -> None:
        for failed in self._confirmed(tag, multiple):
            failed("full")

    def _confirmed(self, tag: int, multiple: bool) -> list[Failed]:
        unconfirmed = self._unconfirmed
        if not multiple:
            found = unconfirmed.pop(tag, None)
            return [] if found is None else [found]
        # Tags were added in order, and so they are taken out.
        taken = list(itertools.takewhile(lambda known: known <= tag, unconfirmed))
        return [unconfirmed.pop(known) for known in taken]

    def _returned(self, _error: Exception, _exchange: str, queue: str, message: Any) -> None:
        # The queue expired since it was declared. The next request declares it again; this one, whose
        # confirmation is still to come, has a deadline.
        del message
        self._declared.discard(queue)

    def _blocked(self, reason: str) -> None:
        logger.warning("Celery routing: RabbitMQ takes no messages now (%s), requests are picked locally", reason)
        self.up = False

    def _unblocked(self) -> None:
        self.up = self._channel is not None

    def _declare_first(self, queue: str, then: Callable[[], None], failed: Failed) -> None:
        waiting = self._undeclared.get(queue)
        if waiting is not None:
            waiting.append(then)
            return
        self._undeclared[queue] = [then]

        async def declare() -> None:
            try:
                await asyncio.to_thread(self._declare, queue)
            except (OSError, AMQPError):
                failed("broker")  # those that wait with it have their deadline
                self._undeclared.pop(queue, None)
                return
            self._declared.add(queue)
            for call in self._undeclared.pop(queue, []):
                call()

        task = self._loop.create_task(declare())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _declare(self, queue: str) -> None:
        connection = self._open()
        try:
            # Refused: there already, with other arguments (another release or setting). Use it as it is.
            with contextlib.suppress(PreconditionFailed):
                connection.channel().queue_declare(
                    queue, durable=True, auto_delete=False, arguments=self.settings.queue_arguments()
                )
        finally:
            with contextlib.suppress(OSError, AMQPError):
                connection.close()


# One call: refuse when full, push, and let the list expire when nobody reads it.
_PUSH = """
local waiting = 0
for i = 1, #KEYS do waiting = waiting + redis.call('LLEN', KEYS[i]) end
if waiting >= tonumber(ARGV[2]) then return 0 end
redis.call('LPUSH', ARGV[4], ARGV[1])
redis.call('PEXPIRE', ARGV[4], ARGV[3])
return 1
"""


class RedisBroker:
    """kombu's queues in Redis. Use it from its event loop only.

    The Redis transport has no expiry of single messages: a request that gave up leaves a mark instead.
    """

    def __init__(self, settings: CelerySettings) -> None:
        self.settings = settings
        self.up = False
        self._loop = asyncio.get_running_loop()
        self._client = redis_client(settings.broker_url, settings)
        self._push = self._client.register_script(_PUSH)
        self._numbers = itertools.count()
        self._prefix = f"{time.time_ns():x}"
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Ask now and then whether the server is there."""
        pause = 0.05
        try:
            while True:
                try:
                    await self._client.ping()
                    self.up, pause = True, 1.0
                except (RedisError, OSError, asyncio.TimeoutError):
                    self.up, pause = False, min(pause * 2, 0.5)
                await asyncio.sleep(pause)
        finally:
            self.up = False
            with contextlib.suppress(RedisError, OSError):
                await self._client.aclose()

    def publish(self, model: str, rid: str, payload: bytes, priority: int, expires: float, failed: Failed) -> None:
        """See `Broker.publish`."""
        task = self._loop.create_task(self._publish(model, rid, payload, priority, expires, failed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _publish(
        self, model: str, rid: str, payload: bytes, priority: int, expires: float, failed: Failed
    ) -> None:
        queue = queue_name(self.settings, model)
        target = redis_queue(queue, priority, self.settings.max_priority)
        envelope = redis_envelope(rid, f"{rid}.{self._prefix}.{next(self._numbers)}", queue, payload)
        ttl = int(expires * 1000) + _KEEP_MS
        try:
            room = await self._push(
                keys=redis_queues(queue), args=[envelope, self.settings.max_queue_length, ttl, target]
            )
        except (RedisError, OSError, asyncio.TimeoutError):
            self.up = False
            failed("broker")
        else:
            if not room:
                failed("full")


def make_broker(settings: CelerySettings) -> Broker:
    """The broker that the settings name."""
    return RedisBroker(settings) if settings.redis_broker else AmqpBroker(settings)
