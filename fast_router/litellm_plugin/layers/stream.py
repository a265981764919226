"""A stream: its attempt goes along until it is read to its end, breaks, is closed, or is dropped.

LiteLLM's Router wraps its streams around a generator that it keeps in an attribute; there ours takes its place, so
the object that the caller sees stays LiteLLM's own. Other streams become instances of a subclass of their class (see
`stream_classes`), which changes nothing but what reading and closing them tells us. Whatever was read ahead of the
caller (`first_chunk`) is put back in the same place, and there a stream that pauses for too long is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import weakref
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Generator
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.answers import cached_of, says_usage, usage_of
from fast_router.litellm_plugin.layers.stream_classes import ATTEMPTS, END
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.request import Attempt

__all__ = [
    "END", "AsyncSource", "SyncSource", "Watch", "follow", "generator", "generator_sync", "install_usage", "paused",
    "source_of", "streams",
]  # fmt: skip

_WAITING = 4096  # streams that ended and whose usage LiteLLM has not told yet


class Watch:
    """What is seen of one stream.

    Attributes:
        attempt: Ends with the stream.
        call_id: LiteLLM's id of the call, under which its success callback tells the usage.
    """

    __slots__ = ("_cached", "_finalizer", "_items", "_seconds", "_usage", "attempt", "call_id")

    def __init__(self, attempt: Attempt, call_id: str | None) -> None:
        self.attempt = attempt
        self.call_id = call_id
        self._items = 0
        self._usage: tuple[float, float] | None = None
        self._cached: tuple[float, float | None] = (0.0, None)
        self._seconds = 0.0
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def keep(self, response: Any) -> None:
        """End the attempt when `response` is dropped unread."""
        self._finalizer = weakref.finalize(response, self.attempt.abandon)
        self._finalizer.atexit = False
        if self.call_id is not None:
            _remember(self.call_id, self)

    def item(self, chunk: Any) -> None:
        """A chunk has arrived."""
        if not self._items:
            lease = self.attempt.lease
            if lease is not None and not self.attempt.foreign:
                lease.first_token()
        self._items += 1
        if says_usage(chunk):
            self._note(chunk)

    def _note(self, chunk: Any) -> None:
        # A Responses stream tells its usage in the response that its last event carries.
        found = usage_of(chunk)
        if not found[1]:
            chunk = getattr(chunk, "response", None)
            found = usage_of(chunk)
        if found[1]:
            self._usage = found
            self._cached = cached_of(chunk)

    def finished(self) -> None:
        """It was read to its end."""
        if not self.attempt.open:
            return
        usage = self._usage
        if self.attempt.foreign:
            self._end(None, cancelled=True)
        elif usage is not None:
            prompt, cached = self._cached
            self._end(
                None,
                completion_tokens=usage[0],
                total_tokens=usage[1],
                prompt_tokens=prompt,
                cached_tokens=cached,
            )
        elif self.call_id is not None:
            # LiteLLM counts the tokens by itself and tells them soon: latency per token waits for that.
            lease = self.attempt.lease
            if lease is not None:
                self._seconds = lease._engine.clock() - lease.started
            self._end(None, observe=False)
        else:
            # Nobody will tell: a chunk is a token, as near as anyone can say.
            self._end(None, completion_tokens=float(self._items))

    def broken(self, error: BaseException) -> None:
        """It failed, or somebody stopped it."""
        self._end(error)

    def closed(self) -> None:
        """The caller closed it before its end."""
        self._end(None, cancelled=True)

    def _end(self, error: BaseException | None, **how: Any) -> None:
        try:
            if self._finalizer is not None:
                self._finalizer.detach()
            self.attempt.end(error, **how)
            if self.call_id is not None and (error is not None or how.get("observe") is not False):
                _forget(self.call_id, self)
        except Exception as ours:  # noqa: BLE001 - the stream belongs to the caller
            tally.failed(ours, "the end of a stream")

    def told(self, completion_tokens: float, total_tokens: float) -> None:
        """LiteLLM's success callback tells the usage: before or after our own end of the stream."""
        if self.attempt.open:
            self._usage = (completion_tokens, total_tokens)
            return
        lease = self.attempt.lease
        if lease is not None and self._seconds:
            lease._engine.observe(
                lease.deployment,
                self._seconds,
                # LiteLLM counts none where it lacks a tokenizer: a chunk is a token, as near as anyone can say.
                completion_tokens=completion_tokens or float(self._items),
                total_tokens=total_tokens,
                first_token=lease.seconds_to_first_token,
            )


