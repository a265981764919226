"""The mirror of a cache whose server tells, block by block, what it holds.

A beginning that is tied to a block of tokens is cached if the server says so, or if a prompt with it is on its way
there. For all others the mirror of what was sent there has to do.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sized
from typing import Protocol

from fast_router.engine.prefix_cache.mirror import Mirror

__all__ = ["ExactMirror", "Told"]


class Told(Container[int], Protocol):
    """Blocks that a server says it holds."""

    unsure: bool


class ExactMirror(Mirror):
    """A mirror that asks what the server told.

    Args:
        former: The mirror that it follows.
        blocks: By number of a beginning: the block of tokens in which it ends. Changes meanwhile.
        told: What the server says it holds. Changes meanwhile.
        ever: Blocks that any server ever said it holds. A block that none did is spelt otherwise there (an image, an
            adapter, another template), and says nothing by being absent. Changes meanwhile.
        waiting: The calls whose prompts are not computed yet.
    """

    __slots__ = ("_ever", "_tied", "_told", "_waiting")

    def __init__(
        self, former: Mirror, blocks: Mapping[int, int], told: Told, ever: Container[int], waiting: Sized
    ) -> None:
        self._ever = ever
        self._waiting = waiting
        self._tied = blocks
        self._told = told
        super().__init__(former.budget, former.most)

    def cached(self, hashes: list[int], guess: int = 0) -> int:
        """How many of these blocks, from the beginning, are cached."""
        del guess
        tied, told, ever, seen = self._tied, self._told, self._ever, self.seen
        horizon = self.horizon
        # What the server does not confirm is on its way there, or no longer there; where it told only a part, unknown.
        confirmed = horizon if told.unsure else max(horizon, self.serial + 1 - len(self._waiting))
        low, high = 0, len(hashes)
        while low < high:
            middle = (low + high) >> 1
            number = hashes[middle]
            key = tied.get(number)
            since = confirmed if key in ever else horizon
            if seen.get(number, -1) >= since or (key is not None and key in told):
                low = middle + 1
            else:
                high = middle
        return low
