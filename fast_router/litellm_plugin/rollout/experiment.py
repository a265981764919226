"""An experiment: a share of the requests by another strategy of ours, everything else about them the same.

Where a Router picks through us, each of its groups has both strategies from now on, and each is told everything
(`engine.strategies.split`); which of them picks, the request that is running says.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fast_router.engine.rollout.arms import Arms
from fast_router.engine.rollout.assignment import Assignment
from fast_router.engine.strategies.split import Contender
from fast_router.litellm_plugin.picks.binding import contend, strategies_in_use
from fast_router.litellm_plugin.rollout import gates
from fast_router.litellm_plugin.rollout.request import Request, name_of, tried
from fast_router.settings.rollout import EVERYTHING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["CONFIGURED", "Experiment"]

CONFIGURED = "configured"
"""The name of the arm that goes by what each model is set to."""


class Experiment:
    """One experiment, from one setting to the next.

    Args:
        setting: As `settings.rollout.check_experiment` gives it.
        measure: What the arms are compared by.
        rng: Decides where no session is known.
    """

    def __init__(self, setting: Mapping[str, Any], measure: Any, rng: random.Random) -> None:
        self.setting = setting
        self.measure = measure
        name = setting["strategy"]
        # The first of one experiment are not the first of the next.
        assignment = Assignment(setting["share"] / EVERYTHING, f"experiment {name}", rng)
        self.arms = Arms(CONFIGURED, name, assignment, measure, time.time)
        self._contender = Contender(name, setting.get("options", {}), tried)

    @staticmethod
    def open(_patches: PatchSet, band: Band, begin: gates.Begin) -> Callable[[], None]:
        """Have requests told apart and counted from now on, by what `begin` says of each.

        Returns:
            What ends it.
        """
        standing = gates.count(band, begin)

        def close() -> None:
            standing.restore()
            contend(None)

        return close

    def starts(self) -> None:
        """Have every Router pick by the strategy that is tried as well."""
        contend(self._contender)

    def begin(self, arguments: Mapping[str, Any]) -> Request | None:
        """The request that these keyword arguments make, in its arm; None for one that names its strategy itself."""
        if arguments.get("routing_strategy") is not None:
            return None
        arm = self.arms.arm(name_of(arguments))
        return Request(self.arms, arm, None, alone=False, tried=arm is self.arms.new)

    def report(self) -> dict[str, Any]:
        """Ready for JSON; see `Arms.report`. `configured` lists the strategies that Routers' models are set to."""
        return {
            "experiment": {"strategy": self.setting["strategy"], "share": self.setting["share"]},
            "configured": strategies_in_use(),
            **self.arms.report(),
        }
