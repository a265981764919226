"""`limits: strict` on a Router without Redis: its process counts alone, which is logged once and in the status."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fast_router.router import AdvancedRouter

__all__ = ["forget", "note", "statuses"]

_log = logging.getLogger("fast_router.cluster")

_PROBLEM: Final = (
    "limits: strict needs Redis: set redis_url (FAST_ROUTER_REDIS_URL) or give the Router its Redis; until then each "
    "process counts alone"
)


class _Alone:
    """The routers of this process that have served without the Redis that they need."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.routers: weakref.WeakSet[AdvancedRouter] = weakref.WeakSet()
        self.said = False


_alone = _Alone()


def note(router: AdvancedRouter) -> None:
    """A request was served by `router`, whose strict limits have no Redis."""
    with _alone.lock:
        _alone.routers.add(router)
        said, _alone.said = _alone.said, True
    if not said:
        _log.warning("%s", _PROBLEM)


def forget() -> None:
    """Strict limits are not asked for any more."""
    with _alone.lock:
        _alone.routers.clear()


def statuses(has_state: Callable[[AdvancedRouter], bool]) -> list[dict[str, Any]]:
    """One entry like those of `ClusterState.status()`, with a `problem`, while there is such a router.

    Args:
        has_state: Whether a router shares its state by now.
    """
    with _alone.lock:
        routers = list(_alone.routers)
    # Others have been given a Redis since.
    if all(map(has_state, routers)):
        return []
    return [
        {
            "redis": None,
            "connected": False,
            "away_since": None,
            "instance": None,
            "instances": {},
            "outside": 0,
            "limits": "local",
            "problem": _PROBLEM,
        }
    ]
