"""Asking the servers themselves: is a resting one back, and how busy is a vLLM (both opt-in, over HTTP).

One daemon thread per Router with an event loop of its own, so that it works for synchronous programs too and never
competes with requests. A probe that succeeds ends the rest of a deployment that was unreachable, slow or broken; one
that fails prolongs it, so that no user's request has to find out. A spent quota or a refused key is not cured by a
healthy server, so those wait for their deadline.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from fast_router import settings
from fast_router.engine import outside
from fast_router.engine.failover.breaker import BreakerState
from fast_router.engine.failover.failures import FailureKind
from fast_router.litellm_plugin.tally import tally
from fast_router.server_metrics import load_from_metrics, server_of

if TYPE_CHECKING:
    import httpx

    from fast_router.engine import Deployment
    from fast_router.engine.failover.policy import FailoverPolicy

__all__ = ["HealthMonitor"]

_TIMEOUT = 2.0
_OK, _SERVER_ERROR = 200, 500
_AT_ONCE = 20
_CURED_BY_HEALTH = frozenset({FailureKind.CONNECTION, FailureKind.TIMEOUT, FailureKind.SERVER})


class Watched(Protocol):
    """A Router's failover, as its probes see it."""

    policy: FailoverPolicy


class HealthMonitor:
    """The probes of one Router.

    Args:
        failover: Whose deployments to watch; watched as long as somebody else holds it.
    """

    def __init__(self, failover: Watched) -> None:
        self._failover = weakref.ref(failover)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, if the options ask for it; a second call changes nothing."""
        options = settings.current()
        if self._thread is None and (options.health_interval or options.health_metrics_interval):
            self._thread = threading.Thread(target=self._run, name="fast_router health", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End after the round that is under way."""
        self._stop.set()

    def _run(self) -> None:
        try:
            asyncio.run(self._rounds())
        except Exception as error:  # noqa: BLE001 - a thread of ours ends without noise
            tally.failed(error, "health probes")

    async def _rounds(self) -> None:
        import httpx  # noqa: PLC0415

        loop = asyncio.get_running_loop()
        due = {"health": 0.0, "metrics": 0.0}
        async with httpx.AsyncClient(timeout=_TIMEOUT, limits=httpx.Limits(max_connections=_AT_ONCE)) as client:
            while not self._stop.is_set():
                failover = self._failover()
                if failover is None:
                    return
                options = settings.current()
                now = loop.time()
                intervals = {"health": options.health_interval, "metrics": options.health_metrics_interval}
                for what, interval in intervals.items():
                    if interval and now >= due[what]:
                        due[what] = now + interval
                        work = self.probe if what == "health" else self.read_loads
                        try:
                            await work(client, failover)
                        except Exception as error:  # noqa: BLE001 - the next round may do better
                            tally.failed(error, "health probes")
                del failover
                pauses = [due[what] - loop.time() for what, interval in intervals.items() if interval]
                await asyncio.sleep(min(1.0, max(0.01, min(pauses, default=1.0))))

    @staticmethod
    async def probe(client: httpx.AsyncClient, failover: Watched) -> None:
        """Ask the servers of resting deployments once: wake those that are well, leave the others where they are."""
        policy = failover.policy
        interval = settings.current().health_interval
        resting = [
            deployment
            for deployment in list(policy.engine.deployments.values())
            if policy.state(deployment.id) is not BreakerState.CLOSED
            and policy.breaker(deployment).last_failure in _CURED_BY_HEALTH
        ]
        path = settings.current().health_path

        async def ask(deployment: Deployment) -> None:
            server = server_of(deployment)
            if server is None:
                return
            key = (deployment.entry.get("litellm_params") or {}).get("api_key")
            headers = {"Authorization": f"Bearer {key}"} if isinstance(key, str) and key else {}
            status, _ = await _get(client, server + path, headers)
            if status == _OK:
                policy.wake(deployment, "its health check succeeded")
            elif interval and (not status or status >= _SERVER_ERROR):
                # Until the round after the next one: a server without this path answers 404 and proves nothing.
                policy.prolong(deployment, 2 * interval + _TIMEOUT)

        await asyncio.gather(*(ask(deployment) for deployment in resting))

    @staticmethod
    async def read_loads(client: httpx.AsyncClient, failover: Watched) -> None:
        """Read every server's metrics once, and tell the engine the load that is not its own."""
        engine = failover.policy.engine
        servers: dict[str, list[Deployment]] = {}
        for deployment in list(engine.deployments.values()):
            server = server_of(deployment)
            if server is not None:
                servers.setdefault(server, []).append(deployment)

        async def ask(server: str, deployments: list[Deployment]) -> None:
            status, body = await _get(client, server + "/metrics", {})
            load = load_from_metrics(body) if status == _OK else None
            if load is not None:
                ours = sum(deployment.in_flight for deployment in deployments)
                outside.set_loads(engine, {deployment.id: max(0.0, load - ours) for deployment in deployments})

        await asyncio.gather(*(ask(server, deployments) for server, deployments in servers.items()))


async def _get(client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> tuple[int, str]:
    """Give an answer's status and body; status 0 where there was none."""
    import httpx  # noqa: PLC0415

    try:
        answer: Any = await client.get(url, headers=headers)
    except httpx.InvalidURL:
        return 404, ""
    except httpx.HTTPError:
        return 0, ""
    return answer.status_code, answer.text
