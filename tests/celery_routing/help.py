"""What the tests of Celery routing share: workers as processes, settings apart from each other, waiting."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace

from amqp import Message
from amqp.exceptions import NotFound
from kombu import Connection

from fast_router.celery_routing.envelope import Keys, amqp_headers, body, queue_name, request_of
from fast_router.celery_routing.routing import CeleryRouting
from fast_router.celery_routing.settings import Candidate, CelerySettings

THREE = [Candidate("one"), Candidate("two"), Candidate("three")]
_numbers = itertools.count()


def settings_for(amqp_url: str, redis_url: str, **options) -> CelerySettings:
    """Settings with queues and keys of their own, so that tests can share the servers."""
    name = f"t{os.getpid()}x{next(_numbers)}"
    given = {"deadline": 20.0, "queue_prefix": name, "key_prefix": name, **options}
    return CelerySettings(broker_url=amqp_url, redis_url=redis_url, **given)


class Worker:
    """`fast-router worker` as a process."""

    def __init__(self, settings: CelerySettings, *arguments: str, **environment: str) -> None:
        own = {
            "FAST_ROUTER_CELERY_QUEUE_PREFIX": settings.queue_prefix,
            "FAST_ROUTER_CELERY_KEY_PREFIX": settings.key_prefix,
            "FAST_ROUTER_CELERY_RESERVATION_TTL": str(settings.reservation_ttl),
            "PYTHONWARNINGS": "ignore",
        }
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from fast_router.cli.worker import worker; worker()",
                "--broker-url",
                settings.broker_url,
                "--redis-url",
                settings.redis_url,
                *arguments,
            ],
            env={**os.environ, **own, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def kill(self) -> None:
        children = self.children()
        self.process.kill()
        self.process.wait()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def children(self) -> list[int]:
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with contextlib.suppress(OSError), open(path) as file:  # noqa: PTH123
            return [int(word) for word in file.read().split()]
        return []


@contextlib.asynccontextmanager
async def routing_for(settings: CelerySettings, **options):
    """A started CeleryRouting, closed at the end."""
    routing = CeleryRouting(replace(settings, **options))
    try:
        assert await routing.start(20)
        yield routing
    finally:
        await routing.close()


def answers(settings: CelerySettings, name: str = "nobody") -> str:
    """A reply list that no process reads."""
    return Keys(settings).reply(name)


def publish_many(settings: CelerySettings, model: str, count: int, reply_to: str, prefix: str = "q") -> None:
    """Put tasks into a model's queue without anybody waiting for them."""
    connection = Connection(settings.broker_url).connect()
    try:
        channel = connection.channel()
        queue = queue_name(settings, model)
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=settings.queue_arguments())
        for number in range(count):
            rid = f"{prefix}{number}"
            message = Message(
                body([request_of(rid, reply_to, model, "score", THREE)]),
                application_headers=amqp_headers(rid),
                content_type="application/json",
                content_encoding="utf-8",
                delivery_mode=1,
            )
            channel.basic_publish(message, exchange="", routing_key=queue)
    finally:
        connection.close()


def queue_depth(settings: CelerySettings, model: str) -> int:
    """Tasks that no worker has taken yet."""
    connection = Connection(settings.broker_url).connect()
    try:
        return connection.channel().queue_declare(queue_name(settings, model), passive=True).message_count
    except NotFound:
        return 0
    finally:
        connection.close()
