"""What the plugin counts about itself: picks by lane, why picks were handed on, and errors of our own.

An error of ours never reaches a user's request; it is counted here and logged at most once a minute, without
values (an exception's text could hold a key or a prompt).
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter
from typing import Any

__all__ = ["LOGGER", "Tally", "resting", "tally"]

LOGGER = logging.getLogger("fast_router")
_LOG_EVERY = 60.0
_REASONS = 64  # reasons are words of ours; a bound all the same, since a status must stay readable


class Tally:
    """Counters of one process.

    Attributes:
        fast: Picks answered from a compiled plan.
    """

    __slots__ = ("_lock", "_logged", "delegated", "errors", "fast", "filtered", "last_error")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Start from zero."""
        self.fast = 0
        # By reason: LiteLLM's filters ran and we chose among what they left; LiteLLM chose.
        self.filtered: Counter[str] = Counter()
        self.delegated: Counter[str] = Counter()
        self.errors = 0
        self.last_error: str | None = None
        self._logged = -_LOG_EVERY

    def count(self, counter: Counter[str], reason: str) -> None:
        """Count one pick under its reason."""
        with self._lock:
            if reason not in counter and len(counter) >= _REASONS:
                reason = "other"
            counter[reason] += 1

    def failed(self, error: BaseException, where: str) -> None:
        """Count an error of ours; LiteLLM's own code has answered, or will."""
        with self._lock:
            self.errors += 1
            self.last_error = f"{type(error).__name__} in {where}"
            now = time.monotonic()
            if now - self._logged < _LOG_EVERY:
                return
            self._logged = now
        LOGGER.warning(
            "fast_router: %s in %s; LiteLLM's own code answers instead (%d such errors so far). "
            "Please report it; FAST_ROUTER_ENABLED=0 turns fast_router off.",
            type(error).__name__,
            where,
            self.errors,
        )
        LOGGER.debug("fast_router: the traceback", exc_info=error)

    def report(self) -> dict[str, Any]:
        """The counters, ready for JSON."""
        with self._lock:
            filtered, delegated = dict(self.filtered), dict(self.delegated)
        return {
            "picks": {
                "fast": self.fast,
                "filtered": sum(filtered.values()),
                "delegated": sum(delegated.values()),
                "filtered_reasons": filtered,
                "delegated_reasons": delegated,
            },
            "errors": {"count": self.errors, "last": self.last_error},
        }


tally = Tally()
"""The counters of this process."""


def resting() -> list[dict[str, Any]]:
    """Who rests or has yet to prove that it is back: model, deployment, why, and for how many seconds more."""
    # Not imported for the sake of a report.
    routers = sys.modules.get("fast_router.router")
    return [
        {"model": model, "id": row["id"], **_why(row)}
        for router in (routers.live_routers() if routers is not None else ())
        for model, group in router.stats()["models"].items()
        for row in group["deployments"]
        if row["resting"] or (row["breaker"] or {}).get("state", "closed") != "closed"
    ]


def _why(row: dict[str, Any]) -> dict[str, Any]:
    breaker = row["breaker"] or {}
    if breaker.get("state", "closed") != "closed":
        return dict(breaker)
    return {"state": "open", "reason": row["last_failure"] or "by order", "seconds_left": row["resting"]}
