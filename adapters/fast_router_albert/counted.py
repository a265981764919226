"""The lease of one call: taken by the pick, given back exactly once, however the call ends.

A plain answer gives it back at once. A stream holds it until it is read to the end, closed or dropped; a client
that nobody used gives it back when it is collected.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import httpx

_LAST_EVENT = b"data: [DONE]"
_TAIL = 64
"""Bytes kept of a stream: enough to hold its last event, wherever the network cuts it."""

__all__ = ["CallLease", "CountedStream", "give_back", "hold_until_collected", "tokens_of"]


class CallLease(Protocol):
    """The part of `fast_router.engine.Lease` that a call needs; `queued.QueuedLease` has it too."""

    @property
    def open(self) -> bool:
        """True until released."""

    def first_token(self) -> None:
        """The first token has arrived."""

    def release(
        self,
        error: BaseException | None = None,
        *,
        completion_tokens: float = 0,
        total_tokens: float = 0,
        cancelled: bool = False,
    ) -> bool:
        """The call is over; only the first call counts."""

    def abandon(self) -> None:
        """The call is over, says a finaliser."""


def give_back(lease: CallLease | None, error: BaseException | None = None, answer: Any = None) -> None:
    """End the call: with `error`, cancelled, or well with `answer` (for its token counts)."""
    if lease is None:
        return
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        lease.release(cancelled=True)
        return
    completion, total = tokens_of(answer)
    lease.release(error, completion_tokens=completion, total_tokens=total)


def tokens_of(answer: Any) -> tuple[int, int]:
    """Completion tokens and all tokens that an answer reports; zeros if it does not say."""
    usage = answer.get("usage") if isinstance(answer, dict) else getattr(answer, "usage", None)

    def count(name: str) -> int:
        value = usage.get(name) if isinstance(usage, dict) else getattr(usage, name, None)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0

    return count("completion_tokens"), count("total_tokens")


def hold_until_collected(owner: Any, lease: CallLease) -> Callable[[], object]:
    """Give the lease back (as cancelled) when `owner` is collected, if nothing did before.

    Returns:
        What hands the lease to somebody else: `owner` may then go without ending it.
    """
    guard = weakref.finalize(owner, lease.abandon)
    guard.atexit = False
    return guard.detach


class CountedStream(httpx.AsyncByteStream):
    """The body of a streamed answer, which gives its lease back when it ends.

    Args:
        inner: The body as httpx delivers it.
        lease: The call's lease.
    """

    def __init__(self, inner: httpx.AsyncByteStream, lease: CallLease) -> None:
        self._inner = inner
        self._lease = lease
        self._tail = b""
        hold_until_collected(self, lease)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                if chunk:
                    self._lease.first_token()
                    self._tail = (self._tail + chunk)[-_TAIL:]
                yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            self._left()
            raise
        except BaseException as error:
            give_back(self._lease, error)
            raise
        give_back(self._lease)

    async def aclose(self) -> None:
        """Close the body; a stream that was not read to its end counts as cancelled."""
        self._left()
        await self._inner.aclose()

    def _left(self) -> None:
        """The reader left: well after the last event (the openai client stops there), else as cancelled."""
        self._lease.release(cancelled=_LAST_EVENT not in self._tail)
