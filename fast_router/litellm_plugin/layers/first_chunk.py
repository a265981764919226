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
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.litellm_plugin import request
from fast_router.litellm_plugin.layers import rescue
from fast_router.litellm_plugin.layers.beside import paired
from fast_router.litellm_plugin.layers.failures import judge
from fast_router.litellm_plugin.layers.stack import Around, Call, Installed, plug
from fast_router.litellm_plugin.layers.stream import (
    AsyncSource,
    SyncSource,
    generator,
    generator_sync,
    paused,
    source_of,
    streams,
)
from fast_router.litellm_plugin.layers.stream_classes import ATTEMPTS, END
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.layers.stack import Arguments, Request
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding
    from fast_router.litellm_plugin.request import Reading

__all__ = ["begun", "first_chunk_within", "install"]


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


def first_chunk_within(original: Any, *, ledgers: bool = True) -> Any:
    """From 1.109 on LiteLLM waits for the first chunk itself, for as long as it takes.

    Args:
        original: What waits.
        ledgers: Whether only a request with a ledger is a Router's; a request in 1.110's lane has none.
    """

    async def _aread_first_chunk(stream: Any) -> Any:
        idle = settings.current().stream_idle_timeout
        if not idle or (ledgers and request.ledger.get() is None):
            return await original(stream)
        try:
            return await asyncio.wait_for(original(stream), idle)
        except (asyncio.TimeoutError, TimeoutError) as error:
            with contextlib.suppress(Exception):
                await stream.aclose()
            raise paused(idle) from error

    return _aread_first_chunk


def _around(inner: Call, binding: Binding) -> Call:
    band = binding.band  # not the binding itself, which would hold itself by this layer
    rescues = rescue.wanted()

    async def first_chunk(core: Any, args: Arguments, kwargs: Request) -> Any:
        ledger = request.ledger.get()
        if ledger is None:
            return await inner(core, args, kwargs)
        pair = None
        if rescues and ledger.beside is None:
            pair = ledger.beside = paired(ledger, first_chunk, core, args, kwargs)
        options = settings.current()
        handed = False
        try:
            response = await inner(core, args, kwargs)
            handed = True
            response = await begun(response, eager=options.stream_failover, idle=options.stream_idle_timeout)
        except BaseException as error:
            if handed and isinstance(error, Exception):
                judge(core, band, ledger, error, kwargs)
            if pair is not None and pair.failed():
                return await pair.settle(error)
            raise
        if pair is not None:
            pair.close()
        return response

    # Whatever does not stream passes without a frame of ours.
    def make_call(core: Any, args: Arguments, kwargs: Request) -> Awaitable[Any]:
        return (first_chunk if kwargs.get("stream") else inner)(core, args, kwargs)

    return make_call


async def begun(response: Any, *, eager: bool, idle: float) -> Any:
    """Put the first chunk back in front of the stream that it came from.

    Raises:
        Exception: What the stream raised in place of a first chunk.
    """
    bare = inspect.isasyncgen(response)
    source = AsyncSource(response) if bare else source_of(response)
    if not isinstance(source, AsyncSource):
        return await _begun_otherwise(response, source) if eager else response
    source.idle = idle
    if eager:
        source.first = await _first(source.__anext__)
        _answered(source.watch)
    return generator(source) if bare else response


# Events of the Responses API that say nothing but that the server has heard: a failure after these loses nothing.
_HEARD = frozenset({"response.created", "response.in_progress", "response.queued"})
_MOST_HEARD = 4


def _tells(chunk: Any) -> bool:
    kind = getattr(chunk, "type", None)
    return not isinstance(kind, str) or getattr(kind, "value", kind) not in _HEARD


async def _first(step: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Give what a stream begins with, up to its first token, the last chunk first: to be popped."""
    chunks: list[Any] = []
    with _beginning():
        try:
            while len(chunks) < _MOST_HEARD:
                chunks.insert(0, await step())
                if _tells(chunks[0]):
                    break
        except StopAsyncIteration:
            chunks.insert(0, END)
    return chunks


@contextlib.contextmanager
def _beginning() -> Iterator[None]:
    """Note in the request that a failure from now on is that of an attempt."""
    ledger = request.ledger.get()
    if ledger is None:
        yield
        return
    ledger.beginning = True
    try:
        yield
    finally:
        ledger.beginning = False


def _answered(watch: Reading | None) -> None:
    """Tell the breaker: for a probe a first token is answer enough, its stream may last minutes."""
    lease = None if watch is None else watch.attempt.lease
    ledger = request.ledger.get()
    if lease is not None and ledger is not None and ledger.failover is not None:
        try:
            ledger.failover.policy.first_token(lease)
        except Exception as error:  # noqa: BLE001 - the stream must reach the caller
            tally.failed(error, "a stream's first token")


# -- streams that are no asynchronous generator ----------------------------------------------------------------


async def _begun_otherwise(response: Any, source: SyncSource | None = None) -> Any:
    """Put the first chunk back into a synchronous stream, or into an iterator of a class of its own."""
    bare = inspect.isgenerator(response)
    source = SyncSource(response) if bare else source
    if source is not None:
        source.first = _first_sync(source)
        _answered(source.watch)
        return generator_sync(source) if bare else response
    if not hasattr(response, "__dict__") or not streams(type(response)):
        return response
    if hasattr(type(response), "__anext__") and not _is_synchronous(response):
        first = await _first(response.__anext__)
    else:
        first = _first_sync(response)
    watch = ATTEMPTS.follower_of(response)
    _answered(watch)
    ATTEMPTS.exchange_class(response, watch, first)
    return response


def _is_synchronous(response: Any) -> bool:
    """Tell whether a stream that could be read either way comes from a synchronous call."""
    source = getattr(response, "completion_stream", None)
    return source is not None and hasattr(source, "__next__") and not hasattr(source, "__anext__")


def _first_sync(source: Any) -> list[Any]:
    chunks: list[Any] = []
    with _beginning():
        try:
            while len(chunks) < _MOST_HEARD:
                chunks.insert(0, next(source))
                if _tells(chunks[0]):
                    break
        except StopIteration:
            chunks.insert(0, END)
    return chunks
