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
import sys
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.litellm_plugin import request
from fast_router.litellm_plugin.layers.failures import judge
from fast_router.litellm_plugin.layers.stack import Around, Call, Installed, plug
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding

__all__ = ["beginning", "begun", "first_chunk_within", "install"]

beginning: ContextVar[bool] = ContextVar("fast_router_stream_beginning", default=False)
"""True while a stream is asked for its first chunk."""

_END = object()


def install(patches: PatchSet, band: Band) -> list[str]:
    """Wait for the first chunk of every stream inside its attempt."""
    plug(patches, band, Around.ATTEMPT, "stream_failover", Installed(_wanted, _around))
    module = sys.modules[band.core.__module__]
    if hasattr(module, "_aread_first_chunk"):
        patches.replace(module, "_aread_first_chunk", first_chunk_within)
    return ["stream_failover"]


def _wanted(_binding: Binding, _core: Any) -> bool:
    options = settings.current()
    return options.stream_failover or options.stream_idle_timeout > 0


def first_chunk_within(original: Any) -> Any:
    """From 1.109 on LiteLLM waits for the first chunk itself, for as long as it takes."""

    async def _aread_first_chunk(stream: Any) -> Any:
        idle = settings.current().stream_idle_timeout
        if not idle or request.ledger.get() is None:
            return await original(stream)
        try:
            return await asyncio.wait_for(original(stream), idle)
        except (asyncio.TimeoutError, TimeoutError):
            with contextlib.suppress(Exception):
                await stream.aclose()
            raise _paused(idle) from None

    return _aread_first_chunk


def _paused(idle: float) -> Exception:
    import litellm  # noqa: PLC0415

    error: Exception = litellm.Timeout(f"the stream paused for more than {idle:g} s", model="", llm_provider="")
    return error


