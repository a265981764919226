"""A server's prefix cache: which beginnings of prompts it has computed before, in blocks of tokens.

Built as vLLM's automatic prefix caching (docs.vllm.ai, "Automatic Prefix Caching"): a block is known by its tokens and
all that come before them; only whole blocks are kept; a block of a running request is not dropped; what is free is
dropped least recently used first, and of one request the end before the beginning, so that what many share lives
longest. It knows nothing of the router that is tested with it.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Block", "Change", "Hold", "PrefixCache"]


@dataclass(frozen=True, slots=True)
class Block:
    """One block: `size` tokens after a known beginning.

    Attributes:
        name: 64 bits that stand for its tokens and all before them.
        parent: Name of the block before it, None for the first.
        tokens: Its token ids.
        salt: What separates it from the same tokens of others, "" for nothing.
    """

    name: int
    parent: int | None
    tokens: tuple[int, ...]
    salt: str = ""


@dataclass(slots=True)
class Change:
    """What one request changed in the cache.

    Attributes:
        stored: Blocks that are new, in the order of the prompt.
        removed: Names of blocks that were dropped for them.
    """

    stored: list[Block] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Hold:
    """What a running request holds of the cache.

    Attributes:
        blocks: The whole blocks of its tokens.
        tokens: Length of its prompt.
        life: The cache's life that it belongs to: `clear` ends one.
        salt: Its `cache_salt`.
        cached: Tokens of the prompt that were there when it began.
        names: Blocks that it holds, from the first on.
    """

    blocks: list[Block]
    tokens: int
    life: int
    salt: str = ""
    cached: int = 0
    names: list[int] = field(default_factory=list)


class PrefixCache:
    """Blocks of token ids, least recently used dropped first. Not for several threads.

    Args:
        capacity: Blocks that it holds.
        size: Tokens per block.
    """

    def __init__(self, capacity: int, size: int = 16) -> None:
        self.capacity = capacity
        self.size = size
        # Counted in tokens, as vllm:prefix_cache_queries and vllm:prefix_cache_hits are.
        self.queries = 0
        self.hits = 0
        self._held: dict[int, int] = {}  # blocks of running requests: how many hold each
        self._free: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._life = 0

    def __len__(self) -> int:
        return len(self._held) + len(self._free)

    @property
    def usage(self) -> float:
        """Share of the blocks that running requests hold, 0 to 1; a block kept for later counts as free."""
        return min(1.0, len(self._held) / self.capacity) if self.capacity else 0.0

    def blocks(self, tokens: Sequence[int], salt: str = "") -> list[Block]:
        """Cut tokens into whole blocks; what is left over at the end belongs to none."""
        found: list[Block] = []
        parent: int | None = None
        key = salt.encode("utf-8", "surrogatepass")[: hashlib.blake2b.MAX_KEY_SIZE]
        for start in range(0, len(tokens) - self.size + 1, self.size):
            content = tuple(tokens[start : start + self.size])
            packed = struct.pack(f"<Q{self.size}q", parent or 0, *content)
            name = int.from_bytes(hashlib.blake2b(packed, digest_size=8, key=key).digest(), "little")
            found.append(Block(name, parent, content, salt))
            parent = name
        return found

    def begin(self, tokens: Sequence[int], salt: str = "") -> Hold:
        """Look a prompt up and hold the blocks of it that are there until `end`.

        The last token is always computed: its output is the first token of the answer.
        """
        hold = Hold(self.blocks(tokens, salt), len(tokens), self._life, salt)
        for block in hold.blocks[: max(0, hold.tokens - 1) // self.size]:
            if not self._has(block.name):
                break
            self._hold(hold, block.name)
        hold.cached = len(hold.names) * self.size
        self.queries += hold.tokens
        self.hits += hold.cached
        return hold

    def computed(self, hold: Hold, more: Sequence[int] | None = None) -> Change:
        """Keep what was computed, held until `end`.

        Where every block is held by a running request, the rest is computed and not kept.

        Args:
            hold: Of `begin`.
            more: The prompt's tokens and those of the answer after them, once there are any.
        """
        change = Change()
        if hold.life != self._life:
            return change
        if more is not None:
            hold.blocks = self.blocks(more, hold.salt)
        for block in hold.blocks[len(hold.names) :]:
            fresh = not self._has(block.name)
            if fresh and len(self) >= self.capacity:
                if not self._free:
                    break
                change.removed.append(self._free.popitem(last=False)[0])
            self._hold(hold, block.name)
            if fresh:
                change.stored.append(block)
        return change

    def end(self, hold: Hold) -> list[int]:
        """Let go of a request's blocks: they stay as long as nothing else needs the room.

        Returns:
            Names of blocks that are dropped now, where the cache has become smaller meanwhile.
        """
        if hold.life != self._life:
            return []
        for name in reversed(hold.names):
            holders = self._held[name]
            if holders > 1:
                self._held[name] = holders - 1
            else:
                del self._held[name]
                self._free[name] = None
        hold.names.clear()
        return self._trim()

    def resize(self, capacity: int) -> list[int]:
        """Change the capacity; return the names of the blocks that had to go."""
        self.capacity = capacity
        return self._trim()

    def clear(self) -> None:
        """Forget every block, those of running requests too. The counters stay."""
        self._life += 1
        self._held.clear()
        self._free.clear()

    def _trim(self) -> list[int]:
        removed = []
        while len(self) > self.capacity and self._free:
            removed.append(self._free.popitem(last=False)[0])
        return removed

    def _has(self, name: int) -> bool:
        return name in self._held or name in self._free

    def _hold(self, hold: Hold, name: int) -> None:
        self._held[name] = self._held.get(name, 0) + 1
        self._free.pop(name, None)
        hold.names.append(name)
