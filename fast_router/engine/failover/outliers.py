"""Which deployments stand out from their own group: Envoy's outlier rules plus one for latency.

A breaker judges a deployment by itself; this judges it by its siblings. Per interval, over those with enough
attempts:

* **Success rate** (Envoy): below ``mean − 1.9 × stdev`` of the group's success rates. It can bite from five
  members on: among fewer, nobody can be 1.9 standard deviations away from the mean.
* **Failure percentage** (Envoy, gRFC A50): failures at or above a fixed share.
* **Latency**: mean latency above ``factor`` times the median of the *others*, so that a slow member of a
  small group does not raise the bar for itself.

The detector only names outliers. Whether they may rest is for the ejection cap to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["GroupOutliers", "Outlier", "OutlierDetector", "OutlierOptions"]


@dataclass(frozen=True)
class OutlierOptions:
    """The rules' numbers.

    Attributes:
        interval: Seconds between two evaluations.
        min_members: Members with enough attempts, below which siblings say nothing.
        min_requests: Attempts in an interval below which a member is not judged.
        stdev_factor: The success-rate rule's factor (Envoy: 1.9); 0 switches the rule off.
        failure_percentage: Failures in percent from which a member stands out; 0 switches the rule off.
        latency_factor: Times the median of the others; 0 switches the rule off.
        min_latency: Seconds below which nobody counts as slow, whatever the others do.
    """

    interval: float = 10.0
    min_members: int = 3
    min_requests: int = 20
    stdev_factor: float = 1.9
    failure_percentage: float = 85.0
    latency_factor: float = 5.0
    min_latency: float = 0.05

    def __post_init__(self) -> None:
        if self.interval <= 0:
            raise ValueError("an outlier interval is more than 0 seconds")
        if self.min_members < 2 or self.min_requests < 1:
            raise ValueError("outliers need min_members ≥ 2 and min_requests ≥ 1")
        if self.stdev_factor < 0 or not 0 <= self.failure_percentage <= 100:
            raise ValueError("stdev_factor is ≥ 0, failure_percentage between 0 and 100")
        if self.latency_factor and self.latency_factor <= 1:
            raise ValueError("latency_factor is more than 1, or 0 to switch the rule off")


class Outlier(NamedTuple):
    """A deployment that stands out.

    Attributes:
        id: The deployment's id.
        reason: Why, in words for an operator.
    """

    id: str
    reason: str


class _Interval:
    __slots__ = ("failed", "seconds", "succeeded")

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.seconds = 0.0


class OutlierDetector:
    """The outliers of one group. Not thread-safe by itself.

    Args:
        options: The rules' numbers.
        now: Clock time in seconds at which the first interval begins.
    """

    __slots__ = ("_ends", "_members", "_options")

    def __init__(self, options: OutlierOptions | None = None, *, now: float = 0.0) -> None:
        self._options = options or OutlierOptions()
        self._members: dict[str, _Interval] = {}
        self._ends = now + self._options.interval

    def record(self, id_: str, *, ok: bool, seconds: float = 0.0) -> None:
        """Note one attempt.

        Args:
            id_: The deployment's id.
            ok: Whether it succeeded.
            seconds: How long it took; counted for successes only.
        """
        member = self._members.get(id_)
        if member is None:
            member = self._members[id_] = _Interval()
        if ok:
            member.succeeded += 1
            member.seconds += seconds
        else:
            member.failed += 1

    def take_back(self, id_: str) -> None:
        """Forget one failure that turned out not to be the deployment's."""
        member = self._members.get(id_)
        if member is not None and member.failed:
            member.failed -= 1

    def due(self, now: float) -> bool:
        """Tell whether the interval is over."""
        return now >= self._ends

    def evaluate(self, now: float) -> list[Outlier]:
        """Judge the interval that ends now and begin the next one.

        Args:
            now: Clock time in seconds.

        Returns:
            Who stands out, worst first; empty before the interval is over.
        """
        if now < self._ends:
            return []
        members, self._members = self._members, {}
        self._ends = now + self._options.interval
        options = self._options
        judged = {id_: m for id_, m in members.items() if m.succeeded + m.failed >= options.min_requests}
        if len(judged) < options.min_members:
            return []
        found = self._by_success(judged)
        for outlier in self._by_latency(judged):
            found.setdefault(outlier.id, outlier)
        return list(found.values())

    def _by_success(self, judged: dict[str, _Interval]) -> dict[str, Outlier]:
        options = self._options
        rates = {id_: 100.0 * m.succeeded / (m.succeeded + m.failed) for id_, m in judged.items()}
        mean = fmean(rates.values())
        bar = mean - options.stdev_factor * pstdev(rates.values()) if options.stdev_factor else -math.inf
        found: dict[str, Outlier] = {}
        for id_, rate in sorted(rates.items(), key=lambda item: item[1]):
            if rate < bar:
                found[id_] = Outlier(id_, f"success rate {rate:.0f} %, the group's is {mean:.0f} %")
            elif options.failure_percentage and 100.0 - rate >= options.failure_percentage:
                found[id_] = Outlier(id_, f"{100.0 - rate:.0f} % of its attempts failed")
        return found

    def _by_latency(self, judged: dict[str, _Interval]) -> list[Outlier]:
        options = self._options
        means = {id_: m.seconds / m.succeeded for id_, m in judged.items() if m.succeeded}
        if not options.latency_factor or len(means) < options.min_members:
            return []
        found: list[tuple[float, Outlier]] = []
        for id_, seconds in means.items():
            usual = median(value for other, value in means.items() if other != id_)
            if seconds > max(options.latency_factor * usual, options.min_latency):
                reason = f"takes {seconds:.2f} s where the others take {usual:.2f} s"
                found.append((-seconds, Outlier(id_, reason)))
        return [outlier for _, outlier in sorted(found)]


class GroupOutliers:
    """The detectors of an engine's groups. Its owner holds the engine's lock.

    Args:
        options: The rules, None for none.
    """

    __slots__ = ("_detectors", "_options")

    def __init__(self, options: OutlierOptions | None) -> None:
        self._options = options
        self._detectors: dict[str, OutlierDetector] = {}

    def __bool__(self) -> bool:
        """Whether there are any rules."""
        return self._options is not None

    def record(self, deployment: Deployment, *, ok: bool, started: float, now: float) -> list[Outlier]:
        """Note one attempt; who stands out, if it is time to look.

        Args:
            deployment: Whose attempt.
            ok: Whether it succeeded.
            started: When it began, engine clock, seconds.
            now: The same clock now.
        """
        detector = self._detectors.get(deployment.name)
        if detector is None:
            detector = self._detectors[deployment.name] = OutlierDetector(self._options, now=started)
        detector.record(deployment.id, ok=ok, seconds=now - started)
        return detector.evaluate(now) if detector.due(now) else []

    def take_back(self, deployment: Deployment) -> None:
        """Undo one failure that was not the deployment's."""
        detector = self._detectors.get(deployment.name)
        if detector is not None:
            detector.take_back(deployment.id)
