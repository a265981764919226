"""Servers that compute one prompt after the other, less what their prefix cache holds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from fast_router.cache_world.requests import Request

__all__ = ["Server", "ServerShape", "shape"]


@dataclass(frozen=True)
class ServerShape:
    """What a server can do.

    Attributes:
        name: Its name.
        rate: Prompt tokens computed per second.
        fixed: Seconds that every prompt takes besides.
        decode: Seconds per token of the answer, however many answers it works on.
        cache_blocks: Blocks in its cache; None for what the workload says.
    """

    name: str
    rate: float = 8000.0
    fixed: float = 0.02
    decode: float = 0.02
    cache_blocks: int | None = None


def shape(count: int, **options: Any) -> list[ServerShape]:
    """So many equal servers; `options` are attributes of `ServerShape`."""
    return [ServerShape(f"s{number}", **options) for number in range(count)]


class Server:
    """One server at work.

    Args:
        shape: What it can do.
        block_tokens: Tokens per block.
        cache_blocks: Blocks in its cache.

    Attributes:
        free_at: When it has computed all prompts that it has.
    """

    def __init__(self, shape: ServerShape, block_tokens: int, cache_blocks: int) -> None:
        self.shape = shape
        self.block_tokens = block_tokens
        self.cache_blocks = cache_blocks if shape.cache_blocks is None else shape.cache_blocks
        self.cache: OrderedDict[int, None] = OrderedDict()
        self.free_at = 0.0

    def cached(self, request: Request) -> int:
        """Tokens of the prompt that its cache holds."""
        cache, blocks = self.cache, request.blocks
        low, high = 0, len(blocks)
        # What is held of a prompt is a beginning, so its end is found by bisection.
        while low < high:
            middle = (low + high) // 2
            if blocks[middle] in cache:
                low = middle + 1
            else:
                high = middle
        return min(request.tokens, low * self.block_tokens)

    def expected(self, request: Request, now: float) -> float:
        """Seconds to the first token if it came here now."""
        uncached = request.tokens - self.cached(request)
        return max(0.0, self.free_at - now) + self.shape.fixed + uncached / self.shape.rate

    def take(self, request: Request, now: float) -> tuple[float, int]:
        """Put it in line: when its first token comes, and how many tokens of it were in the cache."""
        cached = self.cached(request)
        work = self.shape.fixed + (request.tokens - cached) / self.shape.rate
        self.free_at = max(now, self.free_at) + work
        cache = self.cache
        for block in reversed(request.blocks):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > self.cache_blocks:
            cache.popitem(last=False)
        return self.free_at, cached

    def restart(self) -> None:
        """Lose the cache."""
        self.cache.clear()
