"""A chat stream of the lane: its chunks come straight from LiteLLM's stream, and its recovery begins when it breaks.

LiteLLM's own wrapper stays around it, and so does the generator inside, which recovers a stream that breaks. As long
as nothing does, ours stands in for it: that generator has yet to begin. When the stream breaks it is begun, meets the
error as if it had read the stream itself, and goes on from there; at the end, or when the caller closes the stream, it
is begun to be closed, which is how LiteLLM gives back what a stream holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.rust_core.lane.answer import success_counted
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.rust_core.lane.guard import Open
    from fast_router.litellm_plugin.rust_core.lane.parts import Parts
    from fast_router.litellm_plugin.rust_core.lane.template import Template

__all__ = ["install", "make_attempt_class"]


class _Broken:
    """The rest of a stream, as LiteLLM's generator reads it: the error that has ended it."""

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __aiter__(self) -> _Broken:
        return self

    async def __anext__(self) -> Any:
        error, self.error = self.error, None
        raise error or StopAsyncIteration


def make_attempt_class(parts: Parts) -> Any:
    """LiteLLM's record of an attempt that returned a stream, for attempts that the lane has made."""
    base: Any = parts.streaming.StreamAttempt

    class LaneStreamAttempt(base):  # type: ignore[misc]
        __slots__ = ("found", "template")
        found: Open
        template: Template

        def report_success(self, total_tokens: int, last: object = None) -> None:
            """Count the stream's success where it lies, if the Router is still as it was."""
            made: Any = self
            try:
                told = made.outcome_reported or not made.reports_outcome
                if not told and not made.template.tracks and made.found.holds(made.core):
                    made.outcome_reported = success_counted(parts, made.core, made.deployment_id)
            except Exception as error:  # noqa: BLE001 - LiteLLM's own way follows
                tally.failed(error, "the success of a stream")
            super().report_success(total_tokens, last)

    return LaneStreamAttempt


async def _straight(attempt: Any, first: Any, recovery: Any, broken: _Broken, tokens: Callable[[Any], int]) -> Any:
    """The chunks of a stream.

    Args:
        attempt: Whose it is.
        first: LiteLLM's record of the chunk that was read within the attempt, and of what follows.
        recovery: LiteLLM's generator, which yields a chunk of no meaning first and then meets what `broken` holds.
        broken: Takes the error.
        tokens: Reads the total off the last chunk.
    """
    begun = False
    try:
        chunk = first.chunk
        if chunk is not None:
            yield chunk
            read = first.rest.__anext__
            while True:
                try:
                    chunk = await read()
                except StopAsyncIteration:
                    break
                except Exception as error:  # noqa: BLE001 - LiteLLM's recovery says what becomes of it
                    broken.error = error
                    break
                yield chunk
        if broken.error is None:
            attempt.report_success(tokens(chunk), chunk)
        else:
            begun = True
            await recovery.__anext__()
            async for chunk in recovery:
                yield chunk
    finally:
        if not begun:
            await recovery.__anext__()
        await recovery.aclose()


def _wrap_chat_stream(original: Any, parts: Parts, ours: type) -> Any:
    record = parts.streaming._FirstChunk
    tokens = parts.streaming._chat_total_tokens

    def wrap_chat_stream(attempt: Any, model_response: Any, first_chunk: Any, held_slot: Any = None) -> Any:
        if not isinstance(attempt, ours):
            return original(attempt, model_response, first_chunk, held_slot)
        broken = _Broken()
        wrapped = original(attempt, model_response, record(chunk=broken, rest=broken), held_slot)
        recovery = wrapped._async_generator
        straight: AsyncGenerator[Any, None] = _straight(attempt, first_chunk, recovery, broken, tokens)
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
