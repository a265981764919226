"""A chat stream of the lane: its chunks come straight from LiteLLM's stream, and its recovery begins when it breaks.

LiteLLM's own wrapper stays around it, and so does the generator inside, which recovers a stream that breaks and gives
back what a stream holds. It is begun with the first chunk, and waits from then on for how the stream ends. That it is
handed as if it had read the stream itself, and goes on from there; a stream that is dropped takes it along, and Python
has it closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.layers.stream import AsyncSource
from fast_router.litellm_plugin.layers.stream_classes import ATTEMPTS
from fast_router.litellm_plugin.rust_core.lane.answer import success_counted
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.rust_core.lane.guard import Open
    from fast_router.litellm_plugin.rust_core.lane.parts import Parts
    from fast_router.litellm_plugin.rust_core.lane.template import Template

__all__ = ["install", "make_attempt_class"]


class _End:
    """What LiteLLM's generator reads in place of the stream: a chunk of no meaning, then how the stream has ended."""

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __aiter__(self) -> _End:
        return self

    async def __anext__(self) -> Any:
        error, self.error = self.error, None
        raise error or StopAsyncIteration


def make_attempt_class(parts: Parts) -> Any:
    """LiteLLM's record of an attempt that returned a stream, for attempts that the lane has made."""
    base: Any = parts.streaming.StreamAttempt
    total_tokens = parts.streaming._chat_total_tokens

    class LaneStreamAttempt(base):  # type: ignore[misc]
        __slots__ = ("found", "template")
        found: Open
        template: Template

        def read(self, last: Any) -> None:
            """Count the success of a chat stream that was read to its end."""
            if not self._count():
                self.report_success(total_tokens(last), last)

        def report_success(self, tokens: int, last: object = None) -> None:
            """Count the stream's success where it lies, if the Router is still as it was."""
            self._count()
            super().report_success(tokens, last)

        def _count(self) -> bool:
            made: Any = self
            try:
                told = made.outcome_reported or not made.reports_outcome
                if not told and not made.template.tracks and made.found.holds(made.core):
                    made.outcome_reported = success_counted(parts, made.core, made.deployment_id)
            except Exception as error:  # noqa: BLE001 - LiteLLM's own way follows
                tally.failed(error, "the success of a stream")
            return bool(made.outcome_reported)

    return LaneStreamAttempt


class _Straight(AsyncSource):
    """The chunks of a chat stream.

    Args:
        attempt: Whose it is.
        first: LiteLLM's record of the chunk that was read within the attempt, and of what follows.
        recovery: LiteLLM's generator, which reads `end`.
        end: Takes how the stream ends.
    """

    __slots__ = ("_attempt", "_busy", "_end", "_head", "_last", "_read")

    def __init__(self, attempt: Any, first: Any, recovery: Any, end: _End) -> None:
        super().__init__(recovery)
        self._attempt = attempt
        self._head = first  # until it is given
        self._end = end
        self._last: Any = None
        self._busy = False
        self._read: Callable[[], Awaitable[Any]] | None = None  # None before the first chunk, and after the last

    # The shortest way for most chunks: no context, no second coroutine.
    def __anext__(self) -> Any:
        return self._within() if self.idle else self._next()

    async def _next(self) -> Any:
        read = self._read
        if read is None:
            return await (self._rest() if self._head is None else self._begin())
        if self._busy:
            raise RuntimeError("asynchronous generator is already running")
        self._busy = True
        try:
            chunk = await read()
        except BaseException as error:  # noqa: BLE001 - LiteLLM's generator says what becomes of it
            self._end.error = error
        else:
            self._busy = False
            self._last = chunk
            if self.watch is not None:
                self.watch.item(chunk)
            return chunk
        self._busy = False
        return await self._over()

    async def _begin(self) -> Any:
        first, self._head = self._head, None
        await self._source.__anext__()
        if first.chunk is None:
            return await self._over()
        self._read = first.rest.__anext__
        self._last = first.chunk
        if self.watch is not None:
            self.watch.item(first.chunk)
        return first.chunk

    async def _over(self) -> Any:
        """What LiteLLM makes of the end: an error, chunks of another stream, or just the end."""
        self._read = None
        last, self._last = self._last, None
        if isinstance(self._end.error, StopAsyncIteration | None):
            self._attempt.read(last)
        return await self._rest()

    def _rest(self) -> Awaitable[Any]:
        return ATTEMPTS.step(self._source.__anext__, self.watch)

    async def aclose(self) -> None:
        """Close the stream, and the attempt with it."""
        if self._busy:
            raise RuntimeError("aclose(): asynchronous generator is already running")
        self._read = self._head = None
        await super().aclose()

    async def athrow(self, *error: Any) -> Any:
        """As of a generator."""
        self._read = self._head = None
        return await super().athrow(*error)

    async def asend(self, value: Any) -> Any:  # noqa: ARG002 - as of a generator that ignores it
        """As of a generator."""
        return await self.__anext__()


def _wrap_chat_stream(original: Any, parts: Parts, ours: type) -> Any:
    record = parts.streaming._FirstChunk

    def wrap_chat_stream(attempt: Any, model_response: Any, first_chunk: Any, held_slot: Any = None) -> Any:
        if not isinstance(attempt, ours):
            return original(attempt, model_response, first_chunk, held_slot)
        end = _End()
        wrapped = original(attempt, model_response, record(chunk=end, rest=end), held_slot)
        straight = _Straight(attempt, first_chunk, wrapped._async_generator, end)
        wrapped._async_generator = wrapped.completion_stream = straight
        return wrapped

    return wrap_chat_stream


def install(patches: PatchSet, parts: Parts, ours: type) -> None:
    """Read the chunks of the lane's chat streams without LiteLLM's recovery around each.

    Args:
        patches: Takes the change.
        parts: What is used of LiteLLM.
        ours: The class of the lane's attempts, see `make_attempt_class`.
    """
    patches.replace(parts.streaming, "wrap_chat_stream", lambda original: _wrap_chat_stream(original, parts, ours))
