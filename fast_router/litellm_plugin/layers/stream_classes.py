"""Streams of a class of their own: each becomes an instance of a subclass that tells who reads and closes it.

There is no generator inside that could be replaced, and the caller must get the object that LiteLLM has made.
"""

from __future__ import annotations

import inspect
import weakref
from functools import partial
from typing import Any

from fast_router.litellm_plugin.request import Reading, reading

__all__ = ["END", "catch_up", "exchange_class", "step", "step_sync", "watch_of"]

END = object()
"""In the place of a chunk: the stream has ended there."""

_WATCH = "_fast_router_watch"
_FIRST = "_fast_router_first"
_classes: weakref.WeakKeyDictionary[type, type] = weakref.WeakKeyDictionary()


async def step(advance: Any, watch: Reading | None) -> Any:
    """Read one chunk, and tell `watch` of it or of what came in its place."""
    if watch is None:
        return await advance()
    outer = reading.get()
    reading.set(watch)
    try:
        chunk = await advance()
    except StopAsyncIteration:
        watch.finished()
        raise
    except BaseException as error:
        watch.broken(error)
        raise
    finally:
        reading.set(outer)
    watch.item(chunk)
    return chunk


def step_sync(advance: Any, watch: Reading | None) -> Any:
    """The same of a synchronous stream."""
    if watch is None:
        return advance()
    outer = reading.get()
    reading.set(watch)
    try:
        chunk = advance()
    except StopIteration:
        watch.finished()
        raise
    except BaseException as error:
        watch.broken(error)
        raise
    finally:
        reading.set(outer)
    watch.item(chunk)
    return chunk


def watch_of(response: Any) -> Reading | None:
    """Who hears of what is read of a stream whose class was exchanged."""
    found: Reading | None = (getattr(response, "__dict__", None) or {}).get(_WATCH)
    return found


def catch_up(watch: Reading, first: list[Any]) -> None:
    """Tell `watch` of what was read ahead before it was there."""
    for chunk in reversed(first):
        if chunk is END:
            watch.finished()
        else:
            watch.item(chunk)


def exchange_class(response: Any, watch: Reading | None, first: list[Any] | None = None) -> bool:
    """Have `watch` hear of what is read, after `first` was given.

    Args:
        response: The stream; its class may have been exchanged before, with or without a watch.
        watch: Who hears of it; one that is there stays.
        first: Chunks that were read ahead, the first one last; None for those that are there.

    Returns:
        False if the class of this stream cannot be exchanged.
    """
    kind = type(response)
    try:
        exchanged = _WATCH in response.__dict__
        if first is not None or not exchanged:
            setattr(response, _FIRST, first or [])
        if not exchanged:
            setattr(response, _WATCH, watch)
            response.__class__ = _class_of(kind)
        elif watch is not None and watch_of(response) is None:
            setattr(response, _WATCH, watch)
            catch_up(watch, getattr(response, _FIRST))
    except (AttributeError, TypeError):
        return False
    return True


def _class_of(kind: type) -> type:
    followed = _classes.get(kind)
    if followed is None:
        followed = _followed_class(kind)
        if "<locals>" not in kind.__qualname__:
            # Some of LiteLLM's classes are made anew for each stream: those go with it.
            _classes[kind] = followed
    return followed


def _followed_class(kind: Any) -> type:
    members: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__slots__": (),
    }
    if hasattr(kind, "__anext__"):

        async def __anext__(self: Any) -> Any:  # noqa: N807
            first = getattr(self, _FIRST)
            if not first:
                return await step(partial(kind.__anext__, self), getattr(self, _WATCH))
            if first[-1] is END:
                raise StopAsyncIteration
            return first.pop()

        members["__anext__"] = __anext__
    if hasattr(kind, "__next__"):

        def __next__(self: Any) -> Any:  # noqa: N807
            first = getattr(self, _FIRST)
            if not first:
                return step_sync(partial(kind.__next__, self), getattr(self, _WATCH))
            if first[-1] is END:
                raise StopIteration
            return first.pop()

        members["__next__"] = __next__
    if inspect.iscoroutinefunction(getattr(kind, "aclose", None)):

        async def aclose(self: Any) -> Any:
            try:
                return await kind.aclose(self)
            finally:
                _closed(self)

        members["aclose"] = aclose
    if inspect.isfunction(getattr(kind, "close", None)):

        def close(self: Any) -> Any:
            try:
                return kind.close(self)
            finally:
                _closed(self)

        members["close"] = close
    return type(kind.__name__, (kind,), members)


def _closed(response: Any) -> None:
    watch = watch_of(response)
    if watch is not None:
        watch.closed()
