"""An experiment over the leases of one `AdvancedRouter`: a share of them by another strategy, both arms side by side.

What a request is to LiteLLM a lease is here: it begins with `acquire` and ends with its release. Retries are the
caller's, and each is a lease of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fast_router.engine.rollout.arms import Arms
from fast_router.engine.rollout.assignment import Assignment
from fast_router.engine.strategies.split import Contender
from fast_router.settings.rollout import EVERYTHING, check_experiment

if TYPE_CHECKING:
    from fast_router.engine import Ask, Engine, Lease, ModelGroup
    from fast_router.engine.rollout.arms import Arm

__all__ = ["LeaseExperiment"]

_CONFIGURED = "configured"


class LeaseExperiment:
    """One experiment, for as long as its router lives.

    Args:
        engine: The router's, before any group is compiled.
        setting: `{strategy: …, share: …}` as for the option `experiment`; `options` for that strategy may be with it.

    Raises:
        ConfigurationError: A key is missing or unknown, or has a wrong value.
    """

    def __init__(self, engine: Engine, setting: Mapping[str, Any]) -> None:
        self.setting = check_experiment(setting)
        name = self.setting["strategy"]
        assignment = Assignment(self.setting["share"] / EVERYTHING, f"experiment {name}", engine.rng)
        self._engine = engine
        self._arms = Arms(_CONFIGURED, name, assignment, "latency", engine.wall)
        self._arm_of: dict[Lease, Arm] = {}
        self._tried = False
        engine.contender = Contender(name, self.setting.get("options", {}), lambda: self._tried)
        engine.on_release.append(self._released)

    def acquire(self, group: ModelGroup, ask: Ask | None) -> Lease | None:
        """Pick by the strategy of an arm: that of the session, else one at random."""
        arm = self._arms.arm(None if ask is None else ask.key)
        with self._engine.lock:  # so that no other pick takes this arm for its own
            self._tried = arm is self._arms.new
            try:
                lease = self._engine.acquire(group, ask)
            finally:
                self._tried = False
        if lease is not None:
            self._arm_of[lease] = arm
        return lease

    def _released(self, lease: Lease, error: BaseException | None, cancelled: bool) -> None:
        arm = self._arm_of.pop(lease, None)
        if arm is not None:
            self._arms.ended(
                arm,
                self._engine.clock() - lease.started,
                failed=error is not None,
                cancelled=cancelled,
                first_token=lease.seconds_to_first_token,
                attempts={lease.id: 1},
            )

    def report(self) -> dict[str, Any]:
        """Ready for JSON: the setting, and both arms as `status()` shows them."""
        return {"experiment": {name: self.setting[name] for name in ("strategy", "share")}, **self._arms.report()}
