"""Where nobody of a model is well, its fallback is asked at once instead of after every retry.

A model with one deployment and a fallback is the commonest layout. LiteLLM asks the deployment first in each request,
with all retries and their back-off, however long it has been down. Here such a request is told what LiteLLM tells one
whose deployments all cool down, so that LiteLLM's own fallbacks follow: but for one request per rest, which finds out
whether the deployment is back. If every fallback fails as well, the request is made again as it would have been.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.engine.failover.blame import FOREIGN, Terms
from fast_router.engine.failover.failures import ENDED
from fast_router.litellm_plugin import request as running
from fast_router.litellm_plugin.layers.stack import Around, Call, Installed, plug
from fast_router.litellm_plugin.picks.binding import existing
from fast_router.litellm_plugin.request import Bypass
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from fast_router.engine import Deployment
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.layers.stack import Arguments, Request
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding
    from fast_router.litellm_plugin.request import RequestLedger

__all__ = ["as_ever", "install", "members_of", "passes_by"]

# Made-up answers come from nowhere; a key or an address of the caller's own may work where the deployment's does not.
_OWN_WAY = int(FOREIGN) | int(Terms.ANSWER)


def passes_by(core: Any, band: Band, ledger: RequestLedger, model: Any) -> bool:
    """Tell whether a request should leave a model alone for now, since a fallback of it is well; never raises.

    Args:
        core: The Router's core.
        band: This LiteLLM.
        ledger: What the request has tried.
        model: The model that it is about to ask.
    """
    failover = ledger.failover
    if failover is None or not failover.policy.dead or ledger.terms & _OWN_WAY:
        return False
    if ledger.bypass is None:
        ledger.bypass = Bypass()
    if ledger.bypass.over or not isinstance(model, str) or not settings.current().fallback_at_once:
        return False
    try:
        return _passes_by(core, band, ledger, ledger.bypass, model)
    except Exception as error:  # noqa: BLE001 - LiteLLM's own order stands
        tally.failed(error, "a fallback that goes first")
        return False


def _passes_by(core: Any, band: Band, ledger: RequestLedger, bypass: Bypass, model: str) -> bool:
    request, failover = ledger.request, ledger.failover
    if request is None or failover is None or request.get("disable_fallbacks") is True:
        return False
    if bypass.probe is not None and ledger.knows(bypass.probe) is None:
        return False  # it is the one that finds out
    dead = failover.policy.dead
    group = members_of(core, band, model)
    if not group or not dead.holds(group) or not _usable_way(core, band, ledger, bypass, model):
        return False
    # One that has failed before is no good probe: it would keep its caller waiting for what may fail again.
    verdict = dead.ask(group, may_probe=not ledger.attempts)
    if verdict.probe is not None:
        bypass.probe = verdict.probe
    if not verdict.dead:
        return False
    if not bypass.used:
        tally.event("fallback_at_once", model)
    bypass.used = True
    bypass.skipped = bypass.skipped or model != request.get("model")
    return True


def members_of(core: Any, band: Band, model: str) -> list[Deployment]:
    """Give the deployments of a model, also by an alias or a wildcard; empty if one of them is not known."""
    binding = existing(core)
    if binding is None:
        return []
    known = binding.engine.deployments
    entries = band.call(core, "get_model_list", model_name=model) or ()
    found = [known.get(str((entry.get("model_info") or {}).get("id"))) for entry in entries]
    return [] if None in found else [member for member in found if member is not None]


# -- where else to ask ---------------------------------------------------------------------------------------


def _usable_way(core: Any, band: Band, ledger: RequestLedger, bypass: Bypass, model: str) -> bool:
    """Tell whether one of the fallbacks that LiteLLM would go on to is well, as far as anybody knows."""
    request = ledger.request or {}
    listed = request["fallbacks"] if "fallbacks" in request else band.read(core, "fallbacks")
    ways = _ways(listed, model)
    if bypass.ways is None:
        bypass.ways = _ways(listed, str(request.get("model")))
    if model in bypass.ways:
        ways += bypass.ways[bypass.ways.index(model) + 1 :]
    return any(_usable(core, band, ledger, way) for way in ways if way not in (model, request.get("model")))


def _ways(listed: Any, model: str) -> tuple[str, ...]:
    """Give the names of a model's fallbacks, as LiteLLM reads them off its setting or a request."""
    if not isinstance(listed, list) or not listed:
        return ()
    from litellm.router_utils import fallback_event_handlers as litellms  # noqa: PLC0415 - LiteLLM is imported

    names = ("check_non_standard_fallback_format", "_check_non_standard_fallback_format")
    plain = next(found for name in names if (found := getattr(litellms, name, None)) is not None)
    found = listed if plain(fallbacks=listed) else litellms.get_fallback_model_group(listed, model)[0]
    named = [way.get("model") if isinstance(way, Mapping) else way for way in found or ()]
    return tuple(name for name in named if isinstance(name, str))


