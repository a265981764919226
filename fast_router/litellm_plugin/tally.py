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

from fast_router.engine.histogram import Histogram

__all__ = ["LOGGER", "Tally", "resting", "tally"]

LOGGER = logging.getLogger("fast_router")
_LOG_EVERY = 60.0
_REASONS = 64  # reasons are words of ours; a bound all the same, since a status must stay readable

_EVENTS = 1000


class Tally:
    """Counters of one process.

    Attributes:
        fast: Picks answered from a compiled plan.
        lane: Requests served without the walk of LiteLLM's Rust core.
    """

    __slots__ = (
        "_lock", "_logged", "delegated", "errors", "events", "fast", "filtered", "handed_over", "lane",
        "last_error", "left", "of_strategies", "waits",
    )  # fmt: skip

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Start from zero."""
        self.fast = 0
        # By reason: LiteLLM's filters ran and we chose among what they left; LiteLLM chose.
        self.filtered: Counter[str] = Counter()
        self.delegated: Counter[str] = Counter()
        # Whole requests on LiteLLM 1.110: served without its walk; of these, what its walk took over after all, and
        # what went to it at once, by reason.
        self.lane = 0
        self.handed_over: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self.errors = 0
        # Errors of strategies that users wrote, by strategy.
        self.of_strategies: Counter[str] = Counter()
        self.last_error: str | None = None
        # What befell requests: (event, model) → count. Rare things only, none of a pick.
        self.events: Counter[tuple[str, str]] = Counter()
        # How long requests waited for a deployment, by model.
        self.waits: dict[str, Histogram] = {}
        self._logged = -_LOG_EVERY

    def count(self, counter: Counter[str], reason: str) -> None:
        """Count one pick under its reason."""
        with self._lock:
            if reason not in counter and len(counter) >= _REASONS:
                reason = "other"
            counter[reason] += 1

    def event(self, name: str, model: object) -> None:
        """Count what befell a request, by one of the words that `observe.families` makes counters of."""
        key = (name, str(model)[:200])
        with self._lock:
            if key not in self.events and len(self.events) >= _EVENTS:
                key = (name, "other")  # names come from requests
            self.events[key] += 1

    def waited(self, model: str, seconds: float, *, served: bool) -> None:
        """Count a wait."""
        with self._lock:
            self.waits.setdefault(model, Histogram()).add(seconds)
            if not served:
                self.events["wait_in_vain", model] += 1

    def failed(self, error: BaseException, where: str) -> None:
        """Count an error of ours, or of a strategy of the user's; LiteLLM's own code has answered, or will."""
        theirs = _users_strategy(error)
        with self._lock:
            if theirs is not None:
                self.of_strategies[theirs] += 1
            else:
                self.errors += 1
                self.last_error = f"{type(error).__name__} in {where}"
            now = time.monotonic()
            if now - self._logged < _LOG_EVERY:
                return
            self._logged = now
        if theirs is not None:
            # Its author's to mend, who needs to see where; what it was told holds no prompt and no key.
            LOGGER.warning(
                "fast_router: your strategy %s failed in %s; LiteLLM's own code answers instead (%d times so far)",
                theirs,
                where,
                self.of_strategies[theirs],
                exc_info=error,
            )
            return
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
            handed_over, left = dict(self.handed_over), dict(self.left)
        return {
            "picks": {
                "fast": self.fast,
                "request_lane": self.lane,
                "filtered": sum(filtered.values()),
                "delegated": sum(delegated.values()),
                "filtered_reasons": filtered,
                "delegated_reasons": delegated,
            },
            "events": [
                {"event": event, "model": model, "count": count}
                for (event, model), count in self.events.most_common(500)
            ],
            "lane": {
                "requests": self.lane,
                "handed_over": sum(handed_over.values()),
                "left": sum(left.values()),
                "handed_over_reasons": handed_over,
                "left_reasons": left,
            },
            "errors": {"count": self.errors, "last": self.last_error, "of_your_strategies": dict(self.of_strategies)},
        }


def _users_strategy(error: BaseException) -> str | None:
    """The strategy that raised, named as its author wrote it, if it is none of ours."""
    strategies = sys.modules.get("fast_router.engine.strategies.base")
    at = error.__traceback__
    found = None
    while at is not None and strategies is not None:
        owner = at.tb_frame.f_locals.get("self")
        if isinstance(owner, strategies.Strategy):
            kind = type(owner)
            found = None if kind.__module__.startswith("fast_router.") else f"{kind.name!r} ({kind.__qualname__})"
        at = at.tb_next
    return found


tally = Tally()
"""The counters of this process."""


def resting() -> list[dict[str, Any]]:
    """Who rests or has yet to prove that it is back: model, server, id, why, since when, for how many seconds more."""
    # Not imported for the sake of a report.
    routers = sys.modules.get("fast_router.router")
    return [row for router in (routers.live_routers() if routers is not None else ()) for row in _away(router)]


def _away(router: Any) -> list[dict[str, Any]]:
    from fast_router.engine.deployment import RESTING  # noqa: PLC0415 - there are routers: it is loaded
    from fast_router.naming import name_of  # noqa: PLC0415

    engine, failover = router.engine, router.failover
    engine.settle()
    found = []
    for deployment in list(engine.deployments.values()):
        away = deployment.held & RESTING
        breaker = {} if failover is None else failover.describe(deployment.id)
        if breaker.get("state", "closed") == "closed":
            breaker = {}
            if not away:
                continue
        name = name_of(deployment, list(engine.deployments))
        why = breaker or {
            "state": "open",
            "reason": deployment.last_failure or "by order",
            "seconds_left": round(max(0.0, deployment.resting_until - engine.clock()), 3),
        }
        since = router.changes.since(deployment.id)
        found.append({"model": name.model, "server": name.server, "id": deployment.id, **why, "since": since})
    return found
