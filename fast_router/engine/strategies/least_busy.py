"""least_busy: the deployment with the fewest calls in flight, random among equals.

Members sit in buckets by load, as in HAProxy's leastconn: a lease moves its deployment to the neighbouring
bucket, a pick draws from the lowest one. Unequal capacities need a finer order: then by load per capacity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fast_router.engine.strategies.base import Ask, Rng, Strategy
from fast_router.engine.strategies.ranking import Ranking

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["LeastBusy"]


class LeastBusy(Strategy):
    """Fewest in flight. O(1) with buckets, O(log n) if capacities differ."""

    name = "least_busy"
    aliases = ("least-busy",)
    follows_load = True

    def __init__(self, members: Sequence[Deployment], rng: Rng, options: Mapping[str, Any]) -> None:
        super().__init__(members, rng, options)
        capacities = {d.capacity for d in self.members}
        self._ranking = Ranking(rng) if len(capacities) > 1 else None
        self._buckets: list[list[Deployment]] = [[]]
        self._lowest = 0
        # Where each eligible member sits: [bucket, index].
        self._seats: dict[Deployment, list[int]] = {}

    def added(self, deployment: Deployment) -> None:
        """Seat it by its load."""
        if self._ranking is not None:
            self._ranking.set(deployment, _relative(deployment))
        else:
            self._sit(deployment, int(deployment.in_flight + deployment.outside), [0, 0])

    def removed(self, deployment: Deployment) -> None:
        """Free its seat."""
        if self._ranking is not None:
            self._ranking.discard(deployment)
        else:
            self._stand(deployment, self._seats.pop(deployment))

    def moved(self, deployment: Deployment) -> None:
        """Change its seat."""
        if self._ranking is not None:
            if deployment in self._ranking:
                self._ranking.set(deployment, _relative(deployment))
            return
        seat = self._seats.get(deployment)
        if seat is None:
            return
        load = deployment.in_flight + int(deployment.outside) if deployment.outside else deployment.in_flight
        buckets = self._buckets
        former, index = seat
        if load != former:
            # `_stand` and `_sit`, written out: this is half of a lease.
            bucket = buckets[former]
            last = bucket.pop()
            if last is not deployment:
                bucket[index] = last
                self._seats[last][1] = index
            while load >= len(buckets):
                buckets.append([])
            bucket = buckets[load]
            seat[0] = load
            seat[1] = len(bucket)
            bucket.append(deployment)
            if load < self._lowest:  # noqa: PLR1730 - a call to min() costs more
                self._lowest = load

    def _sit(self, deployment: Deployment, load: int, seat: list[int]) -> None:
        buckets = self._buckets
        while load >= len(buckets):
            buckets.append([])
        bucket = buckets[load]
        seat[0] = load
        seat[1] = len(bucket)
        self._seats[deployment] = seat
        bucket.append(deployment)
        self._lowest = min(self._lowest, load)

    def _stand(self, deployment: Deployment, seat: list[int]) -> None:
        bucket = self._buckets[seat[0]]
        last = bucket.pop()
        if last is not deployment:
            bucket[seat[1]] = last
            self._seats[last][1] = seat[1]

    def pick(self, now: float, ask: Ask | None) -> Deployment | None:
        """A random one of the lowest bucket."""
        if ask is not None and ask.exclude:
            return self.pick_from(self.ready, now, ask)
        if self._ranking is not None:
            return self._ranking.lowest()
        if not self.ready:
            return None
        buckets = self._buckets
        lowest = self._lowest
        bucket = buckets[lowest]
        if not bucket:
            # Loads change by one lease at a time, so this walk is paid for by the leases that emptied the buckets.
            while not buckets[lowest]:
                lowest += 1
            self._lowest = lowest
            bucket = buckets[lowest]
        count = len(bucket)
        return bucket[0] if count == 1 else bucket[int(self.random() * count)]

    def choose(self, candidates: Sequence[Deployment], now: float, ask: Ask | None) -> Deployment:  # noqa: ARG002
        """A random one of the least loaded candidates."""
        load = _relative if self._ranking is not None else _whole
        loads = [load(d) for d in candidates]
        least = min(loads)
        return self.any_of([d for d, n in zip(candidates, loads, strict=True) if n == least])


def _whole(deployment: Deployment) -> float:
    return int(deployment.in_flight + deployment.outside)


def _relative(deployment: Deployment) -> float:
    return (deployment.in_flight + deployment.outside) / deployment.capacity
