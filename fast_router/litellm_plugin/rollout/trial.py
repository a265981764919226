"""What is under way, a rollout or an experiment: its setting, its arms, and the gates that stand while there is one.

By default nothing of it is there. A change of the setting counts from the next request on; the arms begin anew with it,
since a comparison over two shares would compare two times as well.
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
from fast_router.litellm_plugin.rollout.experiment import Experiment
from fast_router.litellm_plugin.rollout.observer import Observer
from fast_router.litellm_plugin.rollout.request import Request, name_of, running
from fast_router.litellm_plugin.start_line import routers
from fast_router.litellm_plugin.tally import tally
from fast_router.settings.rollout import EVERYTHING, OBSERVE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["Lifecycle", "Trial"]

LITELLM, OURS = "litellm", "fast_router"
"""The arms' names."""


class Trial:
    """One rollout, from one setting to the next.

    Args:
        setting: The share of the requests that we handle, in percent, or `observe`.
        measure: What the arms are compared by.
        rng: Decides where no session is known.
    """

    def __init__(self, setting: float | str, measure: Any, rng: random.Random) -> None:
        self.setting = setting
        self.measure = measure
        self.observer = Observer() if setting == OBSERVE else None
        part = 0.0 if isinstance(setting, str) else setting / EVERYTHING
        self.arms = Arms(LITELLM, OURS, Assignment(part, "rollout", rng), measure, time.time)

    @staticmethod
    def open(patches: PatchSet, band: Band, begin: gates.Begin) -> Callable[[], None]:
        """Tell LiteLLM's arm and ours apart from now on, by what `begin` says of a request.

        Returns:
            What ends it.
        """
        apart.begin()
        try:
            standing = gates.install(patches, band, begin)
        except BaseException:
            apart.end([], band)
            raise

        def close() -> None:
            standing.restore()
            apart.end([core for router in routers() if (core := band.core_of(router)) is not None], band)

        return close

    def starts(self) -> None:
        """Nothing to do: requests are told apart as they begin."""

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
    """The rollout or experiment of one `enable()`, from setting to setting.

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
        self._close: Callable[[], None] | None = None
        self.trial: Trial | Experiment | None = None

    def apply(self, options: settings.Settings) -> None:
        """Do what the settings say, from the next request on."""
        kind: type[Trial | Experiment] = Experiment if options.experiment else Trial
        wanted: Any = options.experiment or options.rollout
        trial = self.trial
        if wanted == EVERYTHING:
            self.end()
        elif type(trial) is not kind or trial.setting != wanted or trial.measure != options.rollout_measure:
            if type(trial) is not kind:
                self.end()
            self._begin(kind(wanted, options.rollout_measure, self._rng))

    def _begin(self, trial: Trial | Experiment) -> None:
        # The gates outlast a change of the share.
        self.trial = trial
        try:
            if self._close is None:
                self._close = trial.open(self._patches, self._band, self._request)
                attempts.on_end.append(_attempted)
            trial.starts()
        except Exception as error:  # noqa: BLE001 - one that cannot begin leaves all as it is
            self.end()
            tally.failed(error, "beginning a rollout")

    def end(self) -> None:
        """All requests are ours again, or nobody's: the gates go."""
        close, self._close, self.trial = self._close, None, None
        if close is not None:
            attempts.on_end.remove(_attempted)
            close()

    def _request(self, arguments: Mapping[str, Any]) -> Request | None:
        trial = self.trial
        return None if trial is None else trial.begin(arguments)

    def report(self) -> dict[str, Any]:
        """What is under way, by its name; empty if nothing is."""
        if self.trial is None:
            return {}
        return {"experiment" if isinstance(self.trial, Experiment) else "rollout": self.trial.report()}


def _attempted(attempt: attempts.Attempt, error: BaseException | None, cancelled: bool) -> None:  # noqa: ARG001
    request = running()
    if request is not None and attempt.lease is not None:
        request.attempted(attempt.lease.id)
