"""The streams of a rollout's requests, as their callers see them: first chunk, end, error, or given up.

A stream stays the object that it is and becomes an instance of a subclass of its class; a bare generator gets one
around it. While it is read its request is the one that runs: what LiteLLM does about a stream that breaks belongs to
the same arm.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial
from typing import Any

from fast_router.litellm_plugin.rollout.request import Request, running

__all__ = ["observed"]

_REQUEST = "_fast_router_rollout_request"
_classes: weakref.WeakKeyDictionary[type, type] = weakref.WeakKeyDictionary()


def observed(response: Any, request: Request) -> Any:
    """Let `request` end with its answer: at once, or with the stream that it is.

    Returns:
        What to give to the caller: the same object, or for a bare generator one around it.
    """
    kind = type(response)
    if not (hasattr(kind, "__anext__") or hasattr(kind, "__next__")):
        request.ended()
    elif inspect.isasyncgen(response):
        response = _async_generator(response, request)
        weakref.finalize(response, request.abandon).atexit = False
    elif inspect.isgenerator(response):
        response = _generator(response, request)
        weakref.finalize(response, request.abandon).atexit = False
    elif _change_class(response, request):
        weakref.finalize(response, request.abandon).atexit = False
    else:
        request.ended()  # nothing of it can be seen
    return response


async def _next(step: Callable[[], Any], request: Request) -> Any:
    outer = running.get()
    running.set(request)
    try:
        chunk = await step()
    except StopAsyncIteration:
        request.ended()
        raise
    except BaseException as error:
        request.ended(error)
        raise
    finally:
        running.set(outer)
    request.chunk()
    return chunk


def _next_sync(step: Callable[[], Any], request: Request) -> Any:
    outer = running.get()
    running.set(request)
    try:
        chunk = step()
    except StopIteration:
        request.ended()
        raise
    except BaseException as error:
        request.ended(error)
        raise
    finally:
        running.set(outer)
    request.chunk()
    return chunk


async def _async_generator(source: Any, request: Request) -> AsyncGenerator[Any, None]:
    try:
        while True:
            try:
                chunk = await _next(source.__anext__, request)
            except StopAsyncIteration:
                return
            yield chunk
    finally:
        try:
            await source.aclose()
        finally:
            request.ended(cancelled=True)


def _generator(source: Any, request: Request) -> Generator[Any, None, None]:
    try:
        while True:
            try:
                chunk = _next_sync(source.__next__, request)
            except StopIteration:
                return
            yield chunk
    finally:
        try:
            source.close()
        finally:
            request.ended(cancelled=True)


def _change_class(response: Any, request: Request) -> bool:
    kind = type(response)
    try:
        seen = _classes.get(kind)
        if seen is None:
            seen = _classes[kind] = _observed_class(kind)
        setattr(response, _REQUEST, request)
        response.__class__ = seen
    except (AttributeError, TypeError):
        return False
    return True


def _observed_class(kind: Any) -> type:
    members: dict[str, Any] = {
        "__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__, "__slots__": (),
    }  # fmt: skip
    if hasattr(kind, "__anext__"):

        async def __anext__(self: Any) -> Any:  # noqa: N807
            return await _next(partial(kind.__anext__, self), getattr(self, _REQUEST))

        members["__anext__"] = __anext__
    if hasattr(kind, "__next__"):

        def __next__(self: Any) -> Any:  # noqa: N807
            return _next_sync(partial(kind.__next__, self), getattr(self, _REQUEST))

        members["__next__"] = __next__
    if inspect.iscoroutinefunction(getattr(kind, "aclose", None)):

        async def aclose(self: Any) -> Any:
            try:
                return await kind.aclose(self)
            finally:
                getattr(self, _REQUEST).ended(cancelled=True)

        members["aclose"] = aclose
    if inspect.isfunction(getattr(kind, "close", None)):

        def close(self: Any) -> Any:
            try:
                return kind.close(self)
            finally:
                getattr(self, _REQUEST).ended(cancelled=True)

        members["close"] = close
    return type(kind.__name__, (kind,), members)
