"""The two arms of a rollout or an experiment: what happened to the requests of each, and whether they differ.

Only one measure is tested, named before the first request: whoever looks at several and tells of the one that differs
has found chance. Everything else is counted beside it, to be looked at.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from fast_router.engine.histogram import Histogram, percentile
from fast_router.engine.rollout.confidence import Interval, Moments, difference, ratio_of_rates

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.engine.rollout.assignment import Assignment

__all__ = ["Arm", "Arms", "Measure"]

Measure: TypeAlias = Literal["latency", "first_token", "failures"]
"""What may be tested: a request's whole time, the time to a stream's first token, or the share of failed requests."""

_SHORTEST = 1e-6  # seconds; an answer from a cache of the caller's takes no time that a logarithm could use
_PERCENTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


class Arm:
    """What has happened to the requests of one arm.

    Attributes:
        name: Who picks in it.
        requests: That have ended, those that the caller gave up on left out.
        failures: Of them, those that ended in an error for the caller.
        cancelled: Requests that the caller gave up on.
        retries: Attempts after the first of a request.
        attempts: How often each deployment was asked, by id.
        latency: Seconds from a request to the end of its answer, of those that succeeded.
        first_token: Seconds to the first token, of streams that succeeded.
    """

    __slots__ = (
        "attempts", "cancelled", "failures", "first_token", "latency", "log_first_token", "log_latency", "name",
        "requests", "retries",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = self.failures = self.cancelled = self.retries = 0
        self.attempts: Counter[str] = Counter()
        self.latency, self.first_token = Histogram(), Histogram()
        # Times differ by factors: their logarithms have a mean that outliers do not rule.
        self.log_latency, self.log_first_token = Moments(), Moments()

    def asked(self, attempts: Mapping[str, int]) -> None:
        """Count a request's attempts, by deployment id."""
        self.attempts.update(attempts)
        self.retries += max(0, sum(attempts.values()) - 1)

    def report(self) -> dict[str, Any]:
        """Ready for JSON: counts, percentiles in seconds (None without any), how times spread, the busiest's share.

        `spread` is the standard deviation of the logarithm of the latency, `busiest` the share of the attempts that the
        busiest deployment had, `sums` what `join` takes.
        """
        asked = sum(self.attempts.values())
        return {
            "arm": self.name,
            "requests": self.requests,
            "failures": self.failures,
            "cancelled": self.cancelled,
            "retries": self.retries,
            "latency": _percentiles(self.latency),
            "first_token": _percentiles(self.first_token),
            "spread": math.sqrt(self.log_latency.variance),
            "deployments": len(self.attempts),
            "busiest": max(self.attempts.values()) / asked if asked else None,
            "sums": {
                "attempts": dict(self.attempts),
                "latency": [*self.latency.counts],
                "latency_seconds": self.latency.total,
                "first_token": [*self.first_token.counts],
                "first_token_seconds": self.first_token.total,
                "log_latency": [*self.log_latency.state],
                "log_first_token": [*self.log_first_token.state],
            },
        }

    def join(self, report: Mapping[str, Any]) -> None:
        """Take in another process's arm, by its report."""
        for name in ("requests", "failures", "cancelled", "retries"):
            setattr(self, name, getattr(self, name) + report[name])
        sums = report["sums"]
        self.attempts.update(sums["attempts"])
        for histogram, counts in ((self.latency, sums["latency"]), (self.first_token, sums["first_token"])):
            histogram.counts = [ours + theirs for ours, theirs in zip(histogram.counts, counts, strict=True)]
        self.latency.total += sums["latency_seconds"]
        self.first_token.total += sums["first_token_seconds"]
        self.log_latency.join(*sums["log_latency"])
        self.log_first_token.join(*sums["log_first_token"])


def _percentiles(histogram: Histogram) -> dict[str, float | None]:
    return {name: percentile(histogram.counts, share) for name, share in _PERCENTILES}


