"""The routing worker: a Celery worker whose one task is a routing decision.

The task is a single Lua call, so it is short, and running it twice is the same as running it once. The
worker's own settings are the ones that keep such tasks moving (see docs/celery.md): acknowledged late, one
at a time, JSON only, no results, no events.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import kombu
from celery import Celery, bootsteps
from celery.worker.consumer.tasks import Tasks
from kombu import Exchange, Queue
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from fast_router.celery_routing.envelope import MEMORY_MS, TASK, VISIBILITY, Keys, lua, queue_name
from fast_router.celery_routing.settings import CelerySettings, masked
from fast_router.celery_routing.worker.models import ModelWatch
from fast_router.celery_routing.worker.supervise import run_processes
from fast_router.errors import ConfigurationError

__all__ = ["POOLS", "check_pool", "create_app", "queue_for", "run_worker"]

logger = logging.getLogger("fast_router.celery.worker")

POOLS = ("inline", "prefork", "threads")

# How a task's messages are handled: here, or by Celery's pool.
_INLINE = "fast_router.celery_routing.worker.inline:strategy"
_HANDED_OVER = "celery.worker.strategy:default"

# From this kombu on, a thread that finishes a task wakes the event loop that must send its acknowledgement.
_THREADS_SINCE = (5, 7)

# A routing task takes about a millisecond. One that hangs longer (Redis frozen) frees its process.
_SOFT_LIMIT = 5
_HARD_LIMIT = 10
_LOOK_SECONDS = 1.0
_COMPLAIN_SECONDS = 60.0


def check_pool(pool: str, kombu_version: str = kombu.__version__) -> None:
    """Refuse a pool that stalls.

    With late acknowledgement and a prefetch of one, a pool whose tasks end on the event loop's own thread
    queues the acknowledgement and then sleeps until the next timer: 0 to 14 tasks a second under a backlog.

    Raises:
        ConfigurationError: The pool stalls with this version of kombu; the message names one that does not.
    """
    if pool in {"inline", "prefork"}:
        return
    if pool == "threads":
        release = tuple(int(part) for part in kombu_version.split(".")[:2] if part.isdigit())
        if release >= _THREADS_SINCE:
            return
        raise ConfigurationError(
            f"worker pool 'threads' stalls with kombu {kombu_version} when tasks are waiting; "
            "use --pool inline, or install kombu 5.7 or later"
        )
    raise ConfigurationError(
        f"worker pool {pool!r} stalls when tasks are waiting (each acknowledgement waits for a timer); "
        f"use one of: {', '.join(POOLS)}"
    )


def queue_for(settings: CelerySettings, model: str) -> Queue:
    """The queue of a model as Celery declares it; the API process declares the same."""
    name = queue_name(settings, model)
    return Queue(
        name,
        Exchange(settings.queue_prefix, type="direct"),
        routing_key=name,
        durable=True,
        queue_arguments=settings.queue_arguments(),
    )


class Decider:
    """Runs decisions on one Redis connection pool per process."""

    def __init__(self, settings: CelerySettings) -> None:
        self.settings = settings
        self._text = lua("decide")
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()
        self._prefix = Keys(settings).prefix
        self._replies = Keys(settings).reply("")
        self._pid = 0
        self._lock = threading.Lock()
        self._client: Redis | None = None
        self._rng = random.Random()
        self._complained = 0.0

    def __call__(self, requests: Sequence[dict[str, Any]]) -> str:
        """Decide requests and answer them, in one round trip; returns what became of the last one.

        Anything that goes wrong leaves a request unanswered, and its process then picks for itself.
        """
        try:
            if not all(request["reply_to"].startswith(self._replies) for request in requests):
                # Of a version with other keys, or of another key prefix: what is reserved here nobody would give back.
                self._complain("a task is of another version or key prefix")
                return "foreign"
            calls = self._calls(requests)
        except (KeyError, TypeError, AttributeError) as error:
            self._complain(f"a task is not one of ours ({type(error).__name__})")
            return "foreign"
        outcome = "nothing"
        try:
            for result in self._run(calls):
                if isinstance(result, Exception):
                    raise result
                outcome = str(result[-1][0], "ascii")
        except (RedisError, OSError) as error:
            self._complain(f"a decision failed at Redis ({type(error).__name__}): {error}")
            return "failed"
        return outcome

    def _calls(self, requests: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
        """The arguments of the script: one call for the requests of one process, and a task has one process's."""
        by_reply: dict[str, list[Any]] = {}
        for request in requests:
            by_reply.setdefault(request["reply_to"], []).extend(
                (request["id"], request["strategy"], request["candidates"])
            )
        ttl = int(self.settings.reservation_ttl * 1000)
        return [
            (
                reply_to,
                self._prefix,
                self._rng.getrandbits(31),
                ttl,
                max(MEMORY_MS, ttl * 2),
                int(self.settings.metrics_window * 1000),
                *words,
            )
            for reply_to, words in by_reply.items()
        ]

    def _run(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        client = self._client_here()
        for known in (True, False):
            pipeline = client.pipeline(transaction=False)
            for call in calls:
                pipeline.evalsha(self._sha, 1, *call)
            results: list[Any] = pipeline.execute(raise_on_error=False)
            if not known or not any(isinstance(result, NoScriptError) for result in results):
                break
            # A Redis that was restarted has forgotten the script. Deciding again what was decided is harmless.
            client.script_load(self._text)
        return results

    def _client_here(self) -> Redis:
        client = self._client
        if client is None or self._pid != os.getpid():
            # A pool process must not use its parent's connections.
            with self._lock:
                client = self._client
                if client is None or self._pid != os.getpid():
                    client = self._client = worker_redis(self.settings)
                    self._rng = random.Random()
                    self._pid = os.getpid()
        return client

    def _complain(self, what: str) -> None:
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_SECONDS or not self._complained:
            self._complained = now
            logger.warning("%s; requests are picked by their own process", what)


def worker_redis(settings: CelerySettings) -> Redis:
    """A Redis client that gives up soon: the request's deadline is running."""
    return Redis.from_url(
        settings.redis_url,
        socket_timeout=0.5,
        socket_connect_timeout=settings.connect_timeout,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1),
    )


