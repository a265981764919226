"""The rollout that is under way: its settings, its arms, and the gates that stand while there is one.

At `rollout: 100`, the default, nothing of it is there. A change of the setting counts from the next request on; the
arms begin anew with it, since a comparison over two shares would compare two times as well.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.engine.rollout.arms import Arms
from fast_router.engine.rollout.assignment import Assignment
from fast_router.litellm_plugin import request as attempts
from fast_router.litellm_plugin.rests import apart
from fast_router.litellm_plugin.rollout import gates
from fast_router.litellm_plugin.rollout.observer import Observer
from fast_router.litellm_plugin.rollout.request import Request, name_of, running
from fast_router.litellm_plugin.start_line import routers
from fast_router.litellm_plugin.tally import tally
from fast_router.settings.rollout import EVERYTHING, OBSERVE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["Lifecycle", "Trial"]

LITELLM, OURS = "litellm", "fast_router"
"""The arms' names."""


class Trial:
    """One rollout, from one setting to the next.

    Args:
        share: Of the requests that we handle, in percent, or `observe`.
        measure: What the arms are compared by.
        rng: Decides where no session is known.
    """

    def __init__(self, share: float | str, measure: Any, rng: random.Random) -> None:
        self.setting = share
        self.observer = Observer() if share == OBSERVE else None
        part = 0.0 if isinstance(share, str) else share / EVERYTHING
        self.arms = Arms(LITELLM, OURS, Assignment(part, "rollout", rng), measure, time.time)

    def begin(self, arguments: Mapping[str, Any]) -> Request:
        """The request that these keyword arguments make, in its arm."""
        arm = self.arms.arm(name_of(arguments))
        return Request(self.arms, arm, self.observer, alone=arm is self.arms.old)

    def report(self) -> dict[str, Any]:
        """Ready for JSON; see `Arms.report`. `observed` is there while we only watch."""
        found = {"rollout": self.setting, **self.arms.report()}
        if self.observer is not None:
            found["observed"] = self.observer.report()
        return found


class Lifecycle:
    """The rollout of one `enable()`, from setting to setting.

    Args:
        patches: Those of this `enable()`.
        band: Where the gates go.
        rng: Decides where no session is known.

    Attributes:
        trial: The one that is under way, None for none.
    """

    def __init__(self, patches: PatchSet, band: Band, rng: random.Random | None = None) -> None:
        self._patches = patches
        self._band = band
        self._rng = rng or random.Random()
        self._gates: PatchSet | None = None
        self.trial: Trial | None = None

    def apply(self, options: settings.Settings) -> None:
        """Do what the settings say, from the next request on."""
        wanted, measure = options.rollout, options.rollout_measure
        trial = self.trial
        if wanted == EVERYTHING:
            self.end()
        elif trial is None or trial.setting != wanted or trial.arms.measure != measure:
            self.trial = Trial(wanted, measure, self._rng)
            if self._gates is None:
                self._begin()

    def _begin(self) -> None:
        apart.begin()
        try:
            self._gates = gates.install(self._patches, self._band, self._request)
        except Exception as error:  # noqa: BLE001 - a rollout that cannot begin leaves all as it is
            self.trial = None
            apart.end([], self._band)
            tally.failed(error, "beginning a rollout")
            return
        attempts.on_end.append(_attempted)

    def end(self) -> None:
        """All requests are ours again, or nobody's: the gates go."""
        standing, self._gates, self.trial = self._gates, None, None
        if standing is None:
            return
        attempts.on_end.remove(_attempted)
        standing.restore()
        apart.end([core for router in routers() if (core := self._band.core_of(router)) is not None], self._band)

    def _request(self, arguments: Mapping[str, Any]) -> Request | None:
        trial = self.trial
        return None if trial is None else trial.begin(arguments)

    def report(self) -> dict[str, Any] | None:
        """The rollout that is under way, None if there is none."""
        return None if self.trial is None else self.trial.report()


def _attempted(attempt: attempts.Attempt, error: BaseException | None, cancelled: bool) -> None:  # noqa: ARG001
    request = running()
    if request is not None and attempt.lease is not None:
        request.attempted(attempt.lease.id)
