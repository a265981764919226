"""The time and the budget of a retry: what LiteLLM retries and how often stays its own affair.

A group has one budget for all that its deployments bring about, so retries cannot make an outage worse; each caller
has a part of its own for what it brings about by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin import request
from fast_router.litellm_plugin.layers.fallback_at_once import passes_by
from fast_router.litellm_plugin.picks.binding import existing
from fast_router.litellm_plugin.request import RequestLedger
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine.failover.budgets import CallersPart, RetryBudget
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install", "longer", "paced", "spend", "within_budget"]

# LiteLLM believes no Retry-After above this when it waits between two attempts.
_LONGEST_SLEEP = 60.0
_OWN_AFFAIR = 5.0
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 8.0


def install(patches: PatchSet, band: Band) -> None:
    """Have LiteLLM ask for a budget before a retry, and wait as long as the provider asks for."""
    patches.replace(band.core, band.slot("should_retry_this_error"), lambda original: _should_retry(original, band))
    patches.replace(band.core, band.slot("_time_to_sleep_before_retry"), lambda original: _sleep(original, band))


def _should_retry(original: Any, band: Band) -> Any:
    def should_retry_this_error(self: Any, error: Exception, *args: Any, **kwargs: Any) -> Any:
        result = original(self, error, *args, **kwargs)
        if _passes_by(self, band) or not within_budget():
            raise error
        return result

    return should_retry_this_error


def _passes_by(core: Any, band: Band) -> bool:
    """Tell whether the model of the latest attempt was found dead meanwhile: its fallback is asked instead."""
    ledger = request.ledger.get()
    return ledger is not None and passes_by(core, band, ledger, ledger.model)


def _budget(ledger: RequestLedger | None) -> tuple[RetryBudget | CallersPart, float] | None:
    """Give the budget that the next retry comes out of, and the time.

    The group's is for what its deployments bring about. Retries after failures that are the request's or the caller's,
    and those beyond the Router's own setting, are the caller's: one that asks for fifty spends no other's.
    """
    if ledger is None or ledger.failover is None:
        return None
    latest = ledger.last()
    policy = ledger.failover.policy
    deployment = None if latest is None else policy.engine.deployments.get(latest.id)
    if deployment is None:
        return None
    if ledger.own_retries is None:
        ledger.own_retries = ledger.failover.own_retries()
    case = ledger.case
    beyond = ledger.retries >= ledger.own_retries
    share = None
    if case.caller is not None and (beyond or not case.counted):
        share = case.caller
    elif beyond:
        share = "unknown"  # whoever they are, they have one share together
    budget: RetryBudget | CallersPart | None
    if share is None and case.caller is not None:
        budget = policy.budgets.spent_by(deployment.name, case.caller)
    else:
        budget = policy.budgets.of(deployment.name, share)
    return None if budget is None else (budget, policy.engine.clock())


def within_budget() -> bool:
    """Tell whether the running request's group may retry at all; counts a refusal if it may not."""
    found = _budget(request.ledger.get())
    if found is None or found[0].left(found[1]) >= 1:
        return True
    found[0].refuse()
    return False


def spend(ledger: RequestLedger) -> bool:
    """Take one retry from the budget; False if there is none.

    LiteLLM asks before a retry (see above), but not under a retry policy.
    """
    found = _budget(ledger)
    ledger.retries += 1
    return found is None or found[0].retry(found[1])


def _sleep(original: Any, band: Band) -> Any:
    def _time_to_sleep_before_retry(self: Any, e: Exception, *args: Any, **kwargs: Any) -> float:
        seconds = float(original(self, e, *args, **kwargs))
        ledger = request.ledger.get()
        if _passes_by(self, band):
            return paced(ledger, 0.0)  # no retry follows
        # LiteLLM sleeps after its last attempt, too; nothing follows for which the provider's time were worth heeding.
        return paced(ledger, seconds if kwargs.get("remaining_retries") == 0 else longer(self, seconds))

    return _time_to_sleep_before_retry


def paced(ledger: RequestLedger | None, seconds: float) -> float:
    """Wait ever longer where a retry is refused again and again: LiteLLM begins as many as a caller has asked for.

    A thousand million of them, without a call and without a pause, would keep the event loop busy for good.

    Args:
        ledger: The request's.
        seconds: How long the pause would be otherwise.
    """
    if ledger is None or not ledger.refusals:
        return seconds
    return max(seconds, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(ledger.refusals - 1, 10)))


def longer(core: Any, seconds: float) -> float:
    """Heed what the provider asks for where the next attempt can only repeat one that failed; never raises.

    Args:
        core: The Router's core.
        seconds: How long LiteLLM would wait before the retry.
    """
    try:
        return _longer(core, seconds)
    except Exception as error:  # noqa: BLE001 - LiteLLM's own time stands
        tally.failed(error, "the time before a retry")
        return seconds


def _longer(core: Any, seconds: float) -> float:
    ledger = request.ledger.get()
    if ledger is None or not ledger.attempts:
        return seconds
    binding = existing(core)
    latest = ledger.last()
    deployment = None if binding is None or latest is None else binding.engine.deployments.get(latest.id)
    if binding is None or deployment is None or ledger.failover is None:
        return seconds
    now = binding.engine.clock()
    waits = []
    for member in ledger.failover.members(deployment):
        known = ledger.knows(member.id)
        if member.held:
            continue
        if known is None:
            return seconds
        waits.append(max(0.0, known.at + (known.retry_after or 0.0) - now))
    wait = min(waits, default=0.0)
    # What a request has met everywhere is its own affair: it is not kept waiting for a provider's word to it.
    longest = _OWN_AFFAIR if ledger.case.followed else _LONGEST_SLEEP
    return seconds if wait > longest else max(seconds, wait)
