"""The streams of a rollout's requests, as their callers see them: first chunk, end, error, or given up.

A stream stays the object that it is; a bare generator gets one around it. While it is read its request is the one that
runs: what LiteLLM does about a stream that breaks belongs to the same arm.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import AsyncGenerator, Generator
from typing import Any

from fast_router.litellm_plugin.layers.stream import streams
from fast_router.litellm_plugin.layers.stream_classes import Following
from fast_router.litellm_plugin.request import Context
from fast_router.litellm_plugin.rollout.request import Request

__all__ = ["observed"]


def _running(outer: Context, request: Request) -> Context:
    return Context(outer.attempt, outer.reading, outer.filtered, outer.aside._replace(rollout=request))


_REQUESTS: Following[Request] = Following("rollout", _running)


def observed(response: Any, request: Request) -> Any:
    """Let `request` end with its answer: at once, or with the stream that it is.

    Returns:
        What to give to the caller: the same object, or for a bare generator one around it.
    """
    if not streams(type(response)):
        request.finished()
        return response
    if inspect.isasyncgen(response):
        response = _async_generator(response, request)
    elif inspect.isgenerator(response):
        response = _generator(response, request)
    elif not _REQUESTS.exchange_class(response, request):
        request.finished()  # nothing of it can be seen
        return response
    weakref.finalize(response, request.abandon).atexit = False
    return response


async def _async_generator(source: Any, request: Request) -> AsyncGenerator[Any, None]:
    try:
        while True:
            try:
                chunk = await _REQUESTS.step(source.__anext__, request)
            except StopAsyncIteration:
                return
            yield chunk
    finally:
        try:
            await source.aclose()
        finally:
            request.closed()


def _generator(source: Any, request: Request) -> Generator[Any, None, None]:
    try:
        while True:
            try:
                chunk = _REQUESTS.step_sync(source.__next__, request)
            except StopIteration:
                return
            yield chunk
    finally:
        try:
            source.close()
        finally:
            request.closed()
