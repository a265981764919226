"""Failover inside LiteLLM's own loops: a ledger for each request, every failure seen, retries within a budget.

LiteLLM's retries, order tiers, weighted failover and fallbacks all come back to the pick. So one ledger per request
is enough for all of them: it is set where LiteLLM's outermost loop begins, `attempts` hands it to every pick, and
every failed attempt is entered as it ends. What LiteLLM retries, how often and in which order stays its own affair.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.engine.failover.failures import classify
from fast_router.engine.failover.ledger import AttemptLedger
from fast_router.engine.failover.retry_after import retry_after_from_error
from fast_router.litellm_plugin.callers import caller_of, terms_of
from fast_router.litellm_plugin.layers import (
    fallback_at_once,
    first_chunk,
    hedge,
    moderations,
    own_credentials,
    plain,
)
from fast_router.litellm_plugin.layers import lease as attempts
from fast_router.litellm_plugin.layers import wait as failover_waiting
from fast_router.litellm_plugin.picks.binding import existing
from fast_router.litellm_plugin.rests import repairs
from fast_router.litellm_plugin.rests.policy import LiteLLMFailover, policy_of
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from fast_router.engine.failover.budgets import CallersPart, RetryBudget
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.layers.lease import Attempt
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = [
    "RequestLedger", "ended", "enter", "install", "longer", "new_ledger", "spend", "within_budget",
]  # fmt: skip

# LiteLLM believes no Retry-After above this when it waits between two attempts.
_LONGEST_SLEEP = 60.0
_OWN_AFFAIR = 5.0
# A keyword argument on its way from a synchronous call to the loop that LiteLLM runs it on; it goes no further.
_ON_A_LOOP = "_fast_router_on_a_loop"


class RequestLedger(AttemptLedger):
    """The ledger of one request, over its retries and fallbacks.

    Attributes:
        bypass: What it has passed by, None before it was asked.
        failover: The Router's failover, None if it could not be made.
        request: Its keyword arguments; None once it is over.
        retries: How many retries it has spent.
        own_retries: Retries beyond which they are the caller's own wish, None if the Router's setting is not known.
        hedge: Whether it is a second attempt's beside the first.
        error: Identity of the error of the latest failure.
        model: The model name of the latest attempt.
        raised: The latest failure itself, for a retry that the budget refuses.
        may_wait: Whether it may wait: not if that would block an event loop.
        wait_until: Clock time in seconds until which it waits in all, None before its first wait.
        who: Who made it, once it is over and a stream of its own goes on.
    """

    __slots__ = (
        "bypass", "error", "failover", "hedge", "may_wait", "model", "own_retries", "raised", "request", "retries",
        "wait_until", "who",
    )  # fmt: skip

    def __init__(
        self, failover: LiteLLMFailover | None, request: Mapping[str, Any] | None = None, *, may_wait: bool = True
    ) -> None:
        super().__init__(None if failover is None else failover.policy.doubtful)
        self.failover = failover
        self.bypass: fallback_at_once.Bypass | None = None
        self.hedge = False
        self.request = request
        if request is not None:
            self.terms = terms_of(request)
        self.retries = 0
        self.own_retries: int | None = None
        self.error = 0
        self.model: object = None
        self.raised: Exception | None = None
        self.may_wait = may_wait
        self.wait_until: float | None = None
        self.who: Hashable | None = None

    def caller(self) -> Hashable | None:
        """Tell who makes the request; see `callers.caller_of`."""
        return self.who if self.request is None else caller_of(self.request)

    def fork(self) -> RequestLedger:
        """Give the ledger of a second attempt of the same request, made side by side with the first one."""
        fork = RequestLedger(self.failover)
        fork.hedge = True
        fork.request, fork.terms, fork._case = self.request, self.terms, self.case
        return fork

    def over(self) -> None:
        """Let go of what the request holds."""
        request, self.raised, self.request = self.request, None, None
        if request is not None and request.get("stream"):
            self.who = caller_of(request)  # its stream may yet break


def install(patches: PatchSet, band: Band) -> list[str]:
    """Put failover into every Router's loops.

    Returns:
        The features that are on, for `status()`.
    """
    attempts.on_end.append(ended)
    patches.on_restore(lambda: attempts.on_end.remove(ended))
    patches.replace(band.core, band.slot("async_function_with_fallbacks"), lambda original: _request(original, band))
    patches.replace(band.core, band.slot("function_with_fallbacks"), _synchronous_request)
    patches.replace(
        band.core,
        band.slot("async_function_with_fallbacks_common_utils"),
        lambda original: _mid_stream(original, band),
    )
    # From the inside out: a stream is an attempt up to its first token; each attempt's failure is seen; a hedge
    # runs two attempts side by side.
    off = settings.current().disabled_features
    done = ["failover"]
    if "stream_failover" not in off:
        done += first_chunk.install(patches, band)
    patches.replace(band.core, band.slot("make_call"), lambda original: _make_call(original, band))
    if "hedging" not in off:
        done += hedge.install(patches, band)
    patches.replace(band.core, band.slot("should_retry_this_error"), lambda original: _should_retry(original, band))
    patches.replace(band.core, band.slot("_time_to_sleep_before_retry"), lambda original: _sleep(original, band))
    fallback_at_once.install(patches, band, RequestLedger)
    repairs.install(patches, band, _judged_later)
    moderations.install(patches, band)
    own_credentials.install(patches, band)
    if "waiting" not in off:
        done += failover_waiting.install(patches, band)
    plain.install(patches, band, RequestLedger, _seen)
    return done


def new_ledger(core: Any, band: Band, kwargs: Mapping[str, Any], *, may_wait: bool = True) -> RequestLedger:
    """Give the ledger of a request that begins now; never raises."""
    failover = None
    try:
        failover = policy_of(core, band)
    except Exception as error:  # noqa: BLE001 - LiteLLM's own failover goes on
        tally.failed(error, "failover")
    return RequestLedger(failover, kwargs, may_wait=may_wait)


def appeal(ledger: RequestLedger, model: Any) -> None:
    """Let a request ask anew at a group that rests on the word of another caller alone."""
    failover = ledger.failover
    if failover is None or not failover.policy.disputed or not isinstance(model, str):
        return
    try:
        # An alias, a wildcard: it may be any group.
        failover.policy.appeal(model if failover.knows(model) else None, ledger.caller())
    except Exception as error:  # noqa: BLE001 - LiteLLM's own answer follows
        tally.failed(error, "an appeal")


def _request(original: Any, band: Band) -> Any:
    """Let the attempts made inside share a ledger; a fallback hop shares that of its request."""

    async def async_function_with_fallbacks(self: Any, *args: Any, **kwargs: Any) -> Any:
        outer = attempts.ledger.get()
        if isinstance(outer, RequestLedger):
            kwargs.pop(_ON_A_LOOP, None)
            appeal(outer, kwargs.get("model"))
            return await original(self, *args, **kwargs)
        ledger = new_ledger(self, band, kwargs, may_wait=not kwargs.pop(_ON_A_LOOP, None))
        token = attempts.ledger.set(ledger)
        appeal(ledger, kwargs.get("model"))
        try:
            if not settings.current().max_wait or not ledger.may_wait:
                try:
                    return await original(self, *args, **kwargs)
                except Exception:
                    again = fallback_at_once.as_ever(ledger, kwargs)
                    if again is None:
                        raise
                # Outside of the handler: what follows does not come of that error.
                return await original(self, *args, **again)
            return await _outlasting(self, original, args, kwargs, ledger)
        finally:
            attempts.ledger.reset(token)
            ledger.over()

    return async_function_with_fallbacks


async def _outlasting(core: Any, original: Any, args: Any, kwargs: dict[str, Any], ledger: RequestLedger) -> Any:
    async def call(request: dict[str, Any]) -> Any:
        ledger.raised = None
        try:
            return await original(core, *args, **request)
        except Exception:
            again = fallback_at_once.as_ever(ledger, request)
            if again is None:
                raise
        return await original(core, *args, **again)

    return await failover_waiting.outlasting(core, call, kwargs, ledger)


def _synchronous_request(original: Any) -> Any:
    """Tell a synchronous call that blocks somebody's event loop from one that only blocks its own thread."""

    def function_with_fallbacks(self: Any, *args: Any, **kwargs: Any) -> Any:
        if settings.current().max_wait:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                pass
            else:
                # LiteLLM runs it on a loop in a thread of its own, from where this one cannot be seen.
                kwargs[_ON_A_LOOP] = True
        return original(self, *args, **kwargs)

    return function_with_fallbacks


