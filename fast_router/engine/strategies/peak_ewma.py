"""peak_ewma: draw three at random, take the lowest latency x (in flight + 1).

Finagle's Peak EWMA: the estimate jumps to a slow answer at once and decays slowly, so a server that turns
slow is left at the first sign and tried again in small measure. A failure counts as a slow answer (Linkerd's
lesson: a server that fails fast must get less, not more). An unknown one is probed by a single call.

That product overrates the wait at a server that works on several calls at a time, because its latency was measured
with others on board. Among equals it does not matter which is overrated; but a busy quick server would seem slower than
an idle slow one, which would get a call in fifty and make the p99. So where latencies differ by much, each is scaled
by how much more is in flight than was when it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, floor
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.engine.ask import Ask, Rng
from fast_router.engine.learning import DECAY
from fast_router.engine.strategies.power_of_two import PATIENCE, PowerOfTwo

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["PeakEwma"]

# From so many members on, three are drawn: fewer would always be compared with one another.
_THREE = 4
# From this ratio of their latencies on, two members are not alike.
_UNLIKE = 2.0
# An unknown member whose probe is out costs more than any known one, and more with each further call.
_UNKNOWN = 1e9


class PeakEwma(PowerOfTwo):
    """Three random choices by expected wait. O(1).

    Options:
        decay: Seconds in which an estimate decays to 1/e.
        load: `calls`, or `tokens` for the prompt tokens that are yet to be computed, in prompts of the usual length.
    """

    name = "peak_ewma"
    aliases: ClassVar[tuple[str, ...]] = ("ewma",)
    accepts: ClassVar[frozenset[str] | None] = frozenset({"decay", "load"})

    def __init__(self, members: Sequence[Deployment], rng: Rng, options: Mapping[str, Any]) -> None:
        super().__init__(members, rng, options)
        self._decay = float(options.get("decay") or DECAY)

    def added(self, deployment: Deployment) -> None:
        """Take one that is back from a rest for as quick as its quickest sibling: its next call, a probe, will tell."""
        if deployment.rested and deployment.ewma_failed:
            siblings = [d for d in self.ready if d is not deployment and d.ewma is not None and not d.ewma_failed]
            if siblings:
                quickest = min(siblings, key=_latest)
                deployment.ewma, deployment.ewma_at = quickest.ewma, quickest.ewma_at
                deployment.ewma_load = quickest.ewma_load
                deployment.ewma_failed = False
        deployment.rested = False

    def pick(self, now: float, ask: Ask | None) -> Deployment | None:
        """The best of three different draws."""
        ready = self.ready
        if ask is not None and ask.exclude:
            return self.pick_from(ready, now, ask)
        if self._sums is not None and ready:
            one, other = self.draw(), self.draw()
            best = self.better(one, other if other is not one else self.draw(), now)
            return best if len(ready) < _THREE else self.better(best, self.draw(), now)
        return self._of_three(ready, now) if ready else None

    def choose(self, candidates: Sequence[Deployment], now: float, ask: Ask | None) -> Deployment:
        """The same rule over any candidates."""
        if self._sums is None:
            return self._of_three(candidates, now)
        best = super().choose(candidates, now, ask)
        return best if len(candidates) < _THREE else self.better(best, super().choose(candidates, now, ask), now)

    def _of_three(self, candidates: Sequence[Deployment], now: float) -> Deployment:
        # Without replacement, as in Finagle: a server ten times slower than the rest of its group of four would
        # get a sixteenth of the traffic from being drawn twice alone, and that sixteenth is the p99. Three instead
        # of two, for the same reason: of four with two bad ones, two draws meet nobody else one time in six.
        count = len(candidates)
        first = floor(self.random() * count)
        if count == 1:
            return candidates[first]
        step = floor(self.random() * (count - 1))
        second = step + (step >= first)
        best = self.better(candidates[first], candidates[second], now)
        if count < _THREE:
            return best
        third = floor(self.random() * (count - 2))
        low, high = (first, second) if first < second else (second, first)
        third += third >= low
        third += third >= high
        return self.better(best, candidates[third], now)

    def better(self, one: Deployment, other: Deployment, now: float) -> Deployment:
        """The one with the lower expected wait; the first one if equal."""
        if one is other:
            return one
        first, second = self._latency(one, now), self._latency(other, now)
        if not self.reads_prompts and (first > _UNLIKE * second or second > _UNLIKE * first):
            return one if _scaled(first, one) <= _scaled(second, other) else other
        if self.reads_prompts:
            return one if self._in_prompts(first, one) <= self._in_prompts(second, other) else other
        return one if _queued(first, one) <= _queued(second, other) else other

    def _in_prompts(self, latency: float, deployment: Deployment) -> float:
        """The same as `_queued`, with prompts of the usual length in place of calls."""
        usual: float = deployment.work.fleet.tokens
        return latency * (self.load(deployment) / usual + 1) / (deployment.share or 1.0)

    def _latency(self, deployment: Deployment, now: float) -> float:
        """The estimate in seconds; of an unknown one 0 as long as its probe is not out, and then more than any."""
        ewma = deployment.ewma
        if ewma is None:
            load = deployment.in_flight + deployment.outside
            return 0.0 if load < 1 else _UNKNOWN + load
        # It may have recovered unseen. With a call out, that call will tell, and a slow server must not look faster by
        # the second until it does; but a call may take ten minutes.
        return ewma * exp((deployment.ewma_at - now) / (self._decay * (1 + PATIENCE * deployment.in_flight)))


def _latest(deployment: Deployment) -> float:
    return deployment.ewma or 0.0


def _queued(latency: float, deployment: Deployment) -> float:
    """Seconds of work ahead of a new call, if calls were worked on one after the other."""
    return latency * (deployment.in_flight + deployment.outside + 1) / (deployment.share or 1.0)


def _scaled(latency: float, deployment: Deployment) -> float:
    """Seconds that a new call takes, if latency grows with what is in flight from what it was measured with."""
    grown = (deployment.in_flight + deployment.outside + 1) / (deployment.ewma_load + 1)
    return latency * max(1.0, grown) / (deployment.share or 1.0)
