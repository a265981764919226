"""Parallel slots with a line in front of them, first come first served, resizable while in use."""

from __future__ import annotations

import asyncio
import collections
import contextlib

__all__ = ["Slots"]


class Slots:
    """Lets `limit` holders in at a time. Belongs to one event loop.

    asyncio.Semaphore cannot change its width while tasks hold or await it, which is the whole point here.

    Args:
        limit: Holders at a time, None for any number.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._line: collections.deque[asyncio.Future[None]] = collections.deque()
        self.held = 0

    @property
    def waiting(self) -> int:
        """Tasks in the line."""
        return len(self._line)

    @property
    def full(self) -> bool:
        """Whether a newcomer would have to wait."""
        return self._limit is not None and (self.held >= self._limit or bool(self._line))

    async def enter(self) -> None:
        """Take a slot, waiting in line if there is none."""
        if not self.full:
            self.held += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # Cancelled in the same instant as called up: the slot is ours and goes to the next one.
            if turn.done() and not turn.cancelled():
                self.leave()
            else:
                with contextlib.suppress(ValueError):  # a call-up may have dropped it already
                    self._line.remove(turn)
            raise

    def leave(self) -> None:
        """Give a slot back."""
        self.held -= 1
        self._call_up()

    def resize(self, limit: int | None) -> None:
        """Change the number of slots. Holders beyond a smaller number finish undisturbed."""
        self._limit = limit
        self._call_up()

    def _call_up(self) -> None:
        while self._line and (self._limit is None or self.held < self._limit):
            turn = self._line.popleft()
            if not turn.done():
                self.held += 1
                turn.set_result(None)
