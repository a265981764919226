"""The shortest way of an attempt: what `attempts`, streams, failover, hedging and waiting do to a first, plain one.

Each of those stands around `Router.make_call` by itself, and for most requests all but one of them do nothing. A
request that has not failed yet, does not stream, and uses neither hedging nor waiting therefore passes this one
function; every other one takes the layers, in their order. A request's failure is told to the ledger here as the
layers tell it, so that its retry finds what it needs there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.litellm_plugin.layers import lease
from fast_router.litellm_plugin.layers.beside import Beside
from fast_router.litellm_plugin.layers.hedge import Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]

_ORIGINAL = "__fast_router_original__"


def install(patches: PatchSet, band: Band, kind: type[Any], seen: Callable[..., None]) -> None:
    """Let plain first attempts pass all layers at once; nothing to do where attempts are not followed.

    Args:
        patches: Where to register it; the layers are registered already.
        band: Where it goes.
        kind: The class of failover's ledgers.
        seen: Tells failover about a failed attempt: (core, band, ledger, error, keyword arguments).
    """
    name = band.slot("make_call")
    layer, followed = vars(band.core)[name], False
    while hasattr(layer, _ORIGINAL):
        followed = followed or layer.__module__ == lease.__name__
        layer = getattr(layer, _ORIGINAL)
    if followed:
        innermost = layer
        patches.replace(band.core, name, lambda layers: _make_call(layers, innermost, band, kind, seen))


def _make_call(layers: Any, innermost: Any, band: Band, kind: type[Any], seen: Callable[..., None]) -> Any:
    attempt_class, current, ledger_of = lease.Attempt, lease.current, lease.ledger.get
    attempt_of, enter, answered, failed = current.get, current.set, lease.answered, lease.failed
    options_now, call_class, pair_class = settings.current, Call, Beside

    async def make_call(self: Any, original_function: Any, *args: Any, **kwargs: Any) -> Any:
        ledger: Any = ledger_of()
        options = options_now()
        if (
            ledger.__class__ is not kind
            or ledger.attempts
            or options.hedge_percent
            or options.max_wait
            or kwargs.get("stream")
        ):
            return await layers(self, original_function, *args, **kwargs)
        model = ledger.model = kwargs.get("model")
        attempt = attempt_class(model, ledger)
        pair = None
        if options.rescue and ledger.failover is not None:
            call = call_class(layers, self, original_function, args, kwargs)
            pair = call.beside = pair_class(call, ledger, str(model))
            call.take(attempt)
        outer = attempt_of()
        enter(attempt)
        try:
            response = await innermost(self, original_function, *args, **kwargs)
        except BaseException as error:
            failed(attempt, error)
            if isinstance(error, Exception):
                ledger.raised = error
                seen(self, band, ledger, error, kwargs)
            if pair is not None:
                if pair.pending:
                    return await pair.settle(error)
                pair.over = True
            raise
        finally:
            enter(outer)
        if pair is not None:
            pair.close()
        return answered(attempt, response)

    return make_call
