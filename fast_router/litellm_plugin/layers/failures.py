"""Failures: each is entered in its request's ledger once, and judged once it is known whom to blame.

LiteLLM's retries, order tiers, weighted failover and fallbacks all come back to the pick, and the pick asks the ledger
who was tried. So an attempt that fails is entered as it ends, however it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.engine.failover.failures import classify
from fast_router.engine.failover.retry_after import retry_after_from_error
from fast_router.litellm_plugin.request import RequestLedger, here
from fast_router.litellm_plugin.rests import repairs
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.request import Attempt

__all__ = ["ended", "enter", "judge", "judged_later"]


def ended(attempt: Attempt, error: BaseException | None, cancelled: bool) -> None:
    """Enter the end of an attempt into its request's ledger and its group's budget; one of `request.on_end`."""
    ledger = attempt.ledger
    lease = attempt.lease
    if not isinstance(ledger, RequestLedger) or lease is None:
        return
    if not ledger.attempts and ledger.failover is not None:
        budget = ledger.failover.policy.budgets.of(lease.deployment.name)
        if budget is not None:
            budget.request(lease._engine.clock())
    if cancelled or attempt.foreign:
        cancelled = cancelled or error is None
    elif error is None and ledger.attempts and ledger.failover is not None:
        ledger.failover.policy.vindicated(ledger.case, lease.deployment)
    if error is not None and not cancelled:
        enter(ledger, attempt, error)


def enter(ledger: RequestLedger, attempt: Attempt, error: BaseException | None) -> None:
    """Note a failed attempt in a ledger, once however often it is told."""
    lease = attempt.lease
    if lease is None or error is None:
        return
    known = ledger.knows(lease.id)
    if known is not None and known.at >= lease.started and ledger.error == id(error):
        return
    ledger.failed(lease.id, classify(error), lease._engine.clock(), retry_after_from_error(error))
    ledger.error = id(error)


def judge(core: Any, band: Band, ledger: RequestLedger, error: Exception, kwargs: dict[str, Any]) -> None:
    """Keep a failed attempt's error for its retry, and have LiteLLM judge it if it speaks against the deployment.

    Args:
        core: The Router's core.
        band: How to call it.
        ledger: The request's.
        error: What the attempt, or its stream in place of a first chunk, raised.
        kwargs: The attempt's keyword arguments.
    """
    ledger.raised = error
    try:
        latest = ledger.last()
        if latest is None or ledger.error != id(error) or ledger.failover is None:
            return
        repairs.judge(core, band, ledger.failover.policy, ledger.case, error, latest, kwargs)
    except Exception as ours:  # noqa: BLE001 - LiteLLM's error is the one to raise
        tally.failed(ours, "judging a failure")


def judged_later(deployment_id: Any) -> bool:
    """Tell whether a failure that LiteLLM's callback hears of is that of the attempt which is still under way."""
    attempt = here.get().attempt
    if attempt is None or attempt.lease is None or getattr(attempt.ledger, "failover", None) is None:
        return False
    # A caller's own key or address makes a deployment of another id, of LiteLLM's.
    return attempt.foreign or attempt.lease.id == str(deployment_id)
