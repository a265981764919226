"""One attempt: what happens between a pick and the end of the call that was made with it.

Every endpoint of LiteLLM, synchronous or not, makes each of its attempts through `Router.make_call`. That is where
an `Attempt` begins and, unless it streams, where it ends; a stream takes it along until it is read to its end,
closed or dropped. Its failure is told to the request that it belongs to, a retry comes out of a budget, and a second
attempt may be started beside it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin import request
from fast_router.litellm_plugin.answers import cached_of, is_cache_hit, usage_of
from fast_router.litellm_plugin.layers import rescue
from fast_router.litellm_plugin.layers.beside import paired
from fast_router.litellm_plugin.layers.failures import judge
from fast_router.litellm_plugin.layers.fallback_at_once import passes_by
from fast_router.litellm_plugin.layers.retry_timing import spend
from fast_router.litellm_plugin.layers.stack import Around, Call, Installed, plug
from fast_router.litellm_plugin.layers.stream import follow, install_usage, streams
from fast_router.litellm_plugin.request import Attempt, Context, here
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.layers.stack import Arguments, Request
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding

__all__ = ["answered", "failed", "install"]


def _around(inner: Call, binding: Binding) -> Call:
    band = binding.band  # not the binding itself, which would hold itself by this layer
    context, enter, request_of = here.get, here.set, request.ledger.get
    rescues = rescue.wanted()

    async def make_call(core: Any, args: Arguments, kwargs: Request) -> Any:
        ledger = request_of()
        model = kwargs.get("model")
        pair = outer_pair = None
        if ledger is not None:
            outer_pair, ledger.beside = ledger.beside, None
            if ledger.attempts and ledger.raised is not None and ledger.model == model:
                if passes_by(core, band, ledger, model) or not spend(ledger):
                    ledger.refusals += 1
                    raise ledger.raised
                tally.event("retry", model)
            ledger.model = model
            if rescues and outer_pair is None:
                pair = paired(ledger, make_call, core, args, kwargs)
        attempt = Attempt(model, ledger)
        if pair is not None:
            pair.take(attempt)
        elif outer_pair is not None:
            outer_pair.take(attempt)
        outer = context()
        enter(Context(attempt, outer.reading, outer.filtered, outer.aside))
        try:
            response = await inner(core, args, kwargs)
        except BaseException as error:
            failed(attempt, error)
            if ledger is not None and isinstance(error, Exception):
                judge(core, band, ledger, error, kwargs)
            if pair is not None and pair.failed():
                return await pair.settle(error)
            raise
        finally:
            enter(outer)
        if pair is not None:
            pair.close()
        return answered(attempt, response)

    return make_call


def answered(attempt: Attempt, response: Any) -> Any:
    """End the attempt, or hand it to the stream; returns what the caller gets."""
    if attempt.lease is None:
        attempt.end()
        return response
    try:
        if is_cache_hit(response):
            # Nobody was asked: it says nothing about the deployment, neither its speed nor its health.
            attempt.end(cancelled=True)
        elif streams(type(response)):
            response = follow(response, attempt)
        else:
            completion, total = usage_of(response)
            if attempt.lease.deployment.work is None:
                attempt.end(completion_tokens=completion, total_tokens=total)
            else:
                prompt, cached = cached_of(response)
                attempt.end(
                    completion_tokens=completion, total_tokens=total, prompt_tokens=prompt, cached_tokens=cached
                )
    except Exception as error:  # noqa: BLE001 - the answer is there: it must reach the caller
        tally.failed(error, "the end of an attempt")
        attempt.end(cancelled=True)
    return response


def failed(attempt: Attempt, error: BaseException) -> None:
    """End an attempt that raised; never raises itself."""
    try:
        attempt.end(error)
    except Exception as ours:  # noqa: BLE001 - LiteLLM's error is the one to raise
        tally.failed(ours, "the end of an attempt")


def _broke(error: BaseException | None, mid_stream: type[BaseException]) -> None:
    """Note that a stream goes on at another deployment: the one that broke has no call in flight any more."""
    watch = here.get().reading
    if watch is not None and isinstance(error, mid_stream):
        watch.broken(getattr(error, "original_exception", None) or error)


def _recovering(mid_stream: type[BaseException]) -> Any:
    def around(inner: Call, _binding: Binding) -> Call:
        async def recovered(core: Any, args: Arguments, kwargs: Request) -> Any:
            _broke(kwargs.get("e", args[0] if args else None), mid_stream)
            return await inner(core, args, kwargs)

        return recovered

    return around


def _recovering_sync(mid_stream: type[BaseException]) -> Any:
    def around(inner: Call, _binding: Binding) -> Call:
        def recovered(core: Any, args: Arguments, kwargs: Request) -> Any:
            # It is called where the error is handled, without it.
            _broke(sys.exc_info()[1], mid_stream)
            return inner(core, args, kwargs)

        return recovered

    return around


def _always(_binding: Binding, _core: Any) -> bool:
    return True


def install(patches: PatchSet, band: Band) -> list[str]:
    """Follow every attempt of every Router."""
    plug(patches, band, Around.ATTEMPT, "attempts", Installed(_always, _around))
    if band.has(Around.RECOVERY.value):
        from litellm.exceptions import MidStreamFallbackError  # noqa: PLC0415

        plug(patches, band, Around.RECOVERY, "attempts", Installed(_always, _recovering(MidStreamFallbackError)))
        plug(
            patches, band, Around.REQUEST_SYNC, "attempts", Installed(_always, _recovering_sync(MidStreamFallbackError))
        )
    install_usage(patches)
    return ["attempts"]
