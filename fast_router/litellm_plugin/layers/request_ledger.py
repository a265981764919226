"""A request's ledger: it is there from LiteLLM's outermost loop on, and every attempt made inside shares it.

One ledger per request is enough for LiteLLM's retries, order tiers, weighted failover and fallbacks: all of them come
back to the pick. What LiteLLM retries, how often and in which order stays its own affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.litellm_plugin import request as running
from fast_router.litellm_plugin.layers import (
    fallback_at_once,
    first_chunk,
    hedge,
    not_given,
    own_credentials,
    retry_timing,
    single_attempts,
    wait,
)
from fast_router.litellm_plugin.layers.failures import ended, enter, judged_later
from fast_router.litellm_plugin.layers.stack import Around, Call, Installed, is_asynchronous, plug
from fast_router.litellm_plugin.layers.wait import ON_A_LOOP
from fast_router.litellm_plugin.request import RequestLedger
from fast_router.litellm_plugin.rests import repairs
from fast_router.litellm_plugin.rests.policy import policy_of
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.layers.stack import Arguments, Request
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding

__all__ = ["appeal", "install", "new_ledger"]


def install(patches: PatchSet, band: Band) -> list[str]:
    """Put failover into every Router's loops.

    Returns:
        The features that are on, for `status()`.
    """
    running.on_end.append(ended)
    patches.on_restore(lambda: running.on_end.remove(ended))
    plug(patches, band, Around.REQUEST, "failover", Installed(_always, _around))
    plug(patches, band, Around.RECOVERY, "failover", Installed(_always, _around_recovery))
    retry_timing.install(patches, band)
    fallback_at_once.install(patches, band)
    repairs.install(patches, band, judged_later)
    single_attempts.install(patches, band)
    own_credentials.install(patches, band)
    not_given.install(patches, band)
    off = settings.current().disabled_features
    done = ["failover"]
    for name, part in (("stream_failover", first_chunk), ("hedging", hedge), ("waiting", wait)):
        if name not in off:
            done += part.install(patches, band)
    return done


def _always(_binding: Binding, _core: Any) -> bool:
    return True


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


def _around(inner: Call, binding: Binding) -> Call:
    band = binding.band  # not the binding itself, which would hold itself by this layer
    request_of, enter = running.ledger.get, running.ledger.set

    async def async_function_with_fallbacks(core: Any, args: Arguments, kwargs: Request) -> Any:
        on_a_loop = kwargs.pop(ON_A_LOOP, None)
        outer = request_of()
        if outer is not None:
            # A fallback shares the ledger of its request.
            outer.hop = True
            appeal(outer, kwargs.get("model"))
            return await inner(core, args, kwargs)
        ledger = new_ledger(core, band, kwargs, may_wait=not on_a_loop)
        ledger.goes_on_from(running.here.get().reading)
        enter(ledger)
        appeal(ledger, kwargs.get("model"))
        try:
            return await inner(core, args, kwargs)
        finally:
            enter(None)
            ledger.over()

    return async_function_with_fallbacks


def _around_recovery(inner: Call, binding: Binding) -> Call:
    """Let the fallback of a stream that broke know who broke it."""
    band = binding.band

    async def async_function_with_fallbacks_common_utils(core: Any, args: Arguments, kwargs: Request) -> Any:
        error = kwargs.get("e", args[0] if args else None)
        if isinstance(error, Exception) and _before_its_first_token(error, kwargs.get("kwargs")):
            # Nobody has seen a token of it: LiteLLM's retries come before its fallbacks.
            raise getattr(error, "original_exception", None) or error
        watch = running.here.get().reading
        if watch is None or running.ledger.get() is not None:
            return await inner(core, args, kwargs)
        request = kwargs.get("kwargs")
        ledger = new_ledger(core, band, request if isinstance(request, dict) else {})
        running.ledger.set(ledger)
        try:
            earlier = watch.attempt.ledger
            if isinstance(earlier, RequestLedger):
                for attempt in earlier.attempts:
                    ledger.failed(*attempt)
            elif watch.attempt.lease is not None:
                enter(ledger, watch.attempt, error)
            return await inner(core, args, kwargs)
        finally:
            running.ledger.set(None)
            ledger.over()

    return async_function_with_fallbacks_common_utils


def _before_its_first_token(error: Exception, request: Any) -> bool:
    ledger = running.ledger.get()
    if ledger is not None and ledger.beginning:
        return True
    # LiteLLM takes a synchronous stream's failure to a thread of its own, where its request is not known. With
    # `stream_failover` nobody but us asks such a stream for its first chunk.
    return (
        isinstance(request, dict)
        and request.get("original_function") is not None
        and getattr(error, "is_pre_first_chunk", False)
        and settings.current().stream_failover
        and not is_asynchronous((), request)
    )
