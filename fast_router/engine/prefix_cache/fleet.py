"""What siblings share: how fast prompts are computed, how much a cache holds, how many bytes make a token.

A server of which little is known is taken to be like the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from fast_router.engine.prefix_cache.prompt import BYTES_PER_TOKEN
from fast_router.engine.prefix_cache.speed import FIXED, RATE

if TYPE_CHECKING:
    from fast_router.engine.prefix_cache.holders import Holders
    from fast_router.engine.prefix_cache.speed import Speed

__all__ = ["CACHE_TOKENS", "Fleet", "Member"]

CACHE_TOKENS = 400_000.0
"""Tokens that a cache holds before anything is known."""
BLOCKS = 65_536
"""Blocks that are remembered per server, at most."""
ALL_BLOCKS = 1 << 20
"""And of all servers together."""
STALE = 120.0
"""Seconds after which what a server taught about its speed is forgotten: one that looked slow is tried again."""
_FEWEST = 2048
_NEWEST = 0.05
_EVERY = 16


class Member(Protocol):
    """One of the servers (`Work`)."""

    speed: Speed
    learnt_at: float

    def join(self, fleet: Fleet) -> None:
        """Belong to `fleet` from now on."""


on_members: list[Callable[[Sequence[Any]], None]] = []
"""Told which servers (`Work`) are together, under the engine's lock."""


class Fleet:
    """Servers that are alike, or may be.

    Args:
        options: Of the strategy: `cache_tokens` (a cache's size), `tokens_per_second` and `fixed_seconds` (of a
            prompt), each of which is only where learning begins.

    Attributes:
        rate: Tokens per second.
        fixed: Seconds per prompt besides.
        budget: Bytes of text that a cache holds.
        bytes_per_token: Of prompts whose tokens were counted.
        reports: Whether the servers say how much of a prompt was cached.
        tokens: Of a prompt, on average.
        reads: Whether prompts matter, and not their lengths alone.
        holders: Who holds a beginning, per strategy that asks.
        known: Whether the rate comes from prompts, not from the options.
    """

    __slots__ = (
        "_learnt", "_works", "budget", "bytes_per_token", "fixed", "holders", "known", "most", "options", "rate",
        "reads", "reports", "tokens",
    )  # fmt: skip

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.rate = float(options.get("tokens_per_second") or RATE)
        self.fixed = float(FIXED if options.get("fixed_seconds") is None else options["fixed_seconds"])
        self.budget = float(options.get("cache_tokens") or CACHE_TOKENS) * BYTES_PER_TOKEN
        self.bytes_per_token = BYTES_PER_TOKEN
        self.reports = False
        self.reads = False
        self.holders: tuple[Holders, ...] = ()
        self.known = False
        self.tokens = 500.0
        self.most = BLOCKS
        self._works: list[Member] = []
        self._learnt = 0

    def members(self, works: list[Member]) -> None:
        """Say who belongs to it."""
        self._works = works
        self.most = max(_FEWEST, min(BLOCKS, ALL_BLOCKS // max(1, len(works))))
        for work in works:
            work.join(self)
        for joined in on_members:
            joined(works)

    def arrived(self, tokens: float) -> None:
        """A prompt of so many tokens was sent somewhere."""
        self.tokens += _NEWEST * (tokens - self.tokens)

    def counted(self, length: int, tokens: float) -> None:
        """A prompt of so many bytes had so many tokens."""
        if length and tokens:
            self.bytes_per_token += _NEWEST * (length / tokens - self.bytes_per_token)

    def learnt(self, now: float) -> None:
        """One of them has learnt about its speed."""
        self._learnt += 1
        if self._learnt % _EVERY and self._learnt > _EVERY:
            return
        for work in self._works:
            if now - work.learnt_at > STALE:
                work.speed.forget()
        rates = [w.speed.rate for w in self._works if w.speed.rate is not None]
        fixed = [w.speed.fixed for w in self._works if w.speed.fixed is not None]
        if rates:
            self.rate = median(rates)
            self.known = True
        if fixed:
            self.fixed = median(fixed)