class Arms:
    """Two arms that share the servers; safe from several threads.

    Args:
        old: Who picks in the arm that is compared with.
        new: Who picks in the arm that is tried.
        assignment: Which arm a request is in.
        measure: What is tested.
        wall: The time of day, seconds.

    Attributes:
        old: The arm that is compared with.
        new: The arm that is tried.
        since: Time of day of the beginning; nothing from before counts.
    """

    def __init__(self, old: str, new: str, assignment: Assignment, measure: Measure, wall: Callable[[], float]) -> None:
        self.old, self.new = Arm(old), Arm(new)
        self.assignment = assignment
        self.measure = measure
        self.since = wall()
        self._lock = threading.Lock()
        # Given up on in a finaliser, which may run while this thread holds the lock: they wait here.
        self._abandoned: deque[tuple[Arm, Mapping[str, int]]] = deque()

    def arm(self, name: str | None) -> Arm:
        """The arm of a request, by the name of its session or end user; None for one that has none."""
        return self.new if self.assignment.is_new(name) else self.old

    def ended(
        self,
        arm: Arm,
        seconds: float,
        *,
        failed: bool = False,
        cancelled: bool = False,
        first_token: float | None = None,
        attempts: Mapping[str, int] | None = None,
    ) -> None:
        """Count a request.

        Args:
            arm: As `arm` told at its beginning.
            seconds: To the end of its answer.
            failed: Whether it ended in an error for its caller.
            cancelled: Whether its caller gave up: that is neither an answer nor a failure.
            first_token: Seconds to the first token of a stream.
            attempts: How often it asked each deployment, by id.
        """
        with self._lock:
            arm.asked(attempts or {})
            if cancelled:
                arm.cancelled += 1
                return
            arm.requests += 1
            if failed:
                arm.failures += 1
                return
            arm.latency.add(seconds)
            arm.log_latency.add(math.log(max(seconds, _SHORTEST)))
            if first_token is not None:
                arm.first_token.add(first_token)
                arm.log_first_token.add(math.log(max(first_token, _SHORTEST)))

    def abandon(self, arm: Arm, attempts: Mapping[str, int]) -> None:
        """Count a request whose caller gave up on it, from a finaliser: without a lock."""
        self._abandoned.append((arm, attempts))

    def _settle(self) -> None:
        while self._abandoned:
            arm, attempts = self._abandoned.popleft()
            arm.asked(attempts)
            arm.cancelled += 1

    def interval(self) -> Interval | None:
        """Where the logarithm of (new arm / old arm) lies of the measure; None while there is too little to tell."""
        with self._lock:
            return self._interval()

    def _interval(self) -> Interval | None:
        new, old = self.new, self.old
        if self.measure == "failures":
            return ratio_of_rates((new.failures, new.requests), (old.failures, old.requests))
        if self.measure == "first_token":
            return difference(new.log_first_token, old.log_first_token)
        return difference(new.log_latency, old.log_latency)

    def join(self, report: Mapping[str, Any]) -> None:
        """Take in what another process's `Arms` of the same setting report."""
        with self._lock:
            for arm, told in zip((self.old, self.new), report["arms"], strict=True):
                arm.join(told)
            self.since = min(self.since, report["since"])

    def report(self) -> dict[str, Any]:
        """Both arms and what may be concluded, ready for JSON.

        `ratio` is the new arm's measure over the old one's: estimate, low, high (None where unbounded); None while
        there is too little to tell. `differs` may be read at any time, see `confidence`.
        """
        with self._lock:
            self._settle()
            interval = self._interval()
            return {
                "share": self.assignment.share,
                "measure": self.measure,
                "since": self.since,
                "arms": [self.old.report(), self.new.report()],
                "ratio": None if interval is None else _ratio(interval),
                "differs": interval is not None and interval.excludes_zero,
                "verdict": self._verdict(interval),
                "shared": "both arms share the servers: load that one puts on them slows the other as well",
            }

    def _verdict(self, interval: Interval | None) -> str:
        measure = _WORDS[self.measure]
        if interval is None:
            return f"too few requests to compare {measure}"
        if not interval.excludes_zero:
            return f"no difference in {measure} shown: {_between(interval)}"
        better = "less" if interval.estimate < 0 else "more"
        return f"{self.new.name} has {better} {measure} than {self.old.name}: {_between(interval)}"


_WORDS: Final[dict[Measure, str]] = {
    "latency": "latency", "first_token": "time to the first token", "failures": "failures",
}  # fmt: skip


def _ratio(interval: Interval) -> dict[str, float | None]:
    return {
        name: _exp(value)
        for name, value in (("estimate", interval.estimate), ("low", interval.low), ("high", interval.high))
    }


def _exp(value: float) -> float | None:
    return None if value == math.inf else math.exp(value)


def _between(interval: Interval) -> str:
    high = "any" if interval.high == math.inf else f"{math.exp(interval.high):.2f}"
    return f"×{math.exp(interval.low):.2f} to ×{high}"
