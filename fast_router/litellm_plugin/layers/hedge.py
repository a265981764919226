"""A second attempt beside a slow first one: opt-in, within a percentage, never after the first token.

A hedge races two whole attempts of LiteLLM, each with its own lease; a stream counts as answered with its first
chunk. Whoever answers first wins, the other is cancelled and its lease released. Synchronous calls block the event
loop that would have to watch them, so they are never hedged.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Protocol

from fast_router import settings
from fast_router.engine.failover.failures import FailureKind
from fast_router.engine.failover.hedging import HedgeOptions, HedgePolicy
from fast_router.litellm_plugin import request
from fast_router.litellm_plugin.answers import is_cache_hit
from fast_router.litellm_plugin.layers.stack import Around, Call, Installed, plug
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from fast_router.engine import Deployment, Lease
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding
    from fast_router.litellm_plugin.request import Failover, RequestLedger

__all__ = ["Hedged", "Race", "beside", "install", "take_metadata"]

_METADATA = ("metadata", "litellm_metadata")


def install(patches: PatchSet, band: Band) -> list[str]:
    """Let first attempts be hedged where the options ask for it."""
    plug(patches, band, Around.ATTEMPT, "hedging", Installed(_wanted, _around))
    return ["hedging"]


def _wanted(_binding: Binding, _core: Any) -> bool:
    return settings.current().hedge_percent > 0


def _around(inner: Call, _binding: Binding) -> Call:
    def make_call(core: Any, original_function: Any, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        ledger = request.ledger.get()
        if (
            ledger is None
            or ledger.attempts
            or ledger.failover is None
            or not inspect.iscoroutinefunction(getattr(original_function, "__func__", original_function))
        ):
            return inner(core, original_function, *args, **kwargs)
        call = _Call(inner, core, original_function, args, kwargs)
        return Race(call, ledger, str(kwargs.get("model")), stream=bool(kwargs.get("stream"))).run()

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


class Hedged(Protocol):
    """A request's first attempt, and how a second one beside it is made."""

    @property
    def lease(self) -> Lease | None:
        """The first attempt's, None before its pick."""

    async def first(self) -> Any:
        """Make the first attempt.

        Raises:
            Exception: It failed.
        """

    async def second(self) -> Any:
        """Make the second one; called with a ledger of its own that knows the first one's deployment.

        Raises:
            Exception: It failed, or there is nobody to make it.
        """

    def is_cached(self, answer: Any) -> bool:
        """Tell whether an answer comes from LiteLLM's cache."""

    def second_won(self) -> None:
        """Take over what the second attempt has left."""


