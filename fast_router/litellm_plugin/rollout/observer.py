"""What we would have done, while LiteLLM picks and we only watch (`rollout: observe`).

Our breaker hears how LiteLLM's calls end, so that it rests whom it would rest; nobody heeds that. A call that failed at
a deployment makes it one that has just failed for the next few seconds.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from fast_router.engine.deployment import FULL, QOS, RESTING, SPENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fast_router.engine import Deployment, Lease

__all__ = ["Observer"]

_JUST = 5.0  # seconds
_NO_ROOM = FULL | SPENT | QOS


class Observer:
    """Counts LiteLLM's picks by what speaks against them; safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._picks = self._same = self._compared = 0
        self._resting = self._full = self._just_failed = 0
        self._lanes: Counter[str] = Counter()
        self._failed: dict[str, float] = {}
        self._counters = self._counters_off = 0
        self._furthest_off = 0.0

    def picked(self, deployment: Deployment, lane: str, ours: str | None) -> None:
        """LiteLLM has picked, before the call begins.

        Args:
            deployment: Whom.
            lane: Where we would have picked.
            ours: Whom we would have picked, by id; None if that is not known.
        """
        now = time.monotonic()
        with self._lock:
            self._picks += 1
            self._lanes[lane] += 1
            if ours is not None:
                self._compared += 1
                self._same += ours == deployment.id
            resting = bool(deployment.held & RESTING)
            self._resting += resting
            self._full += bool(deployment.held & _NO_ROOM)
            self._just_failed += now - self._failed.get(deployment.id, -_JUST) < _JUST

    def counters(self, pairs: Iterable[tuple[float, int]]) -> None:
        """LiteLLM has picked by its counters: what each says to be in flight at a deployment, and what is."""
        furthest = max((abs(said - in_flight) for said, in_flight in pairs), default=0.0)
        with self._lock:
            self._counters += 1
            self._counters_off += furthest > 0
            self._furthest_off = max(self._furthest_off, furthest)

    def ended(self, lease: Lease, error: BaseException | None, *, cancelled: bool) -> None:
        """A call of LiteLLM's has ended, or its caller gave up on it: that says nothing about the deployment."""
        if error is not None:
            with self._lock:
                self._failed[lease.id] = time.monotonic()
                if len(self._failed) > 10_000:
                    self._failed.clear()
        lease.release(error, cancelled=cancelled)

    def report(self) -> Mapping[str, Any]:
        """Ready for JSON: picks of LiteLLM's, and how many of them went where we would not have gone."""
        with self._lock:
            return {
                "picks": self._picks,
                "lanes": dict(self._lanes),
                "compared": self._compared,
                "same_pick": self._same,
                "to_resting": self._resting,
                "to_full": self._full,
                "to_just_failed": self._just_failed,
                "counters_read": self._counters,
                "counters_off": self._counters_off,
                "furthest_off": self._furthest_off,
            }
