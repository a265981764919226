"""power_of_two: draw two at random, take the less loaded (Mitzenmacher's power of two choices).

Two draws with replacement, as in Envoy's least-request: the busiest is chosen only if drawn twice. Draws
follow the weights where there are any; the load compared is in flight over weight.

Counts alone do not know who is slow: among four, one that is ten times slower keeps a tenth of the calls, and they make
the p99. So one that takes three times as long per token as the other is not taken, whatever the counts say. Failures
are not for this strategy to judge.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import exp, floor
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.engine.ask import Ask, Rng
from fast_router.engine.strategies.base import Strategy
from fast_router.engine.strategies.load import calls, load_of

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["PowerOfTwo"]

_DRAWS = 12
SLOW = 3.0
"""Times the other's latency from which a member is not taken."""
FORGIVEN = 10.0
"""Seconds after which what an idle member's slowness counts for has decayed to 1/e: it may have recovered unseen."""
PATIENCE = 2
"""How many times longer that takes for each call that is out, which will tell whether it has recovered."""
_REDRAWS = 2


class PowerOfTwo(Strategy):
    """Two random choices. O(1); one bisection per draw where weights differ.

    Options:
        load: `calls`, or `tokens` for the prompt tokens that are yet to be computed.
    """

    name = "power_of_two"
    aliases: ClassVar[tuple[str, ...]] = ("p2c", "power-of-two-choices")
    accepts: ClassVar[frozenset[str] | None] = frozenset({"load"})

    def __init__(self, members: Sequence[Deployment], rng: Rng, options: Mapping[str, Any]) -> None:
        super().__init__(members, rng, options)
        shares = [max(0.0, float(d.share or 0)) for d in self.members]
        self.load = load_of(self.members, options)
        self.reads_prompts = self.load is not calls
        self._sums = list(accumulate(shares)) if len(set(shares)) > 1 and sum(shares) > 0 else None

    def draw(self) -> Deployment:
        """One eligible member at random, by weight."""
        ready = self.ready
        sums = self._sums
        if sums is not None:
            total = sums[-1]
            for _ in range(_DRAWS):
                deployment = self.members[bisect_right(sums, self.random() * total)]
                if not deployment.held:
                    return deployment
        return ready[floor(self.random() * len(ready))]

    def pick(self, now: float, ask: Ask | None) -> Deployment | None:
        """The less loaded of two draws; the first one if equal."""
        if ask is not None and ask.exclude:
            return self.pick_from(self.ready, now, ask)
        if not self.ready:
            return None
        return self._of_two(self.draw, now)

    def _of_two(self, draw: Callable[[], Deployment], now: float) -> Deployment:
        one, other = draw(), draw()
        if one is other and one.speed is not None:
            # Drawn twice it is taken however busy it is, but not if it is far slower than somebody else.
            for _ in range(_REDRAWS):
                other = draw()
                if other is not one:
                    return other if _much_slower(one, other, now) else one
            return one
        return self.better(one, other, now)

    def better(self, one: Deployment, other: Deployment, now: float) -> Deployment:
        """The one of the two to take."""
        if one.speed is not None and other.speed is not None and one is not other:
            if _much_slower(one, other, now):
                return other
            if _much_slower(other, one, now):
                return one
        if not self.reads_prompts:
            # `calls`, written out: on the way of every pick.
            first, second = one.in_flight + one.outside, other.in_flight + other.outside
        else:
            first, second = self.load(one), self.load(other)
        return one if first * other.share <= second * one.share else other

    def choose(self, candidates: Sequence[Deployment], now: float, ask: Ask | None) -> Deployment:  # noqa: ARG002
        """The same rule over any candidates."""
        sums = None if self._sums is None else list(accumulate(max(0.0, float(d.share or 0)) for d in candidates))
        if not sums or sums[-1] <= 0:
            return self._of_two(lambda: self.any_of(candidates), now)
        return self._of_two(lambda: candidates[bisect_right(sums, self.random() * sums[-1])], now)


def _much_slower(one: Deployment, other: Deployment, now: float) -> bool:
    """Whether `one` takes far longer, per token where answers have tokens, than `other`."""
    speed, others = one.speed, other.speed
    if speed is None or others is None or speed <= SLOW * others:
        return False
    return speed * exp((one.speed_at - now) / (FORGIVEN * (1 + PATIENCE * one.in_flight))) > SLOW * others
