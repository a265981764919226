"""least_busy: the deployment with the fewest calls in flight, among equals the one that has waited longest.

Members sit in buckets by load, as in HAProxy's leastconn: a lease moves its deployment to the end of the neighbouring
bucket, a pick takes the first of the lowest one. At low load, when everybody is idle, that is a round robin: shares are
equal after every round, where a random choice would need thousands of calls. Each process begins at a place of its own,
so that many that make one call each do not all make it to the same server. Unequal capacities need a finer order: then
by load per capacity, at random among equals; so does the load in tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.engine.ask import Ask, Rng
from fast_router.engine.strategies.base import Strategy
from fast_router.engine.strategies.load import calls, load_of
from fast_router.engine.strategies.ranking import Ranking

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["LeastBusy"]


class LeastBusy(Strategy):
    """Fewest in flight. O(1) with buckets, O(log n) if capacities differ or load is counted in tokens.

    Options:
        load: `calls`, or `tokens` for the prompt tokens that are yet to be computed.
    """

    name = "least_busy"
    aliases = ("least-busy",)
    accepts: ClassVar[frozenset[str] | None] = frozenset({"load"})
    follows_load = True

    def __init__(self, members: Sequence[Deployment], rng: Rng, options: Mapping[str, Any]) -> None:
        super().__init__(members, rng, options)
        capacities = {d.capacity for d in self.members}
        self._load = load_of(self.members, options)
        self.reads_prompts = self._load is not calls
        self._ranking = Ranking(rng) if len(capacities) > 1 or self.reads_prompts else None
        self.takes = self._ranking is None
        # Linked lists: a plain dict would step over the traces of everybody who has left to find its first.
        self._buckets: list[OrderedDict[Deployment, None]] = [OrderedDict()]
        self._lowest = 0
        # In which bucket each eligible member sits.
        self._seats: dict[Deployment, int] = {}
        self._begun = False

    def added(self, deployment: Deployment) -> None:
        """Seat it by its load."""
        if self._ranking is not None:
            self._ranking.set(deployment, self._relative(deployment))
        else:
            self._sit(deployment, int(deployment.in_flight + deployment.outside))
            if not self._begun and len(self.ready) == len(self.members):
                self._begun = True
                for bucket in self._buckets:
                    for _ in range(int(self.random() * len(bucket))):
                        bucket.move_to_end(next(iter(bucket)))

    def removed(self, deployment: Deployment) -> None:
        """Free its seat."""
        if self._ranking is not None:
            self._ranking.discard(deployment)
        else:
            del self._buckets[self._seats.pop(deployment)][deployment]

    def moved(self, deployment: Deployment) -> None:
        """Change its seat."""
        if self._ranking is not None:
            if deployment in self._ranking:
                self._ranking.set(deployment, self._relative(deployment))
            return
        former = self._seats.get(deployment)
        if former is None:
            return
        load = deployment.in_flight + int(deployment.outside) if deployment.outside else deployment.in_flight
        if load != former:
            # `_sit`, written out: this is half of a lease.
            buckets = self._buckets
            del buckets[former][deployment]
            while load >= len(buckets):
                buckets.append(OrderedDict())
            buckets[load][deployment] = None
            self._seats[deployment] = load
            if load < self._lowest:  # noqa: PLR1730 - a call to min() costs more
                self._lowest = load

    def _sit(self, deployment: Deployment, load: int) -> None:
        buckets = self._buckets
        while load >= len(buckets):
            buckets.append(OrderedDict())
        buckets[load][deployment] = None
        self._seats[deployment] = load
        self._lowest = min(self._lowest, load)

    def pick(self, now: float, ask: Ask | None) -> Deployment | None:
        """The first one of the lowest bucket."""
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
        deployment = next(iter(bucket))
        # A call moves it to the next bucket anyway; a pick without a call (a peek) would find it here for ever.
        bucket.move_to_end(deployment)
        return deployment

    def take(self, ask: Ask | None) -> Deployment | None:
        """The first one of the lowest bucket, put at the end of the next: half the cost of `pick` and `moved`."""
        if ask is not None and ask.exclude:
            return None
        buckets = self._buckets
        load = self._lowest
        try:
            while not (bucket := buckets[load]):
                load += 1
        except IndexError:
            return None  # nobody is eligible
        self._lowest = load
        deployment = next(iter(bucket))
        if not deployment.counted:
            return None
        del bucket[deployment]
        load += 1
        if load == len(buckets):
            buckets.append(OrderedDict())
        buckets[load][deployment] = None
        self._seats[deployment] = load
        deployment.in_flight += 1
        deployment.picks += 1
        return deployment

    def choose(self, candidates: Sequence[Deployment], now: float, ask: Ask | None) -> Deployment:  # noqa: ARG002
        """A random one of the least loaded candidates."""
        load = self._relative if self._ranking is not None else _whole
        loads = [load(d) for d in candidates]
        least = min(loads)
        return self.any_of([d for d, n in zip(candidates, loads, strict=True) if n == least])

    def _relative(self, deployment: Deployment) -> float:
        return self._load(deployment) / deployment.capacity


def _whole(deployment: Deployment) -> float:
    return int(deployment.in_flight + deployment.outside)
