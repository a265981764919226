"""Second attempts beside first ones: when the first is later than usual (hedging), or its server is silent (rescue).

Hedging is opt-in, within a percentage; `rescue` says when the other kind is made, `beside` how both are. Synchronous
calls block the event loop that would have to watch them, so there is no second attempt beside theirs.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.engine.failover.hedging import HedgeOptions, HedgePolicy
from fast_router.litellm_plugin import request
from fast_router.litellm_plugin.answers import is_cache_hit
from fast_router.litellm_plugin.layers import rescue, threads
from fast_router.litellm_plugin.layers.beside import Beside, paired
from fast_router.litellm_plugin.layers.stack import Around, Call, Installed, is_asynchronous, plug

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.layers.stack import Arguments, Request
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding
    from fast_router.litellm_plugin.request import Failover

__all__ = ["install", "raced"]

# How soon it is looked again whether a first attempt has got its deployment.
_SOON = 0.005


def install(patches: PatchSet, band: Band) -> list[str]:
    """Let second attempts be made beside those of every Router."""
    rescue.install(patches)
    threads.install(patches, band)
    plug(patches, band, Around.ATTEMPT, "hedging", Installed(_wanted, _around))
    return ["hedging"]


def _wanted(_binding: Binding, _core: Any) -> bool:
    return settings.current().hedge_percent > 0


def _around(inner: Call, _binding: Binding) -> Call:
    # Whatever is not hedged passes without a frame of ours.
    def make_call(core: Any, args: Arguments, kwargs: Request) -> Awaitable[Any]:
        ledger = request.ledger.get()
        if ledger is None or ledger.attempts or not is_asynchronous(args, kwargs):
            return inner(core, args, kwargs)
        pair = paired(ledger, inner, core, args, kwargs)
        first = inner(core, args, kwargs)
        if pair is None:
            return first
        ledger.beside = pair
        return raced(pair, first, stream=bool(kwargs.get("stream")))

    return make_call


def _policy(failover: Failover, model: str) -> HedgePolicy:
    options = settings.current()
    wanted = HedgeOptions(delay=options.hedge_delay, percent=options.hedge_percent)
    known = failover.hedges.get(model)
    if known is None or known[0] != wanted:
        if known is None:
            failover.make_room(model)
        known = failover.hedges[model] = (wanted, HedgePolicy(wanted))
    return known[1]


async def raced(
    pair: Beside, first: Awaitable[Any], *, stream: bool, is_cached: Callable[[Any], bool] = is_cache_hit
) -> Any:
    """Make a request's first attempt, and a second one beside it if it is late and the budget allows it.

    Args:
        pair: Of the two.
        first: The first attempt.
        stream: Whether the answer is streamed.
        is_cached: Tells whether an answer comes from LiteLLM's cache.

    Returns:
        The first answer.

    Raises:
        Exception: What the first attempt raised, if nobody answered.
    """
    failover = pair.ledger.failover
    assert failover is not None
    hedge = _policy(failover, pair.model)
    hedge.request()
    delay = hedge.delay(stream=stream)
    clock = failover.policy.engine.clock
    began = clock()
    timer: asyncio.TimerHandle | None = None

    def late() -> None:
        nonlocal timer
        lease = pair.lease
        if pair.over or pair.pending:
            return
        if lease is None:
            timer = pair.loop.call_later(_SOON, late)
        elif pair.has_others(lease.deployment) and hedge.take() and not pair.start("hedge"):
            hedge.give_back()

    if delay is not None:
        timer = pair.loop.call_later(delay, late)
    try:
        answer = await pair.run(first)
    finally:
        if timer is not None:
            timer.cancel()
    if pair.why == "hedge" and pair.won:
        hedge.won += 1
    # Answers from LiteLLM's cache come at once: the others would all look late beside them.
    if not is_cached(answer):
        hedge.observe(clock() - began, stream=stream)
    return answer
