"""An asynchronous stream, read by a program that has no event loop."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["SyncStream"]


class SyncStream:
    """The chunks of an asynchronous call, one by one, from a thread of its own with a loop of its own.

    The thread ends with the stream: at its end, at an error, at `close`, and when nothing refers to it any more.
    """

    def __init__(self, function: Callable[..., Coroutine[Any, Any, Any]], call: dict[str, Any]) -> None:
        """Make the call and wait until its answer begins.

        Raises:
            Exception: Whatever the call raises.
        """
        loop, thread = asyncio.new_event_loop(), ThreadPoolExecutor(1, "fast_router-stream")
        self._loop, self._thread = loop, thread
        self._source: AsyncIterator[Any] | None = None
        try:
            self._source = aiter(self._run(function(**call)))
        finally:
            self._end = weakref.finalize(self, _end, loop, thread, self._source)
            if self._source is None:
                self._end()

    def __iter__(self) -> SyncStream:
        return self

    def __next__(self) -> Any:
        if self._source is None or not self._end.alive:
            raise StopIteration
        try:
            return self._run(_next(self._source))
        except StopAsyncIteration:
            self._end()
        except BaseException:
            self._end()
            raise
        raise StopIteration

    def close(self) -> None:
        """Close the call's stream, as often as wanted."""
        self._end()

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._thread.submit(self._loop.run_until_complete, coroutine).result()


async def _next(source: AsyncIterator[Any]) -> Any:
    return await anext(source)


def _end(loop: asyncio.AbstractEventLoop, thread: ThreadPoolExecutor, source: Any) -> None:
    def close() -> None:
        with contextlib.suppress(Exception):
            ending = getattr(source, "aclose", None)
            if ending is not None:
                loop.run_until_complete(ending())
            loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread.submit(close)
    thread.shutdown(wait=False)