class Race:
    """One request's first attempt, and perhaps a second one beside it.

    Args:
        hedged: How both are made.
        ledger: What the request has tried; it knows its Router's failover.
        model: The model name as the request has it.
        stream: Whether the answer is streamed.
    """

    def __init__(self, hedged: Hedged, ledger: RequestLedger, model: str, *, stream: bool) -> None:
        self._hedged = hedged
        self._ledger = ledger
        assert ledger.failover is not None
        self._failover = ledger.failover
        self._model = model
        self._stream = stream
        self._hedge = _policy(self._failover, model)

    async def run(self) -> Any:
        """Give the first answer.

        Raises:
            Exception: What the first attempt raised, if nobody answered.
        """
        self._hedge.request()
        delay = self._hedge.delay(stream=self._stream)
        clock = self._failover.policy.engine.clock
        began = clock()
        if delay is None:
            answer = await self._hedged.first()
            return self._observed(answer, clock() - began)
        first: asyncio.Future[Any] = asyncio.ensure_future(self._hedged.first())
        try:
            await asyncio.wait({first}, timeout=delay)
        except asyncio.CancelledError:
            first.cancel()
            raise
        if not first.done():
            second = self._second()
            if second is not None:
                answer = await self._decide(first, *second)
                return self._observed(answer, clock() - began)
        answer = await first
        return self._observed(answer, clock() - began)

    def _observed(self, answer: Any, seconds: float) -> Any:
        # Answers from LiteLLM's cache come at once: the others would all look late beside them.
        if not self._hedged.is_cached(answer):
            self._hedge.observe(seconds, stream=self._stream)
        return answer

    def _second(self) -> tuple[asyncio.Task[Any], RequestLedger] | None:
        """Start the second attempt; None if there is nobody to make it or no budget."""
        try:
            lease = self._hedged.lease
            if lease is None or not self._others(lease.deployment) or not self._hedge.take():
                return None
            fork = self._ledger.fork()
            fork.failed(lease.id, FailureKind.TIMEOUT, self._failover.policy.engine.clock())
            token = request.ledger.set(fork)
            try:
                task = asyncio.ensure_future(self._hedged.second())
            finally:
                request.ledger.reset(token)
        except Exception as error:  # noqa: BLE001 - the first attempt is still running
            tally.failed(error, "a hedge")
            return None
        tally.event("hedge", self._model)
        return task, fork

    def _others(self, deployment: Deployment) -> bool:
        return any(not m.held for m in self._failover.members(deployment) if m is not deployment)

    async def _decide(self, first: asyncio.Future[Any], second: asyncio.Future[Any], fork: RequestLedger) -> Any:
        running = {first, second}
        winner: asyncio.Future[Any] | None = None
        try:
            while running and winner is None:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                # If both are there, the first attempt is the one that LiteLLM's bookkeeping knows.
                for task in sorted(done, key=lambda t: t is second):
                    if not task.cancelled() and task.exception() is None:
                        winner = winner or task
        finally:
            if winner is second and not first.done():
                self._overtaken()
            for task in (first, second):
                if task is not winner:
                    _drop(task)
        for attempt in fork.attempts[1:]:
            self._ledger.failed(*attempt)
        if winner is None:
            return first.result()
        if winner is second:
            self._hedge.won += 1
            tally.event("hedge_won", self._model)
            self._hedged.second_won()
        return winner.result()

    def _overtaken(self) -> None:
        """Hold the first attempt's silence against its deployment, before its cancellation blames nobody."""
        lease = self._hedged.lease
        if lease is None or not lease.open:
            return
        try:
            self._failover.policy.overtaken(lease)
        except Exception as error:  # noqa: BLE001 - the answer is there: it must reach the caller
            tally.failed(error, "a hedge")


class _Call:
    """The attempts of `Router.make_call`."""

    def __init__(self, original: Any, core: Any, function: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._original = original
        self._core = core
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._seconds: dict[str, Any] = {}
        self._attempt: request.Attempt | None = None

    @property
    def lease(self) -> Lease | None:
        return None if self._attempt is None else self._attempt.lease

    async def first(self) -> Any:
        return await self._original(self._core, self._noting(self._function), *self._args, **self._kwargs)

    async def second(self) -> Any:
        self._seconds = beside(self._kwargs)
        return await self._original(self._core, self._function, *self._args, **self._seconds)

    @staticmethod
    def is_cached(answer: Any) -> bool:
        return is_cache_hit(answer)

    def second_won(self) -> None:
        take_metadata(self._kwargs, self._seconds)

    def _noting(self, function: Any) -> Any:
        async def noted(*args: Any, **kwargs: Any) -> Any:
            self._attempt = request.current.get()
            return await function(*args, **kwargs)

        noted.__name__ = getattr(function, "__name__", noted.__name__)
        return noted


def beside(request: Mapping[str, Any]) -> dict[str, Any]:
    """Give a request for an attempt beside another one, with metadata of its own."""
    copied = dict(request)
    for name in _METADATA:
        if isinstance(copied.get(name), dict):
            copied[name] = dict(copied[name])
    # The logging object of the first attempt would be told two stories.
    copied.pop("litellm_logging_obj", None)
    return copied


def take_metadata(request: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Put the metadata of the attempt that answered into the request's own."""
    for name in _METADATA:
        if isinstance(request.get(name), dict):
            request[name].update(other.get(name) or {})


def _drop(task: asyncio.Future[Any]) -> None:
    """Cancel the loser; one that had answered all the same is closed."""

    def closing(done: asyncio.Future[Any]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        close = getattr(done.result(), "aclose", None)
        if close is not None:
            closed = asyncio.ensure_future(close())
            _closing.add(closed)
            closed.add_done_callback(_closed)

    task.cancel()
    task.add_done_callback(closing)


def _closed(task: asyncio.Future[Any]) -> None:
    _closing.discard(task)
    if not task.cancelled():
        task.exception()


# A task that nobody holds may be collected before it has run.
_closing: set[asyncio.Future[Any]] = set()
