"""What one server's cache holds, by its own events.

Without a tokenizer the number of blocks is all that is of use. With one, each block gets a key that depends on its
tokens and all before them, the same for every server: a server's own names cannot be computed from outside (they may be
salted hashes), keys can.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fast_router.kv_events.messages import Batch, Cleared, Event, Name, Removed, Stored

__all__ = ["Change", "ServerCache", "keys"]


def keys(tokens: Sequence[int], size: int, parent: int = 0) -> list[int]:
    """Give a key per whole block of `size` tokens; each depends on all tokens before it."""
    found = []
    for start in range(0, len(tokens) - size + 1, size):
        # Numbers alone: their hash is the same in every process of one Python, and no secret goes in.
        parent = hash((parent, *tokens[start : start + size]))
        found.append(parent)
    return found


@dataclass(slots=True)
class Change:
    """What some batches changed.

    Attributes:
        cleared: Whether the cache was emptied (before what follows).
        unsure: Whether batches were missing for good (before what follows): what was known may be there no longer.
        appeared: Keys of blocks that are there now.
        gone: Keys of blocks that are no longer.
        stored: Tokens that were put in.
        removed: Tokens that were dropped for others.
    """

    cleared: bool = False
    unsure: bool = False
    appeared: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    stored: int = 0
    removed: int = 0


class ServerCache:
    """One server's cache. Not for several threads.

    Args:
        exact: Whether to work out keys.

    Attributes:
        tokens: How many it holds.
        capacity: Tokens that fit, known once it drops some for others; None before.
        size: Tokens per block, 0 before the first.
        unsure: Whether batches are missing: it may hold blocks that are not known here.
    """

    def __init__(self, *, exact: bool) -> None:
        self.exact = exact
        self.tokens = 0
        self.capacity: int | None = None
        self.size = 0
        self.unsure = False
        self._blocks: dict[tuple[int, Name], tuple[int, int | None]] = {}  # (rank, name): tokens, key
        self._ranks: dict[int, int] = {}  # key: ranks that hold it

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, key: object) -> bool:
        return key in self._ranks

    def clear(self) -> None:
        """Forget everything but the capacity."""
        self._blocks.clear()
        self._ranks.clear()
        self.tokens = 0
        self.unsure = False

    def apply(self, batches: Iterable[Batch]) -> Change:
        """Take in batches, oldest first, and tell what they changed."""
        change = Change()
        for batch in batches:
            before, removed = self.tokens, change.removed
            for event in batch.events:
                self._apply(event, batch.rank, change)
            # Within one batch drops may be told after what they made room for: the fuller of both moments counts.
            if change.removed > removed:
                self.capacity = max(before, self.tokens)
        if change.appeared and change.gone:
            # What left and came back within the batches, or the other way round, is as it is now.
            change.appeared = [key for key in dict.fromkeys(change.appeared) if key in self._ranks]
            change.gone = [key for key in dict.fromkeys(change.gone) if key not in self._ranks]
        return change

    def _apply(self, event: Event, rank: int, change: Change) -> None:
        if isinstance(event, Stored):
            self._store(event, rank, change)
        elif isinstance(event, Removed):
            for name in event.names:
                found = self._blocks.pop((rank, name), None)
                if found is not None:
                    self._drop(*found, change)
        elif isinstance(event, Cleared):
            self._clear(rank, change)

    def _store(self, event: Stored, rank: int, change: Change) -> None:
        self.size = event.size
        chain: Sequence[int | None] = [None] * len(event.names)
        if self.exact and event.plain:
            before = 0 if event.parent is None else self._blocks.get((rank, event.parent), (0, None))[1]
            if before is not None:
                chain = keys(event.tokens, event.size, before)
        for name, key in zip(event.names, chain, strict=True):
            if (rank, name) in self._blocks:
                continue
            self._blocks[rank, name] = (event.size, key)
            self.tokens += event.size
            change.stored += event.size
            if key is not None:
                held = self._ranks.get(key, 0)
                self._ranks[key] = held + 1
                if not held:
                    change.appeared.append(key)

    def _drop(self, tokens: int, key: int | None, change: Change) -> None:
        self.tokens -= tokens
        change.removed += tokens
        if key is None:
            return
        held = self._ranks[key]
        if held > 1:
            self._ranks[key] = held - 1
        else:
            del self._ranks[key]
            change.gone.append(key)

    def _clear(self, rank: int, change: Change) -> None:
        others = [place for place in self._blocks if place[0] != rank]
        if not others:
            self.clear()
            change.cleared = True
            change.appeared.clear()
            change.gone.clear()
            return
        emptied = Change()
        for place in [place for place in self._blocks if place[0] == rank]:
            self._drop(*self._blocks.pop(place), emptied)
        change.gone += emptied.gone
