"""Second attempts beside first ones: when the first is later than usual (hedging), or its server is silent (rescue).

Hedging is opt-in, within a percentage; `rescue` says when the other kind is made, `beside` how both are. Synchronous
calls block the event loop that would have to watch them, so there is no second attempt beside theirs.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Protocol

from fast_router import settings
from fast_router.engine.failover.hedging import HedgeOptions, HedgePolicy
from fast_router.litellm_plugin.layers import lease as attempts
from fast_router.litellm_plugin.layers.beside import Beside, Pair, beside, take_metadata
from fast_router.litellm_plugin.layers.rescue import rescue
from fast_router.litellm_plugin.rests.policy import on_silent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from fast_router.engine import Lease
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.rests.policy import LiteLLMFailover

__all__ = ["Call", "Hedged", "install", "raced"]

# How soon it is looked again whether a first attempt has got its deployment.
_SOON = 0.005


def install(patches: PatchSet, band: Band) -> list[str]:
    """Let second attempts be made beside those of every Router."""
    patches.replace(band.core, band.slot("make_call"), _make_call)
    on_silent.append(rescue)
    patches.on_restore(lambda: on_silent.remove(rescue))
    return ["hedging"]


def _make_call(original: Any) -> Any:
    async def make_call(self: Any, original_function: Any, *args: Any, **kwargs: Any) -> Any:
        options = settings.current()
        ledger: Any = attempts.ledger.get()
        hedges = options.hedge_percent > 0 and ledger is not None and not ledger.attempts
        if (
            not (hedges or options.rescue)
            or ledger is None
            or ledger.hedge
            or getattr(ledger, "failover", None) is None
            or not inspect.iscoroutinefunction(getattr(original_function, "__func__", original_function))
        ):
            return await original(self, original_function, *args, **kwargs)
        call = Call(original, self, original_function, args, kwargs)
        pair = call.beside = Beside(call, ledger, str(kwargs.get("model")))
        first = call.first()
        return await (raced(call, pair, first, stream=bool(kwargs.get("stream"))) if hedges else pair.run(first))

    return make_call


def _policy(failover: LiteLLMFailover, model: str) -> HedgePolicy:
    options = settings.current()
    wanted = HedgeOptions(delay=options.hedge_delay, percent=options.hedge_percent)
    known = failover.hedges.get(model)
    if known is None or known[0] != wanted:
        if known is None:
            failover.make_room(model)
        known = failover.hedges[model] = (wanted, HedgePolicy(wanted))
    return known[1]


class Hedged(Pair, Protocol):
    """A request that may be hedged."""

    def is_cached(self, answer: Any) -> bool:
        """Tell whether an answer comes from LiteLLM's cache."""


async def raced(hedged: Hedged, pair: Beside, first: Awaitable[Any], *, stream: bool) -> Any:
    """Make a request's first attempt, and a second one beside it if it is late and the budget allows it.

    Args:
        hedged: How the second is made.
        pair: Of the two.
        first: The first attempt.
        stream: Whether the answer is streamed.

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
        lease = hedged.lease
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
    if not hedged.is_cached(answer):
        hedge.observe(clock() - began, stream=stream)
    return answer


class Call:
    """The attempts of `Router.make_call`.

    Attributes:
        beside: The pair that it is of, until there is an attempt.
        request: The request's keyword arguments.
    """

    def __init__(self, original: Any, core: Any, function: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._original = original
        self._core = core
        self._function = function
        self._args = args
        self._seconds: dict[str, Any] = {}
        self._attempt: attempts.Attempt | None = None
        self.beside: Beside | None = None
        self.request: Mapping[str, Any] = kwargs

    @property
    def lease(self) -> Lease | None:
        """As of any pair."""
        return None if self._attempt is None else self._attempt.lease

    @property
    def endpoint(self) -> str:
        """As of any pair."""
        function = self.request.get("original_generic_function") or self._function
        return str(getattr(function, "__name__", ""))

    async def first(self) -> Any:
        """Make the first attempt."""
        return await self._original(self._core, self._noting(self._function), *self._args, **self.request)

    async def second(self) -> Any:
        """As of any pair."""
        self._seconds = beside(self.request)
        return await self._original(self._core, self._function, *self._args, **self._seconds)

    @staticmethod
    def is_cached(answer: Any) -> bool:
        """As of any that may be hedged."""
        return attempts.is_cache_hit(answer)

    def second_won(self) -> None:
        """As of any pair."""
        take_metadata(self.request, self._seconds)

    def take(self, attempt: attempts.Attempt) -> None:
        """Let `attempt` be the first one."""
        self._attempt = attempt
        # Given away: whoever is done with the attempt lets go of all this.
        attempt.beside, self.beside = self.beside, None

    def _noting(self, function: Any) -> Any:
        async def noted(*args: Any, **kwargs: Any) -> Any:
            attempt = attempts.current.get()
            if attempt is not None:
                self.take(attempt)
            return await function(*args, **kwargs)

        noted.__name__ = getattr(function, "__name__", noted.__name__)
        return noted
