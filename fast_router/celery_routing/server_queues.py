"""Reading the providers' own queues, so that workers route around one that grows.

A thread of its own looks at `/metrics` of the servers that have such a page (vLLM, TEI), whatever the program's
event loop does. The fleet shares the work: a server is read by one process in each interval.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import threading
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from redis.exceptions import RedisError

from fast_router import settings as options
from fast_router.server_metrics import server_of, waiting_in

if TYPE_CHECKING:
    import httpx

    from fast_router.celery_routing.link import Link
    from fast_router.celery_routing.settings import CelerySettings
    from fast_router.engine import Deployment, Engine

__all__ = ["QueueReader", "servers_of"]

logger = logging.getLogger("fast_router.celery")

T = TypeVar("T")

_TIMEOUT = 2.0
_AT_ONCE = 20
# A server whose metrics say nothing about a queue is left alone for this long.
_LEFT_ALONE_MS = 60_000
_WITH_METRICS = ("hosted_vllm/", "vllm/")
_KINDS_WITH_METRICS = ("vllm", "tei")


def servers_of(deployments: Sequence[Deployment]) -> dict[str, list[str]]:
    """The servers that show their queue: root URL → the ids of the deployments on it.

    A server counts if the model list says that it is a vLLM or TEI; with `health_metrics_interval` every server
    with an address of its own does, since all their metrics are read then anyway.
    """
    everybody = bool(options.current().health_metrics_interval)
    servers: dict[str, list[str]] = {}
    for deployment in deployments:
        if everybody or _shows_its_queue(deployment.entry):
            server = server_of(deployment)
            if server is not None:
                servers.setdefault(server, []).append(deployment.id)
    return servers


def _shows_its_queue(entry: Mapping[str, Any]) -> bool:
    params, info = entry.get("litellm_params"), entry.get("model_info")
    model = params.get("model") if isinstance(params, Mapping) else None
    if isinstance(model, str) and model.startswith(_WITH_METRICS):
        return True
    albert = info.get("albert") if isinstance(info, Mapping) else None
    return isinstance(albert, Mapping) and albert.get("provider_type") in _KINDS_WITH_METRICS


class Asks(Protocol):
    """The part of `CeleryRouting` that the reader needs."""

    settings: CelerySettings

    def link_in_use(self) -> Link | None:
        """The link over which workers can be told."""


class QueueReader:
    """Reads the queues of the servers behind some engines for as long as a routing uses them.

    Args:
        routing: Who tells the workers; not kept alive.
    """

    def __init__(self, routing: Asks) -> None:
        self._routing = weakref.ref(routing)
        self._interval = routing.settings.queue_interval
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, engine: Engine) -> None:
        """Read the servers of this engine's deployments too; begins at the first call."""
        with self._lock:
            self._engines.add(engine)
            if self._thread is None and self._interval > 0:
                self._thread = threading.Thread(target=self._run, name="fast_router celery queues", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End after the round that is under way."""
        self._stop.set()

    def _run(self) -> None:
        try:
            asyncio.run(self._rounds())
        except Exception as error:  # noqa: BLE001 - a thread of ours ends without noise; workers go on without it
            logger.warning("Celery routing: the providers' queues are no longer read (%s)", type(error).__name__)

    async def _rounds(self) -> None:
        import httpx  # noqa: PLC0415

        async with httpx.AsyncClient(timeout=_TIMEOUT, limits=httpx.Limits(max_connections=_AT_ONCE)) as client:
            while not self._stop.is_set():
                routing = self._routing()
                if routing is None:
                    return
                link = routing.link_in_use()
                del routing
                if link is not None and link.redis_up:
                    await self.look(client, link)
                await asyncio.sleep(self._interval)

    async def look(self, client: httpx.AsyncClient, link: Link) -> None:
        """One round: read the servers that nobody else has read in this interval, and tell the workers."""
        with self._lock:
            engines = list(self._engines)
        servers = servers_of([d for engine in engines for d in list(engine.deployments.values())])
        names = {_name(server): server for server in servers}
        # A little shorter than the interval: this process's own claim must not hold up its next round.
        mine = await _on(link, link.claim(list(names), int(self._interval * 900)))
        rows: list[tuple[str, float]] = []
        silent: list[str] = []

        async def ask(name: str) -> None:
            known, waiting = await _waiting_at(client, names[name])
            if waiting is not None:
                rows.extend((provider, waiting) for provider in servers[names[name]])
            elif known:
                silent.append(name)

        await asyncio.gather(*(ask(name) for name in mine or ()))
        if rows:
            await _on(link, link.observe(rows))
        if silent:
            await _on(link, link.claim(silent, _LEFT_ALONE_MS, again=True))


def _name(server: str) -> str:
    return hashlib.blake2b(server.encode(), digest_size=8).hexdigest()


async def _waiting_at(client: httpx.AsyncClient, server: str) -> tuple[bool, float | None]:
    """Whether the server answered, and what it said."""
    import httpx  # noqa: PLC0415

    try:
        answer = await client.get(f"{server}/metrics")
    except (httpx.HTTPError, httpx.InvalidURL):
        return False, None
    return True, waiting_in(answer.text) if answer.status_code == 200 else None


async def _on(link: Link, work: Coroutine[Any, Any, T]) -> T | None:
    """Do `work` on the link's loop; None if that is gone or does not get to it."""
    try:
        future = asyncio.run_coroutine_threadsafe(work, link.loop)
    except RuntimeError:
        work.close()
        return None
    with contextlib.suppress(asyncio.TimeoutError, RedisError, OSError):
        return await asyncio.wait_for(asyncio.wrap_future(future), _TIMEOUT)
    return None
