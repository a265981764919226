"""LiteLLM 1.110: whom a failure speaks against, told to the core's own rules.

The Rust core decides about LiteLLM's cooldowns from each attempt's outcome. A failure that speaks against the request
or its caller (`engine.failover.blame`) is told to it as one from outside the deployment, which it neither counts nor
cools down for. One that speaks against the deployment is the core's to judge; the cooldown that may follow is written
if the evidence is enough to let one more rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router.engine.failover.failures import sent
from fast_router.litellm_plugin.request import RequestLedger, aside, set_aside

if TYPE_CHECKING:
    from fast_router.engine import Deployment
    from fast_router.engine.failover.blame import Case
    from fast_router.engine.failover.policy import FailoverPolicy

__all__ = ["judged", "told_from_outside"]


def told_from_outside(outcome: Mapping[str, Any]) -> bool:
    """Tell whether LiteLLM itself knows that a failure says nothing about the deployment."""
    return bool(outcome.get("outside_deployment") or outcome.get("caller_scoped"))


def judged(core: Any, ledger: RequestLedger, deployment: Deployment | None, outcome: dict[str, Any]) -> None:
    """Change a failed outcome into what the core should make of it, and watch over the cooldown that may follow.

    Args:
        core: The Router's core.
        ledger: Of the request, which the failure has been entered into.
        deployment: Whose attempt it was, None if it is not known here.
        outcome: As the driver tells it.
    """
    failover, error = ledger.failover, ledger.raised
    # What the attempt before has left says nothing about this one.
    set_aside(aside()._replace(permits=None))
    if failover is None or deployment is None or error is None or told_from_outside(outcome):
        return
    case = ledger.case
    info = deployment.entry.get("model_info")
    opted_in = isinstance(info, Mapping) and info.get("allowed_fails_policy") is not None
    if not case.counted and not (opted_in and not case.foreign and sent(error)):
        outcome["outside_deployment"] = True
        return
    set_aside(aside()._replace(permits=partial(_may_rest_for, failover.policy, deployment, case)))
    charge = case.charge
    if case.counted and charge is not None and charge.deployment is deployment and not outcome.get("recorded"):
        charge.on_take_back = partial(_uncount, core, f"{deployment.id}:fails")


def _may_rest_for(policy: FailoverPolicy, deployment: Deployment, case: Case, id_: str, seconds: float) -> float | None:
    return seconds if id_ != deployment.id else policy.may_rest_for(deployment, case, seconds)


def _uncount(core: Any, key: str) -> None:
    """Take out of LiteLLM's counter what one failure has put in; a cooldown ends with the breaker's rest."""
    memory = core._cache.in_memory_cache
    if memory.get_cache(key):
        memory.increment_cache(key, -1)