def _usable(core: Any, band: Band, ledger: RequestLedger, way: str) -> bool:
    """Tell whether somebody of a fallback is well; one that was never asked is taken to be."""
    failover, binding = ledger.failover, existing(core)
    if failover is None or binding is None:
        return False
    entries = band.call(core, "get_model_list", model_name=way) or ()
    known = binding.engine.deployments
    for entry in entries:
        id_ = str((entry.get("model_info") or {}).get("id"))
        member = known.get(id_)
        if member is None or not (member.held or failover.policy.doubtful(id_) or ledger.knows(id_)):
            return True
    return False


# -- in LiteLLM's loops --------------------------------------------------------------------------------------


def install(patches: PatchSet, band: Band) -> None:
    """Pass models by before their first attempt, and have a request made as ever if that was of no use."""
    if band.has(Around.RETRIES.value):
        plug(patches, band, Around.REQUEST, "fallback_at_once", Installed(_wanted, _around_request))
        plug(patches, band, Around.RETRIES, "fallback_at_once", Installed(_wanted, _around_retries))


def _wanted(_binding: Binding, _core: Any) -> bool:
    return settings.current().fallback_at_once


def _around_request(inner: Call, _binding: Binding) -> Call:
    async def async_function_with_fallbacks(core: Any, args: Arguments, kwargs: Request) -> Any:
        ledger = running.ledger.get()
        if ledger is None or ledger.hop:
            return await inner(core, args, kwargs)
        try:
            return await inner(core, args, kwargs)
        except Exception:
            again = as_ever(ledger, kwargs)
            if again is None:
                raise
        # Outside of the handler: what follows does not come of that error.
        return await inner(core, args, again)

    return async_function_with_fallbacks


def _around_retries(inner: Call, binding: Binding) -> Call:
    band = binding.band  # not the binding itself, which would hold itself by this layer

    def async_function_with_retries(core: Any, args: Arguments, kwargs: Request) -> Awaitable[Any]:
        ledger = running.ledger.get()
        if ledger is not None and passes_by(core, band, ledger, kwargs.get("model")):
            raise _refusal(core, band, kwargs["model"])
        return inner(core, args, kwargs)

    return async_function_with_retries


def _refusal(core: Any, band: Band, model: str) -> Exception:
    """What LiteLLM says where all deployments of a model cool down."""
    from litellm.types.router import RouterRateLimitError  # noqa: PLC0415 - LiteLLM is imported

    binding = existing(core)
    members = members_of(core, band, model)
    now = 0.0 if binding is None else binding.engine.clock()
    failover = None if binding is None else binding.router.failover
    left = [failover.breaker(member).next_probe() - now for member in members] if failover is not None else []
    error: Exception = RouterRateLimitError(
        model=model,
        cooldown_time=max(0.1, round(min(left, default=0.0), 1)),
        enable_pre_call_checks=False,
        cooldown_list=[],
    )
    # What the fallbacks raise comes of nothing that this one says.
    vars(error)[ENDED] = True
    return error


def as_ever(ledger: RequestLedger, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """What to ask LiteLLM for once every fallback has failed; None if nothing was passed by.

    Args:
        ledger: Of the request.
        request: Its keyword arguments.
    """
    bypass = ledger.bypass
    if bypass is None or not bypass.used or bypass.over:
        return None
    bypass.over = True
    # The fallbacks have had their turn, unless one of them was passed by as well.
    return dict(request) if bypass.skipped else {**request, "disable_fallbacks": True}
