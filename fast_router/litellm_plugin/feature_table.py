"""What `enable` installs: each feature's name, the module that does it, and the seams of LiteLLM that it needs."""

from __future__ import annotations

from dataclasses import dataclass

from fast_router.litellm_plugin.bands.contract import Seam

__all__ = ["FEATURES", "PARTS", "Feature"]

_PLUGIN = "fast_router.litellm_plugin"


@dataclass(frozen=True)
class Feature:
    """One feature.

    Attributes:
        name: As `disabled_features` has it.
        module: Has `install(patches, band)`, and is imported only then; a band may have one of its own instead.
        needs: Seams without which there is nothing to install.
        unless: A seam that makes it superfluous: where a band has that one, it is not missed.
    """

    name: str
    module: str
    needs: frozenset[Seam] = frozenset()
    unless: Seam | None = None


def _needs(*seams: Seam) -> frozenset[Seam]:
    return frozenset(seams)


FEATURES = (
    Feature("attempts", f"{_PLUGIN}.layers.lease", _needs(Seam.ATTEMPT)),
    Feature("selection", f"{_PLUGIN}.picks.lanes", _needs(Seam.CHOICE, Seam.CHANGES)),
    Feature("cooldowns", f"{_PLUGIN}.rests.mirror", _needs(Seam.REST_STORE)),
    Feature("operator_holds", f"{_PLUGIN}.rests.by_operator", _needs(Seam.CHOICE)),
    Feature("strategies", f"{_PLUGIN}.picks.strategies_by_name", _needs(Seam.STRATEGY_NAMES)),
    Feature("failover", f"{_PLUGIN}.layers.request_ledger", _needs(Seam.REQUEST, Seam.ATTEMPT, Seam.RETRY_TIMING)),
    Feature("admission", f"{_PLUGIN}.layers.quality_limits", _needs(Seam.CHOICE)),
    Feature("lane", f"{_PLUGIN}.rust_core.lane", _needs(Seam.WALK), unless=Seam.PICK),
    Feature("bookkeeping", f"{_PLUGIN}.overhead"),
    Feature("model_list", f"{_PLUGIN}.model_list.calls"),
    Feature("process_status", "fast_router.observe.process_status"),
    Feature("shared_state", f"{_PLUGIN}.fleet.shared_state", _needs(Seam.CHOICE)),
    Feature("celery_routing", f"{_PLUGIN}.layers.routing_worker_gate", _needs(Seam.AWAITED_PICK)),
)
"""What `enable` installs, in this order."""

PARTS = {
    "stream_failover": ("failover", Seam.STREAM_RECOVERY),
    "hedging": ("failover", Seam.ATTEMPT),
    "waiting": ("failover", Seam.REQUEST),
    "counters_behind": ("shared_state", Seam.CHOICE),
}
"""Features that another one's module installs along with itself, and the seam that they need beside its own."""