class QueueWatch(bootsteps.StartStopStep):  # type: ignore[misc]
    """Consumes the queues of new models while the worker runs."""

    requires = (Tasks,)

    def __init__(self, consumer: Any, **_options: Any) -> None:
        self._timer: Any = None
        self._watch: ModelWatch = consumer.app.fast_router_models
        self._settings: CelerySettings = consumer.app.fast_router_settings

    def start(self, consumer: Any) -> None:
        """Look at once, then every second."""
        self._look(consumer)
        self._timer = consumer.timer.call_repeatedly(_LOOK_SECONDS, self._look, (consumer,))

    def stop(self, consumer: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, consumer: Any) -> None:
        wanted = {queue_name(self._settings, model): model for model in self._watch.names()}
        queues = consumer.app.amqp.queues
        consumed = set(queues.consume_from) - {self._settings.queue_prefix}
        for name in wanted.keys() - consumed:
            queues.add(_declarable(consumer, self._settings, wanted[name]))
            consumer.add_task_queue(name)
            logger.info("consuming %s", name)
        for name in consumed - wanted.keys():
            consumer.cancel_task_queue(name)
            logger.info("no longer consuming %s", name)


def _declarable(consumer: Any, settings: CelerySettings, model: str) -> Queue:
    """The model's queue, used as it is if the broker has it with other arguments."""
    queue = queue_for(settings, model)
    if settings.redis_broker:
        return queue
    # On a channel of its own: a refusal closes the channel it was asked on.
    channel = consumer.connection.channel()
    try:
        queue(channel).declare()
    except consumer.connection.channel_errors as error:
        logger.warning("queue %s exists with other arguments and is used as it is: %s", queue.name, error)
        queue.no_declare = True
    else:
        channel.close()
    return queue


def create_app(settings: CelerySettings, watch: ModelWatch | None = None, pool: str = "inline") -> Celery:
    """The Celery application of the routing worker.

    Args:
        settings: Broker, Redis, queues.
        watch: Which models' queues a worker of this application consumes; none without it.
        pool: Where decisions are made, one of `POOLS`.
    """
    app = Celery("fast_router", broker=settings.broker_url, set_as_current=False)
    transport: dict[str, Any] = {"confirm_publish": True}
    if settings.redis_broker:
        # A task of a dead worker comes back after this long: late, but then its request is over anyway.
        transport = {"visibility_timeout": VISIBILITY, "queue_order_strategy": "round_robin"}
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_default_delivery_mode="transient",
        broker_transport_options=transport,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=settings.connect_timeout,
        broker_heartbeat=10,
        task_create_missing_queues=False,
        # Celery consumes a default queue when it is given none. This one stays empty, and goes when unused.
        task_default_queue=settings.queue_prefix,
        task_queues=[
            Queue(
                settings.queue_prefix,
                Exchange(settings.queue_prefix, type="direct"),
                routing_key=settings.queue_prefix,
                queue_arguments={"x-expires": int(settings.queue_expires * 1000)},
            )
        ],
        task_default_exchange=settings.queue_prefix,
        task_default_routing_key=settings.queue_prefix,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        task_soft_time_limit=_SOFT_LIMIT,
        task_time_limit=_HARD_LIMIT,
        enable_utc=True,
    )
    decide = app.fast_router_decide = Decider(settings)

    @app.task(  # type: ignore[untyped-decorator]
        name=TASK,
        ignore_result=True,
        acks_late=True,
        reject_on_worker_lost=True,
        shared=False,
        Strategy=_INLINE if pool == "inline" else _HANDED_OVER,
    )
    def route(requests: list[dict[str, Any]]) -> str:
        return decide(requests)

    app.fast_router_settings = settings
    if watch is not None:
        app.fast_router_models = watch
        app.steps["consumer"].add(QueueWatch)
    return app


def run_worker(
    settings: CelerySettings,
    watch: ModelWatch,
    *,
    concurrency: int = 1,
    pool: str = "inline",
    loglevel: str = "WARNING",
    hostname: str | None = None,
) -> int:
    """Run a routing worker until it is told to stop (SIGTERM finishes what it has taken).

    Args:
        settings: Broker, Redis, queues.
        watch: Which models it serves.
        concurrency: Processes (threads with that pool).
        pool: One of `POOLS`.
        loglevel: Celery's log level.
        hostname: The worker's name; by default unique for the process.

    Returns:
        The exit code.

    Raises:
        ConfigurationError: The pool would stall.
    """
    check_pool(pool)
    logger.info("broker %s, Redis %s", masked(settings.broker_url), masked(settings.redis_url))

    def run() -> int:
        worker = create_app(settings, watch, pool).Worker(
            hostname=hostname or f"fast_router-{os.getpid()}@{socket.gethostname()}",
            concurrency=1 if pool == "inline" else concurrency,
            # Celery wants a pool in any case; nothing is ever handed to this one.
            pool="solo" if pool == "inline" else pool,
            loglevel=loglevel,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        worker.start()
        return int(worker.exitcode or 0)

    return run_processes(run, concurrency) if pool == "inline" and concurrency > 1 else run()
