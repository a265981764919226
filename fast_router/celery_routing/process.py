"""The one Celery routing of a process, for everybody in it: LiteLLM's Routers and Albert's `ModelRouter`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fast_router import settings as options
from fast_router.celery_routing.config import load_settings
from fast_router.celery_routing.routing import CeleryRouting
from fast_router.celery_routing.settings import Candidate

if TYPE_CHECKING:
    from fast_router.engine import Deployment

__all__ = ["candidates_of", "process_routing", "status"]

_lock = threading.Lock()
_routing: CeleryRouting | None = None


def process_routing() -> CeleryRouting | None:
    """This process's Celery routing; None unless `FAST_ROUTER_ROUTING=celery` (or the setting) asks for it.

    Raises:
        ConfigurationError: It is asked for and its settings are wrong.
    """
    global _routing  # noqa: PLW0603 - one process, one routing
    if options.current().routing != "celery":
        return None
    if _routing is None:
        with _lock:
            if _routing is None:
                _routing = CeleryRouting(load_settings())
    return _routing


def status() -> dict[str, Any] | None:
    """What `fast_router.status()` shows as `celery`, see `CeleryRouting.stats`; None while Celery routing is off."""
    routing = _routing
    if routing is None or options.current().routing != "celery":
        return None
    stats = routing.stats()
    return {"connected": stats.pop("up"), "picks": stats.pop("granted"), "local_picks": stats.pop("local"), **stats}


def candidates_of(deployments: Sequence[Deployment]) -> list[Candidate]:
    """What the worker needs to know about deployments of the engine."""
    return [
        Candidate(
            d.id,
            weight=d.weight if d.weight and d.weight > 0 else 1.0,
            qos_metric=d.qos_metric if d.qos_metric in {"inflight", "ttft", "latency", "performance"} else None,  # type: ignore[arg-type]
            qos_limit=d.qos_limit,
            max_parallel=d.max_parallel,
        )
        for d in deployments
    ]