# -- following ---------------------------------------------------------------------------------------------


# Classes of pydantic look long for what they lack. Those of streams are not kept: LiteLLM makes one for each stream,
# and what its methods close over is the stream.
_WHOLE: set[type] = set()


def streams(kind: type) -> bool:
    """Whether answers of this class are streams."""
    if kind in _WHOLE:
        return False
    if hasattr(kind, "__anext__") or hasattr(kind, "__next__"):
        return True
    if "<locals>" not in kind.__qualname__:
        _WHOLE.add(kind)
    return False


def follow(response: Any, attempt: Attempt) -> Any:
    """Let `attempt` end with the stream `response`.

    Returns:
        What to give to the caller: the same object, or for a bare generator one around it.
    """
    watch = Watch(attempt, _call_id(response))
    if inspect.isasyncgen(response):
        response = generator(AsyncSource(response, watch))
    elif inspect.isgenerator(response):
        response = generator_sync(SyncSource(response, watch))
    elif source_of(response, watch) is None and not ATTEMPTS.exchange_class(response, watch):
        # Nothing of it can be watched; it counts until it is dropped. That it is there is a sign of life.
        watch.call_id = None
        if attempt.lease is not None:
            attempt.lease.first_token()
    watch.keep(response)
    return response


def _call_id(response: Any) -> str | None:
    logging = getattr(response, "logging_obj", None) or getattr(response, "litellm_logging_obj", None)
    found = getattr(logging, "litellm_call_id", None)
    # Only asynchronous streams are told about: LiteLLM calls back for the others in a thread of its own, and
    # having it do so for us would cost every request.
    asynchronous = hasattr(type(response), "__anext__") and "_sync_generator" not in getattr(response, "__dict__", ())
    return found if asynchronous and isinstance(found, str) else None


def source_of(response: Any, watch: Watch | None = None) -> AsyncSource | SyncSource | None:
    """Ours in the place of the generator inside one of LiteLLM's wrappers, put there now if there is none.

    Args:
        response: A stream.
        watch: Who hears of what is read, if ours is not there yet.

    Returns:
        None if `response` is no such wrapper.
    """
    state = getattr(response, "__dict__", None) or {}
    for name, cls in (("_async_generator", AsyncSource), ("_sync_generator", SyncSource)):
        source = state.get(name)
        if source is None:
            continue
        if isinstance(source, (AsyncSource, SyncSource)):
            if watch is not None and source.watch is None:
                source.watch = watch
                ATTEMPTS.catch_up(watch, source.first)
            return source
        ours: AsyncSource | SyncSource = cls(source, watch)
        setattr(response, name, ours)
        if state.get("completion_stream") is source:
            response.completion_stream = ours
        return ours
    return None


class AsyncSource(AsyncGenerator[Any, Any]):
    """In the place of the generator inside one of LiteLLM's asynchronous stream wrappers.

    Attributes:
        watch: Hears of what is read, None if no attempt goes along.
        first: Chunks that were read ahead, the first one last: to be popped.
        idle: Seconds between two chunks after which it is ended, 0 for ever.
    """

    __slots__ = ("__weakref__", "_source", "first", "idle", "watch")

    def __init__(self, source: Any, watch: Watch | None = None) -> None:
        self._source = source
        self.watch = watch
        self.first: list[Any] = []
        self.idle = 0.0

    def __aiter__(self) -> AsyncSource:
        return self

    async def __anext__(self) -> Any:
        if self.first:
            chunk = self.first.pop()
            if chunk is END:
                raise StopAsyncIteration
            return chunk
        return await (self._within() if self.idle else self._next())

    def _next(self) -> Awaitable[Any]:
        return ATTEMPTS.step(self._source.__anext__, self.watch)

    async def _within(self) -> Any:
        """The next chunk, if it comes in time.

        Raises:
            Timeout: LiteLLM's; the stream has paused, and is closed.
        """
        task = asyncio.ensure_future(self._ended_or_chunk())
        try:
            done, _ = await asyncio.wait({task}, timeout=self.idle)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if done:
            chunk = task.result()
            if chunk is END:
                raise StopAsyncIteration
            return chunk
        error = paused(self.idle)
        if self.watch is not None:
            # Before the cancellation, which by itself would look like a caller who went away.
            self.watch.broken(error)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
        with contextlib.suppress(Exception):
            await self.aclose()
        raise error

    async def _ended_or_chunk(self) -> Any:
        # A task cannot raise StopAsyncIteration.
        try:
            return await self._next()
        except StopAsyncIteration:
            return END

    async def asend(self, value: Any) -> Any:
        """As of a generator."""
        return await self._source.asend(value)

    async def athrow(self, *error: Any) -> Any:
        """As of a generator."""
        return await self._source.athrow(*error)

    async def aclose(self) -> None:
        """Close the source, and the attempt with it."""
        self.first.clear()
        try:
            await self._source.aclose()
        finally:
            if self.watch is not None:
                self.watch.closed()