def _around(inner: Call, binding: Binding) -> Call:
    band = binding.band  # not the binding itself, which would hold itself by this layer

    async def first_chunk(core: Any, original_function: Any, *args: Any, **kwargs: Any) -> Any:
        response = await inner(core, original_function, *args, **kwargs)
        ledger = request.ledger.get()
        if ledger is None:
            return response
        options = settings.current()
        try:
            return await begun(response, eager=options.stream_failover, idle=options.stream_idle_timeout)
        except Exception as error:
            judge(core, band, ledger, error, kwargs)
            raise

    # Whatever does not stream passes without a frame of ours.
    def make_call(core: Any, original_function: Any, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        call = first_chunk if kwargs.get("stream") else inner
        return call(core, original_function, *args, **kwargs)

    return make_call


async def begun(response: Any, *, eager: bool, idle: float) -> Any:
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
        return await _begun_otherwise(response) if eager else response
    first: list[Any] = []
    if eager:
        first = await _first(lambda: _next(source, idle))
        _answered(source)
    if bare:
        return _generator(source, first, idle)
    wrapped = _Begun(source, first, idle)
    response._async_generator = wrapped
    if state is not None and state.get("completion_stream") is source:
        response.completion_stream = wrapped
    return response


# Events of the Responses API that say nothing but that the server has heard: a failure after these loses nothing.
_HEARD = frozenset({"response.created", "response.in_progress", "response.queued"})
_MOST_HEARD = 4


def _tells(chunk: Any) -> bool:
    kind = getattr(chunk, "type", None)
    return not isinstance(kind, str) or getattr(kind, "value", kind) not in _HEARD


async def _first(step: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Give what a stream begins with, up to its first token, the last chunk first: to be popped."""
    chunks: list[Any] = []
    token = beginning.set(True)
    try:
        while len(chunks) < _MOST_HEARD:
            chunks.insert(0, await step())
            if _tells(chunks[0]):
                break
    except StopAsyncIteration:
        chunks.insert(0, _END)
    finally:
        beginning.reset(token)
    return chunks


def _answered(source: Any) -> None:
    """Tell the breaker: for a probe a first token is answer enough, its stream may last minutes."""
    watch = getattr(source, "_watch", None) or getattr(source, "_fast_router_watch", None)
    lease = None if watch is None else watch.attempt.lease
    ledger = request.ledger.get()
    if lease is not None and ledger is not None and ledger.failover is not None:
        try:
            ledger.failover.policy.first_token(lease)
        except Exception as error:  # noqa: BLE001 - the stream must reach the caller
            tally.failed(error, "a stream's first token")


# -- streams that are no asynchronous generator ----------------------------------------------------------------


async def _begun_otherwise(response: Any) -> Any:
    """Put the first chunk back into a synchronous stream, or into an iterator of a class of its own."""
    state = getattr(response, "__dict__", None)
    source = None if state is None else state.get("_sync_generator")
    if source is not None:
        first = _first_sync(source)
        _answered(source)
        wrapped = _chained(source, first)
        response._sync_generator = wrapped
        if state is not None and state.get("completion_stream") is source:
            response.completion_stream = wrapped
        return response
    if inspect.isgenerator(response):
        return _chained(response, _first_sync(response))
    if state is None or not (hasattr(type(response), "__anext__") or hasattr(type(response), "__next__")):
        return response
    if hasattr(type(response), "__anext__") and not _is_synchronous(response):
        first = await _first(response.__anext__)
    else:
        first = _first_sync(response)
    _answered(response)
    _put_back(response, first)
    return response


def _is_synchronous(response: Any) -> bool:
    """Tell whether a stream that could be read either way comes from a synchronous call."""
    source = getattr(response, "completion_stream", None)
    return source is not None and hasattr(source, "__next__") and not hasattr(source, "__anext__")


def _first_sync(source: Any) -> list[Any]:
    chunks: list[Any] = []
    token = beginning.set(True)
    try:
        while len(chunks) < _MOST_HEARD:
            chunks.insert(0, next(source))
            if _tells(chunks[0]):
                break
    except StopIteration:
        chunks.insert(0, _END)
    finally:
        beginning.reset(token)
    return chunks


def _chained(source: Any, first: list[Any]) -> Generator[Any, None, None]:
    try:
        while first:
            chunk = first.pop()
            if chunk is _END:
                return
            yield chunk
        yield from source
    finally:
        source.close()


_FIRST = "_fast_router_first"
# Weak on both sides: a subclass keeps its base alive, and some of LiteLLM's classes are made anew for each stream.
_classes: weakref.WeakKeyDictionary[type, weakref.ref[type]] = weakref.WeakKeyDictionary()


def _put_back(response: Any, first: list[Any]) -> None:
    kind = type(response)
    known = _classes.get(kind)
    wrapped = None if known is None else known()
    if wrapped is None:
        wrapped = _begun_class(kind)
        _classes[kind] = weakref.ref(wrapped)
    setattr(response, _FIRST, first)
    response.__class__ = wrapped


def _begun_class(kind: Any) -> type:
    """A subclass that differs in nothing but giving the first chunk, which was read already."""
    members: dict[str, Any] = {
        "__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__, "__slots__": (),
    }  # fmt: skip
    if hasattr(kind, "__anext__"):

        async def __anext__(self: Any) -> Any:  # noqa: N807
            waiting = getattr(self, _FIRST)
            if not waiting:
                return await kind.__anext__(self)
            if waiting[-1] is _END:
                raise StopAsyncIteration
            return waiting.pop()

        members["__anext__"] = __anext__
    if hasattr(kind, "__next__"):

        def __next__(self: Any) -> Any:  # noqa: N807
            waiting = getattr(self, _FIRST)
            if not waiting:
                return kind.__next__(self)
            if waiting[-1] is _END:
                raise StopIteration
            return waiting.pop()

        members["__next__"] = __next__
    return type(kind.__name__, (kind,), members)


# -- pauses ----------------------------------------------------------------------------------------------------


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
    error = _paused(idle)
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
    wrapped = _Begun(source, first, idle)
    try:
        async for chunk in wrapped:
            yield chunk
    finally:
        await wrapped.aclose()
