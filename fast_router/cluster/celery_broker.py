"""Publishing a routing task, to RabbitMQ or to Redis, and knowing whether the broker is there.

Both keep their own connection alive in the background and never wait for it on a request: a publish
while the broker is away fails at once with `BrokerAwayError`, and the caller picks for itself.

Messages are transient on purpose: none of them is of any use after the deadline of its request, which is
shorter than a broker's restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import Protocol

import aio_pika
import aiormq.exceptions
from aio_pika.abc import AbstractChannel
from pamqp.commands import Basic
from redis.asyncio import Redis
from redis.asyncio.client import Redis as RedisClient
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from fast_router.cluster.celery_settings import CelerySettings
from fast_router.cluster.celery_wire import (
    amqp_headers,
    queue_name,
    redis_envelope,
    redis_queue,
    redis_queues,
)

__all__ = ["AmqpBroker", "Broker", "BrokerAwayError", "QueueFullError", "RedisBroker", "make_broker", "redis_client"]

_LONGEST_PAUSE = 2.0

# A list in Redis that no worker reads outlives its last task by this many ms.
_KEEP_MS = 60_000


class BrokerAwayError(Exception):
    """The broker cannot take the task now."""


class QueueFullError(Exception):
    """The model's queue holds as many tasks as it may."""


class Broker(Protocol):
    """Where routing tasks are published."""

    up: bool

    async def run(self) -> None:
        """Keep the connection alive until cancelled."""

    async def publish(self, model: str, rid: str, payload: bytes, priority: int, expires: float) -> None:
        """Hand one task to the model's queue; it is void after `expires` seconds.

        Raises:
            BrokerAwayError: There is no connection, or it broke.
            QueueFullError: The queue has no room.
        """


def redis_client(url: str, settings: CelerySettings, *, timeout: float | None = 0.5) -> RedisClient:
    """A Redis client that fails soon instead of retrying for seconds, as redis-py does by default."""
    return Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=settings.connect_timeout,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1),
    )


class AmqpBroker:
    """RabbitMQ through one confirming channel."""

    def __init__(self, settings: CelerySettings) -> None:
        self.settings = settings
        self.up = False
        self._channel: AbstractChannel | None = None
        self._declared: set[str] = set()
        self._declaring = asyncio.Lock()

    async def run(self) -> None:
        """Connect, stay until the connection ends, connect again with a growing pause."""
        pause = 0.05
        while True:
            try:
                connection = await aio_pika.connect(
                    self.settings.broker_url, timeout=self.settings.connect_timeout, heartbeat=10
                )
            except (OSError, aiormq.exceptions.AMQPError, asyncio.TimeoutError):
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            try:
                ended = asyncio.Event()
                connection.close_callbacks.add(lambda *_, ended=ended: ended.set())
                await self._open(connection)
                pause = 0.05
                self.up = True
                await ended.wait()
            except (OSError, aiormq.exceptions.AMQPError, asyncio.TimeoutError):
                await asyncio.sleep(pause)
            finally:
                self.up = False
                self._channel = None
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(connection.close(), 1.0)

    async def _open(self, connection: aio_pika.abc.AbstractConnection) -> None:
        self._declared.clear()
        self._channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        self._connection = connection

    async def publish(self, model: str, rid: str, payload: bytes, priority: int, expires: float) -> None:
        """See `Broker.publish`."""
        queue = queue_name(self.settings, model)
        try:
            if queue not in self._declared:
                await self._declare(queue)
            channel = self._channel
            if channel is None:
                raise BrokerAwayError("not connected")
            message = aio_pika.Message(
                payload,
                headers=amqp_headers(rid),
                content_type="application/json",
                content_encoding="utf-8",
                correlation_id=rid,
                priority=min(max(priority, 0), self.settings.max_priority),
                expiration=expires,
                delivery_mode=aio_pika.DeliveryMode.NOT_PERSISTENT,
            )
            await channel.default_exchange.publish(message, queue, mandatory=True)
        except aio_pika.exceptions.DeliveryError as error:
            if isinstance(error.frame, Basic.Nack | Basic.Reject):
                raise QueueFullError(queue) from None
            # Returned: the queue expired since we declared it. The next request declares it again.
            self._declared.discard(queue)
            raise BrokerAwayError("queue is gone") from None
        except (OSError, aiormq.exceptions.AMQPError, asyncio.InvalidStateError, RuntimeError) as error:
            raise BrokerAwayError(type(error).__name__) from None

    async def _declare(self, queue: str) -> None:
        # On a channel of its own: a refusal closes the channel it was asked on.
        async with self._declaring:
            if queue in self._declared or self._channel is None:
                return
            async with self._connection.channel() as channel:
                # Refused: there already, with other arguments (another release or setting). Use it as it is.
                with contextlib.suppress(aiormq.exceptions.ChannelPreconditionFailed):
                    await channel.declare_queue(queue, durable=True, arguments=self.settings.queue_arguments())
            self._declared.add(queue)


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
    """kombu's queues in Redis."""

    def __init__(self, settings: CelerySettings) -> None:
        self.settings = settings
        self.up = False
        self._client = redis_client(settings.broker_url, settings)
        self._push = self._client.register_script(_PUSH)
        self._tags = itertools.count()
        self._tag = f"{time.time_ns():x}"

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
            with contextlib.suppress(Exception):
                await self._client.aclose()

    async def publish(self, model: str, rid: str, payload: bytes, priority: int, expires: float) -> None:
        """See `Broker.publish`. The Redis transport has no expiry: a request that gave up leaves a mark instead."""
        queue = queue_name(self.settings, model)
        target = redis_queue(queue, priority, self.settings.max_priority)
        envelope = redis_envelope(rid, f"{rid}.{self._tag}.{next(self._tags)}", queue, payload)
        ttl = int(expires * 1000) + _KEEP_MS
        try:
            room = await self._push(
                keys=redis_queues(queue), args=[envelope, self.settings.max_queue_length, ttl, target]
            )
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            self.up = False
            raise BrokerAwayError(type(error).__name__) from None
        if not room:
            raise QueueFullError(queue)


def make_broker(settings: CelerySettings) -> Broker:
    """The broker that the settings name."""
    return RedisBroker(settings) if settings.redis_broker else AmqpBroker(settings)
