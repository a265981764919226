"""Streams: the attempt goes along until the stream is read to its end, breaks, is closed, or is dropped.

LiteLLM's Router wraps its streams around a generator that it keeps in an attribute; there ours takes its place, so
the object that the caller sees stays LiteLLM's own. Other streams become instances of a subclass of their class,
which changes nothing but what reading and closing them tells us.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections import OrderedDict
from collections.abc import AsyncGenerator, Generator
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.answers import cached_of, usage_of
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.request import Attempt

__all__ = ["Watch", "driving", "follow", "install_usage", "streams"]

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
        if getattr(chunk, "usage", None) is not None or getattr(chunk, "response", None) is not None:
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


driving: ContextVar[Watch | None] = ContextVar("fast_router_stream", default=None)
"""The stream that is asking its source for the next chunk in this context."""


# -- following ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def streams(kind: type) -> bool:
    """Whether answers of this class are streams; remembered, since classes of pydantic look long for what they lack."""
    return hasattr(kind, "__anext__") or hasattr(kind, "__next__")


def follow(response: Any, attempt: Attempt) -> Any:
    """Let `attempt` end with the stream `response`.

    Returns:
        What to give to the caller: the same object, or for a bare generator one around it.
    """
    watch = Watch(attempt, _call_id(response))
    if inspect.isasyncgen(response):
        response = _async_generator(response, watch)
    elif inspect.isgenerator(response):
        response = _generator(response, watch)
    elif not _replace_source(response, watch) and not _change_class(response, watch):
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


def _replace_source(response: Any, watch: Watch) -> bool:
    state = getattr(response, "__dict__", None)
    if state is None:
        return False
    for name, cls in (("_async_generator", AsyncSource), ("_sync_generator", SyncSource)):
        source = state.get(name)
        if source is not None:
            ours = cls(source, watch)
            setattr(response, name, ours)
            if state.get("completion_stream") is source:
                response.completion_stream = ours
            return True
    return False


class AsyncSource(AsyncGenerator[Any, Any]):
    """In the place of the generator inside one of LiteLLM's asynchronous stream wrappers."""

    __slots__ = ("__weakref__", "_source", "_watch")

    def __init__(self, source: Any, watch: Watch) -> None:
        self._source = source
        self._watch = watch

    def __aiter__(self) -> AsyncSource:
        return self

    async def __anext__(self) -> Any:
        return await _next(self._source.__anext__, self._watch)

    async def asend(self, value: Any) -> Any:
        """As of a generator."""
        return await self._source.asend(value)

    async def athrow(self, *error: Any) -> Any:
        """As of a generator."""
        return await self._source.athrow(*error)

    async def aclose(self) -> None:
        """Close the source, and the attempt with it."""
        try:
            await self._source.aclose()
        finally:
            self._watch.closed()


class SyncSource(Generator[Any, Any, Any]):
    """In the place of the generator inside one of LiteLLM's synchronous stream wrappers."""

    __slots__ = ("__weakref__", "_source", "_watch")

    def __init__(self, source: Any, watch: Watch) -> None:
        self._source = source
        self._watch = watch

    def __iter__(self) -> SyncSource:
        return self

    def __next__(self) -> Any:
        return _next_sync(self._source.__next__, self._watch)

    def send(self, value: Any) -> Any:
        """As of a generator."""
        return self._source.send(value)

    def throw(self, *error: Any) -> Any:
        """As of a generator."""
        return self._source.throw(*error)

    def close(self) -> None:
        """Close the source, and the attempt with it."""
        try:
            self._source.close()
        finally:
            self._watch.closed()


async def _next(step: Any, watch: Watch) -> Any:
    outer = driving.get()
    driving.set(watch)
    try:
        chunk = await step()
    except StopAsyncIteration:
        watch.finished()
        raise
    except BaseException as error:
        watch.broken(error)
        raise
    finally:
        driving.set(outer)
    watch.item(chunk)
    return chunk


def _next_sync(step: Any, watch: Watch) -> Any:
    outer = driving.get()
    driving.set(watch)
    try:
        chunk = step()
    except StopIteration:
        watch.finished()
        raise
    except BaseException as error:
        watch.broken(error)
        raise
    finally:
        driving.set(outer)
    watch.item(chunk)
    return chunk


async def _async_generator(source: Any, watch: Watch) -> AsyncGenerator[Any, None]:
    # A real generator, since LiteLLM's proxy asks whether it is one.
    try:
        while True:
            try:
                chunk = await _next(source.__anext__, watch)
            except StopAsyncIteration:
                return
            yield chunk
    finally:
        try:
            await source.aclose()
        finally:
            watch.closed()


def _generator(source: Any, watch: Watch) -> Generator[Any, None, None]:
    try:
        while True:
            try:
                chunk = _next_sync(source.__next__, watch)
            except StopIteration:
                return
            yield chunk
    finally:
        try:
            source.close()
        finally:
            watch.closed()


# -- streams of a class of their own -----------------------------------------------------------------------

_WATCH = "_fast_router_watch"
_classes: weakref.WeakKeyDictionary[type, type] = weakref.WeakKeyDictionary()


def _change_class(response: Any, watch: Watch) -> bool:
    kind = type(response)
    followed = _classes.get(kind)
    try:
        if followed is None:
            followed = _followed_class(kind)
            if "<locals>" not in kind.__qualname__:
                _classes[kind] = followed
        setattr(response, _WATCH, watch)
        response.__class__ = followed
    except (AttributeError, TypeError):
        return False
    return True


def _followed_class(kind: Any) -> type:
    members: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__slots__": (),
    }
    if hasattr(kind, "__anext__"):

        async def __anext__(self: Any) -> Any:  # noqa: N807
            return await _next(partial(kind.__anext__, self), getattr(self, _WATCH))

        members["__anext__"] = __anext__
    if hasattr(kind, "__next__"):

        def __next__(self: Any) -> Any:  # noqa: N807
            return _next_sync(partial(kind.__next__, self), getattr(self, _WATCH))

        members["__next__"] = __next__
    if inspect.iscoroutinefunction(getattr(kind, "aclose", None)):

        async def aclose(self: Any) -> Any:
            try:
                return await kind.aclose(self)
            finally:
                getattr(self, _WATCH).closed()

        members["aclose"] = aclose
    if inspect.isfunction(getattr(kind, "close", None)):

        def close(self: Any) -> Any:
            try:
                return kind.close(self)
            finally:
                getattr(self, _WATCH).closed()

        members["close"] = close
    return type(kind.__name__, (kind,), members)


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
