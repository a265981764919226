"""peak_ewma: draw two at random, take the lower of latency x (in flight + 1).

Finagle's Peak EWMA: the estimate jumps to a slow answer at once and decays slowly, so a server that turns
slow is left at the first sign and tried again in small measure. A failure counts as a slow answer (Linkerd's
lesson: a server that fails fast must get less, not more). An unknown one is probed by a single call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.engine.strategies.base import Rng
from fast_router.engine.strategies.power_of_two import PowerOfTwo

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["PeakEwma", "observe_peak"]

DECAY = 10.0
"""Seconds after which an estimate that nothing confirms has decayed to 1/e."""
FAILURE_PENALTY = 5.0
"""Seconds that a failed attempt counts for, at the least."""
# An unknown member whose probe is out costs more than any known one, and more with each further call.
_UNKNOWN = 1e9


def observe_peak(deployment: Deployment, seconds: float, now: float, decay: float = DECAY) -> None:
    """Feed one attempt's duration (seconds) into the estimate of `deployment`."""
    ewma = deployment.ewma
    if ewma is None or seconds > ewma:
        deployment.ewma = seconds
    else:
        kept = exp((deployment.ewma_at - now) / decay)
        deployment.ewma = ewma * kept + seconds * (1.0 - kept)
    deployment.ewma_at = now


class PeakEwma(PowerOfTwo):
    """Two random choices by expected wait. O(1)."""

    name = "peak_ewma"
    aliases: ClassVar[tuple[str, ...]] = ("ewma",)

    def __init__(self, members: Sequence[Deployment], rng: Rng, options: Mapping[str, Any]) -> None:
        super().__init__(members, rng, options)
        self._decay = float(options.get("decay") or DECAY)

    def better(self, one: Deployment, other: Deployment, now: float) -> Deployment:
        """The one with the lower expected wait; the first one if equal."""
        if one is other:
            return one
        return one if self.cost(one, now) <= self.cost(other, now) else other

    def cost(self, deployment: Deployment, now: float) -> float:
        """Expected seconds of work ahead of a new call."""
        load = deployment.in_flight + deployment.outside
        ewma = deployment.ewma
        if ewma is None:
            return 0.0 if load < 1 else _UNKNOWN + load
        return ewma * exp((deployment.ewma_at - now) / self._decay) * (load + 1) / (deployment.share or 1.0)