class SyncSource(Generator[Any, Any, Any]):
    """In the place of the generator inside one of LiteLLM's synchronous stream wrappers; as `AsyncSource`."""

    __slots__ = ("__weakref__", "_source", "first", "watch")

    def __init__(self, source: Any, watch: Watch | None = None) -> None:
        self._source = source
        self.watch = watch
        self.first: list[Any] = []

    def __iter__(self) -> SyncSource:
        return self

    def __next__(self) -> Any:
        if self.first:
            chunk = self.first.pop()
            if chunk is END:
                raise StopIteration
            return chunk
        return ATTEMPTS.step_sync(self._source.__next__, self.watch)

    def send(self, value: Any) -> Any:
        """As of a generator."""
        return self._source.send(value)

    def throw(self, *error: Any) -> Any:
        """As of a generator."""
        return self._source.throw(*error)

    def close(self) -> None:
        """Close the source, and the attempt with it."""
        self.first.clear()
        try:
            self._source.close()
        finally:
            if self.watch is not None:
                self.watch.closed()


async def generator(source: AsyncSource) -> AsyncGenerator[Any, None]:
    """A real generator over `source`, since LiteLLM's proxy asks whether it is one."""
    try:
        async for chunk in source:
            yield chunk
    finally:
        await source.aclose()


def generator_sync(source: SyncSource) -> Generator[Any, None, None]:
    """The same over a synchronous one."""
    try:
        yield from source
    finally:
        source.close()


def paused(idle: float) -> Exception:
    """LiteLLM's error for a stream that says nothing for `idle` seconds."""
    import litellm  # noqa: PLC0415 - it is imported: this stream is one of its

    error: Exception = litellm.Timeout(f"the stream paused for more than {idle:g} s", model="", llm_provider="")
    # With nothing below it, LiteLLM would have refused the attempt by itself.
    error.__cause__ = TimeoutError()
    return error


# -- usage of streams, told later --------------------------------------------------------------------------

_waiting: OrderedDict[str, Watch] = OrderedDict()
_lock = threading.Lock()


def _remember(call_id: str, watch: Watch) -> None:
    import litellm  # noqa: PLC0415 - it is imported: this stream is one of its

    with _lock:
        # Registered with the first stream, so that programs without streams do not pay for it.
        if _told not in litellm._async_success_callback:
            litellm._async_success_callback.append(_told)
        _waiting[call_id] = watch
        while len(_waiting) > _WAITING:
            _waiting.popitem(last=False)


def _forget(call_id: str, watch: Watch) -> None:
    with _lock:
        if _waiting.get(call_id) is watch:
            del _waiting[call_id]


async def _told(kwargs: Any, completion_response: Any, start_time: Any, end_time: Any) -> None:  # noqa: ARG001
    """LiteLLM's asynchronous success callback: only streams that ended without saying their usage wait for it."""
    if not _waiting:
        return
    call_id = kwargs.get("litellm_call_id")
    with _lock:
        watch = _waiting.pop(call_id, None)
    if watch is not None:
        answer = kwargs.get("async_complete_streaming_response") or completion_response
        try:
            watch.told(*usage_of(answer))
        except Exception as error:  # noqa: BLE001 - a callback's error would be logged as LiteLLM's
            tally.failed(error, "the usage of a stream")


def install_usage(patches: PatchSet) -> None:
    """Take the success callback out again when the plugin goes."""
    import litellm  # noqa: PLC0415

    def undo() -> None:
        while _told in litellm._async_success_callback:
            litellm._async_success_callback.remove(_told)

    patches.on_restore(undo)
