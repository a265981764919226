"""The mirror of one server's prefix cache: what was sent there, in the order in which an LRU would lose it.

Every use of a prompt gets a serial number, which all its blocks then carry; the bytes that carry a number are counted.
A use touches a prompt from its beginning, so further on numbers only fall: where one ends is found by bisection, and
a prompt is entered by one native call. What the numbers from `horizon` on carry fits into the budget and counts as
cached. Older ones are remembered a while longer, to notice that the real cache is larger than we think.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_router.engine.prefix_cache.prompt import Prompt

__all__ = ["Mirror", "Run"]

Run = tuple[int, int]
"""A stretch of a prompt's blocks that were last used together: where it ends in the prompt, and how many bytes of cache
were used since (its own use included); both in bytes."""

_COMPACT = 256
_LATEST = 8


class Mirror:
    """What one server's cache holds.

    Args:
        budget: Bytes of text that it holds.
        most: Blocks that are remembered, counted once per use.

    Attributes:
        seen: The number of the last use, by block.
        horizon: The first number that still counts as cached.
        held: Bytes that count as cached.
    """

    __slots__ = ("_base", "_blocks", "_first", "_live", "_uses", "budget", "held", "horizon", "most", "seen")

    def __init__(self, budget: float, most: int) -> None:
        self.budget = budget
        self.most = most
        self.seen: dict[int, int] = {}
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.seen.clear()
        self.held = 0
        self.horizon = 0
        # By number, less `_base`: bytes that carry it, and the blocks of that use. The first `_first` are gone.
        self._base = 0
        self._first = 0
        self._live: list[int] = []
        self._uses: list[array[int] | None] = []
        self._blocks = 0

    def popular(self, hashes: list[int], known: int) -> int:
        """How many of the first `known` blocks one of the last few prompts had, too: others will want them soon."""
        seen = self.seen
        since = self._base + len(self._live) - _LATEST
        low, high = 0, known
        while low < high:
            middle = (low + high) >> 1
            if seen.get(hashes[middle], -1) >= since:
                low = middle + 1
            else:
                high = middle
        return low

    def cached(self, hashes: list[int], guess: int = 0) -> int:
        """How many of these blocks, from the beginning, count as cached; a good guess spares the search."""
        seen, horizon = self.seen, self.horizon
        low, high = 0, len(hashes)
        if guess <= high and (not guess or seen.get(hashes[guess - 1], -1) >= horizon):
            if guess == high or seen.get(hashes[guess], -1) < horizon:
                return guess
            low = guess + 1
        else:
            high = guess - 1 if guess <= high else high
        while low < high:
            middle = (low + high) >> 1
            if seen.get(hashes[middle], -1) >= horizon:
                low = middle + 1
            else:
                high = middle
        return low

    @property
    def serial(self) -> int:
        """The number of the latest use."""
        return self._base + len(self._live) - 1

    def use(self, prompt: Prompt) -> list[Run]:
        """Enter that the server got `prompt`; returns what was known of it before, from its beginning on."""
        hashes, ends, live, base, seen = prompt.hashes, prompt.ends, self._live, self._base, self.seen
        count = len(hashes)
        if not count:
            return []
        serial = base + len(live)
        runs: list[Run] = []
        place = start = age = 0
        younger = len(live)
        while place < count:
            last = seen.get(hashes[place])
            if last is None:
                break
            low, high = place + 1, count
            while low < high:
                middle = (low + high) >> 1
                if seen.get(hashes[middle]) == last:
                    low = middle + 1
                else:
                    high = middle
            place = low
            end = ends[place - 1]
            index = last - base
            age += sum(live[index:younger])
            younger = index
            runs.append((end, age))
            live[index] -= end - start
            if last >= self.horizon:
                self.held -= end - start
            start = end
        seen.update(dict.fromkeys(hashes, serial))
        size = ends[count - 1]
        live.append(size)
        self._uses.append(array("Q", hashes))
        self._blocks += count
        self.held += size
        self.fit()
        while self._blocks > self.most and self._first < len(live) - 1:
            self._forget()
        return runs

    def fit(self) -> None:
        """Move the horizon to where the budget ends."""
        live, base = self._live, self._base
        newest = len(live) - 1
        place = self.horizon - base
        while self.held > self.budget and place < newest:
            self.held -= live[place]
            place += 1
        while place > self._first and self.held + live[place - 1] <= self.budget:
            place -= 1
            self.held += live[place]
        self.horizon = base + place

    def undo(self, prompt: Prompt, serial: int, known: int) -> None:
        """Take back what is left of a use: it never got there.

        Args:
            prompt: Of which prompt.
            serial: The number of that use.
            known: Bytes of it that were known before.
        """
        ends, seen, hashes = prompt.ends, self.seen, prompt.hashes
        for place in range(len(hashes) - 1, -1, -1):
            if ends[place] <= known or seen.get(hashes[place]) != serial:
                break
            del seen[hashes[place]]
            size = ends[place] - (ends[place - 1] if place else 0)
            self._live[serial - self._base] -= size
            if serial >= self.horizon:
                self.held -= size
        self.fit()

    def _forget(self) -> None:
        """Forget the oldest use."""
        place, base, seen = self._first, self._base, self.seen
        serial = base + place
        blocks = self._uses[place]
        assert blocks is not None
        for block in blocks:
            if seen.get(block) == serial:
                del seen[block]
        self._blocks -= len(blocks)
        if serial >= self.horizon:
            self.held -= self._live[place]
            self.horizon = serial + 1
        self._uses[place] = None
        self._live[place] = 0
        self._first += 1
        if self._first >= _COMPACT and self._first * 2 > len(self._live):
            del self._live[: self._first]
            del self._uses[: self._first]
            self._base += self._first
            self._first = 0

    def __len__(self) -> int:
        return len(self.seen)