def _mid_stream(original: Any, band: Band) -> Any:
    """Let the fallback of a stream that broke know who broke it."""

    async def async_function_with_fallbacks_common_utils(self: Any, *args: Any, **kwargs: Any) -> Any:
        from fast_router.litellm_plugin.layers.stream_end import driving  # noqa: PLC0415

        error = kwargs.get("e", args[0] if args else None)
        if isinstance(error, Exception) and _before_its_first_token(error, kwargs.get("kwargs")):
            # Nobody has seen a token of it: LiteLLM's retries come before its fallbacks.
            raise getattr(error, "original_exception", None) or error
        watch = driving.get()
        if watch is None or attempts.ledger.get() is not None:
            return await original(self, *args, **kwargs)
        request = kwargs.get("kwargs")
        ledger = new_ledger(self, band, request if isinstance(request, dict) else {})
        token = attempts.ledger.set(ledger)
        try:
            earlier = watch.attempt.ledger
            if isinstance(earlier, RequestLedger):
                for attempt in earlier.attempts:
                    ledger.failed(*attempt)
            elif watch.attempt.lease is not None:
                enter(ledger, watch.attempt, error)
            return await original(self, *args, **kwargs)
        finally:
            attempts.ledger.reset(token)
            ledger.over()

    return async_function_with_fallbacks_common_utils


