"""Streams fail over until their first token, and do not hang after it.

A provider can accept a stream and fail before it says anything. LiteLLM has handed the stream out by then, so its
retries are over. Here a stream is handed out together with its first chunk: until then it is an attempt like any
other, and its failure is retried elsewhere without anybody noticing. After the first token nothing is repeated by
us (LiteLLM's own mid-stream fallback goes on as configured); a pause longer than `stream_idle_timeout` ends it
with LiteLLM's `Timeout`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.litellm_plugin import attempts

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["beginning", "install"]

beginning: ContextVar[bool] = ContextVar("fast_router_stream_beginning", default=False)
"""True while a stream is asked for its first chunk."""

_END = object()


def install(patches: PatchSet, band: Band) -> list[str]:
    """Wait for the first chunk of every asynchronous stream inside its attempt."""
    patches.replace(band.core, band.slot("make_call"), _make_call)
    return ["stream_failover"]


def _make_call(original: Any) -> Any:
    async def make_call(self: Any, original_function: Any, *args: Any, **kwargs: Any) -> Any:
        response = await original(self, original_function, *args, **kwargs)
        if not kwargs.get("stream") or attempts.ledger.get() is None:
            return response
        options = settings.current()
        if not options.stream_failover and not options.stream_idle_timeout:
            return response
        return await _begun(response, eager=options.stream_failover, idle=options.stream_idle_timeout)

    return make_call


async def _begun(response: Any, *, eager: bool, idle: float) -> Any:
    """Put the first chunk back in front of the stream that it came from.

    Raises:
        Exception: What the stream raised in place of a first chunk.
    """
    state = getattr(response, "__dict__", None)
    source = None if state is None else state.get("_async_generator")
    bare = source is None and inspect.isasyncgen(response)
    if bare:
        source = response
    if source is None:
        return response
    first: list[Any] = []
    if eager:
        token = beginning.set(True)
        try:
            first.append(await _next(source, idle))
        except StopAsyncIteration:
            first.append(_END)
        finally:
            beginning.reset(token)
    if bare:
        return _generator(source, first, idle)
    begun = _Begun(source, first, idle)
    response._async_generator = begun
    if state is not None and state.get("completion_stream") is source:
        response.completion_stream = begun
    return response


async def _next(source: Any, idle: float) -> Any:
    if not idle:
        return await source.__anext__()
    task = asyncio.ensure_future(_step(source))
    try:
        done, _ = await asyncio.wait({task}, timeout=idle)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if done:
        kind, value = task.result()
        if kind is _END:
            raise StopAsyncIteration
        return value
    import litellm  # noqa: PLC0415

    error = litellm.Timeout(f"the stream paused for more than {idle:g} s", model="", llm_provider="")
    watch = getattr(source, "_watch", None)
    if watch is not None:
        # Before the cancellation, which by itself would look like a caller who went away.
        watch.broken(error)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task
    with contextlib.suppress(Exception):
        await source.aclose()
    raise error


async def _step(source: Any) -> tuple[Any, Any]:
    # A task cannot raise StopAsyncIteration.
    try:
        return None, await source.__anext__()
    except StopAsyncIteration:
        return _END, None


class _Begun(AsyncGenerator[Any, Any]):
    """A stream whose first chunk has been read."""

    __slots__ = ("__weakref__", "_first", "_idle", "_source", "_watch")

    def __init__(self, source: Any, first: list[Any], idle: float) -> None:
        self._source = source
        self._first = first
        self._idle = idle
        self._watch = getattr(source, "_watch", None)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._first:
            chunk = self._first.pop()
            if chunk is _END:
                raise StopAsyncIteration
            return chunk
        return await _next(self._source, self._idle)

    async def asend(self, value: Any) -> Any:
        """As of a generator."""
        return await self._source.asend(value)

    async def athrow(self, *error: Any) -> Any:
        """As of a generator."""
        return await self._source.athrow(*error)

    async def aclose(self) -> None:
        """Close the source."""
        self._first.clear()
        await self._source.aclose()


async def _generator(source: Any, first: list[Any], idle: float) -> AsyncGenerator[Any, None]:
    # A real generator, since LiteLLM's proxy asks whether it is one.
    begun = _Begun(source, first, idle)
    try:
        async for chunk in begun:
            yield chunk
    finally:
        await begun.aclose()
