"""A deployment that falls silent: the requests that wait on it are asked elsewhere as well, once.

LiteLLM's own retry would do the same when the timeout is over, ten minutes later. So a request is rescued only where
LiteLLM would retry it, and within the retry budget.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.litellm_plugin.layers.beside import Beside, Pair
from fast_router.litellm_plugin.rests.policy import on_silent
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine import Deployment, Lease
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.rests.policy import LiteLLMFailover

__all__ = ["install", "wanted", "worth_twice"]

# What LiteLLM retries, and what is worth asking twice: no images, files, batches or recordings.
_ENDPOINTS = frozenset({
    "acompletion", "atext_completion", "aembedding", "aresponses", "anthropic_messages", "aanthropic_messages",
    "arerank", "completion", "embedding", "responses",
})  # fmt: skip


def install(patches: PatchSet) -> None:
    """Hear of deployments that fall silent."""
    on_silent.append(_rescue)
    patches.on_restore(lambda: on_silent.remove(_rescue))


def wanted() -> bool:
    """Tell whether attempts are to be made so that a second one may be started beside them."""
    return settings.current().rescue and _rescue in on_silent


def _rescue(failover: LiteLLMFailover, deployment: Deployment, admits: Callable[[Lease], bool]) -> None:
    """Start second attempts beside those that wait on a deployment; from any thread, never raises.

    Args:
        failover: Of the Router.
        deployment: Which one is silent.
        admits: Tells of an open lease whether it waits.
    """
    if not settings.current().rescue:
        return
    try:
        for attempt in tuple(deployment.attempts):
            lease, beside = attempt.lease, attempt.beside
            if lease is None or lease.seconds_to_first_token is not None or not admits(lease):
                continue
            if isinstance(beside, Beside) and not beside.loop.is_closed():
                beside.loop.call_soon_threadsafe(_start, failover, beside)
    except Exception as error:  # noqa: BLE001 - whoever has answered must not fail for it
        tally.failed(error, "a rescue")


def _start(failover: LiteLLMFailover, beside: Beside) -> None:
    try:
        lease = beside.lease
        if beside.over or beside.pending or lease is None or lease.seconds_to_first_token is not None:
            return
        if not _retried(failover, beside, lease.deployment) or not beside.has_others(lease.deployment):
            return
        if _spend(failover, beside, lease.deployment):
            beside.start("rescue")
    except Exception as error:  # noqa: BLE001 - the first attempt goes on
        tally.failed(error, "a rescue")


def worth_twice(pair: Pair) -> bool:
    """Tell whether a request may be asked twice at all."""
    if pair.endpoint.lstrip("_") not in _ENDPOINTS:
        return False
    # What a provider keeps would be kept twice, and what it was told before another one does not know.
    return not any(pair.request.get(key) for key in ("background", "store", "previous_response_id"))


def _retried(failover: LiteLLMFailover, beside: Beside, deployment: Deployment) -> bool:
    """Tell whether LiteLLM would retry the request if its attempt timed out now."""
    request, ledger = beside.pair.request, beside.ledger
    return worth_twice(beside.pair) and failover.retries_of(ledger.request or request, deployment) > ledger.retries


def _spend(failover: LiteLLMFailover, beside: Beside, deployment: Deployment) -> bool:
    policy, caller = failover.policy, beside.ledger.case.caller
    budget: Any = (
        policy.budgets.of(deployment.name) if caller is None else policy.budgets.spent_by(deployment.name, caller)
    )
    if budget is None or budget.retry(policy.engine.clock()):
        beside.ledger.retries += 1
        return True
    return False