def _before_its_first_token(error: Exception, request: Any) -> bool:
    if first_chunk.beginning.get():
        return True
    # LiteLLM takes a synchronous stream's failure to a thread of its own, where that variable is not set. With
    # `stream_failover` nobody but us asks such a stream for its first chunk.
    function = request.get("original_function") if isinstance(request, dict) else None
    return (
        function is not None
        and getattr(error, "is_pre_first_chunk", False)
        and settings.current().stream_failover
        and not inspect.iscoroutinefunction(getattr(function, "__func__", function))
    )


# -- attempts ------------------------------------------------------------------------------------------------


def ended(attempt: Attempt, error: BaseException | None, cancelled: bool) -> None:
    """Enter the end of an attempt into its request's ledger and its group's budget; one of `attempts.on_end`."""
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


def _make_call(original: Any, band: Band) -> Any:
    async def make_call(self: Any, original_function: Any, *args: Any, **kwargs: Any) -> Any:
        ledger = attempts.ledger.get()
        if ledger.__class__ is not RequestLedger:
            return await original(self, original_function, *args, **kwargs)
        retried = ledger.raised if ledger.attempts and ledger.model == kwargs.get("model") else None
        if retried is not None and (fallback_at_once.passes_by(self, band, ledger, ledger.model) or not spend(ledger)):
            raise retried
        if retried is not None:
            tally.event("retry", kwargs.get("model"))
        ledger.model = kwargs.get("model")
        try:
            return await original(self, original_function, *args, **kwargs)
        except Exception as error:
            ledger.raised = error
            _seen(self, band, ledger, error, kwargs)
            raise

    return make_call


def _judged_later(deployment_id: Any) -> bool:
    """Tell whether a failure that LiteLLM's callback hears of is that of the attempt which is still under way."""
    attempt = attempts.current.get()
    if attempt is None or attempt.lease is None or getattr(attempt.ledger, "failover", None) is None:
        return False
    # A caller's own key or address makes a deployment of another id, of LiteLLM's.
    return attempt.foreign or attempt.lease.id == str(deployment_id)


def _seen(core: Any, band: Band, ledger: RequestLedger, error: Exception, kwargs: dict[str, Any]) -> None:
    try:
        latest = ledger.last()
        if latest is None or ledger.error != id(error) or ledger.failover is None:
            return
        repairs.judge(core, band, ledger.failover.policy, ledger.case, error, latest, kwargs)
    except Exception as ours:  # noqa: BLE001 - LiteLLM's error is the one to raise
        tally.failed(ours, "judging a failure")


# -- retries -------------------------------------------------------------------------------------------------


def _should_retry(original: Any, band: Band) -> Any:
    def should_retry_this_error(self: Any, error: Exception, *args: Any, **kwargs: Any) -> Any:
        result = original(self, error, *args, **kwargs)
        if _passes_by(self, band) or not within_budget():
            raise error
        return result

    return should_retry_this_error


def _passes_by(core: Any, band: Band) -> bool:
    """Tell whether the model of the latest attempt was found dead meanwhile: its fallback is asked instead."""
    ledger = attempts.ledger.get()
    return isinstance(ledger, RequestLedger) and fallback_at_once.passes_by(core, band, ledger, ledger.model)


def _budget(ledger: object) -> tuple[RetryBudget | CallersPart, float] | None:
    """Give the budget that the next retry comes out of, and the time.

    The group's is for what its deployments bring about. Retries after failures that are the request's or the caller's,
    and those beyond the Router's own setting, are the caller's: one that asks for fifty spends no other's.
    """
    if not isinstance(ledger, RequestLedger) or ledger.failover is None:
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
    found = _budget(attempts.ledger.get())
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
        if _passes_by(self, band):
            return 0.0  # no retry follows
        # LiteLLM sleeps after its last attempt, too; nothing follows for which the provider's time were worth heeding.
        return seconds if kwargs.get("remaining_retries") == 0 else longer(self, seconds)

    return _time_to_sleep_before_retry


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
    ledger = attempts.ledger.get()
    if not isinstance(ledger, RequestLedger) or not ledger.attempts:
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
