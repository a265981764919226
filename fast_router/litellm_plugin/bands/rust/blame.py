"""LiteLLM 1.110: its core records only failures that speak against their deployment.

The core counts and cools down from what its host tells it about an attempt, each attempt of a request by itself. What
is the request's, the caller's or nobody's is told as recorded already; a failure that counts is recorded by LiteLLM's
own rules, and its cooldown is let through if the evidence is enough for a rest. Both are taken back with the charge.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.rust import steps
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine.failover.policy import FailoverPolicy
    from fast_router.litellm_plugin.layers.failures import RequestLedger

__all__ = ["told", "withheld", "written"]

_PREFIX, _SUFFIX = "deployment:", ":cooldown"


def told(core: Any, ledger: RequestLedger, outcome: dict[str, Any]) -> dict[str, Any]:
    """Give what the core is told about an attempt that failed.

    Args:
        core: The Router's core.
        ledger: Its request's; the attempt has been entered.
        outcome: LiteLLM's own words.
    """
    case = ledger.case
    if not case.counted:
        return {**outcome, "recorded": True, "uncounted_request": True}
    charge, latest = case.charge, ledger.last()
    if charge is not None and latest is not None and charge.deployment.id == latest.id and charge.on_take_back is None:
        charge.on_take_back = partial(_uncount, core, latest.id)
    return outcome


def _uncount(core: Any, deployment_id: str) -> None:
    key = f"{deployment_id}:fails"
    memory = core._cache.in_memory_cache
    if memory.get_cache(key):
        memory.increment_cache(key, -1)


def _cooldown(step: Mapping[str, Any]) -> str | None:
    """The deployment that a `cache` step cools down, None if it does something else."""
    key = step.get("key")
    if step.get("op") == "set" and isinstance(key, str) and key.startswith(_PREFIX) and key.endswith(_SUFFIX):
        return key[len(_PREFIX) : -len(_SUFFIX)]
    return None


def _policy() -> tuple[FailoverPolicy, RequestLedger] | None:
    walking = steps.walk.get()
    if walking is None or walking.ledger.failover is None:
        return None
    return walking.ledger.failover.policy, walking.ledger


def withheld(step: Mapping[str, Any]) -> bool:
    """Tell whether a cooldown is not to be written: the evidence is not enough."""
    id_ = _cooldown(step)
    found = None if id_ is None else _policy()
    if id_ is None or found is None:
        return False
    try:
        deployment = found[0].engine.deployments.get(id_)
        return deployment is not None and not found[0].may_rest(deployment)
    except Exception as error:  # noqa: BLE001 - LiteLLM's own cooldown stands
        tally.failed(error, "a cooldown")
        return False


def written(step: Mapping[str, Any]) -> None:
    """Note that a cooldown was written: it is taken back with the charge that it follows from."""
    id_ = _cooldown(step)
    found = None if id_ is None else _policy()
    if id_ is None or found is None:
        return
    policy, ledger = found
    deployment = policy.engine.deployments.get(id_)
    if deployment is not None:
        policy.charged(ledger.case, deployment)
