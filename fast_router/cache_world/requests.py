"""Arrivals: requests as rows of block ids, and the text that a router sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["BLOCK_TOKENS", "CHARACTERS", "TRACE_TOKENS", "Request", "Workload"]

CHARACTERS = 4
"""Characters per token, as a rule of thumb for English."""
BLOCK_TOKENS = 16
"""Tokens per block of the generated workloads (vLLM's default): 64 characters."""
TRACE_TOKENS = 512
"""Tokens per block of a published trace."""
_MIX = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Request:
    """One call.

    Attributes:
        at: Seconds after the beginning.
        blocks: Ids of the prompt's blocks; a block's id says everything up to and with that block.
        tokens: Of the prompt.
        output: Tokens of the answer.
    """

    at: float
    blocks: tuple[int, ...]
    tokens: int
    output: int


@dataclass(frozen=True)
class Workload:
    """Arrivals, and what a block is.

    Attributes:
        name: What it is called.
        requests: In the order of arrival.
        block_tokens: Tokens per block.
        cache_blocks: Blocks that a server's cache holds, unless the fleet says otherwise.
    """

    name: str
    requests: Sequence[Request]
    block_tokens: int = BLOCK_TOKENS
    cache_blocks: int = 6000

    def text(self, request: Request) -> str:
        """The prompt as a program would send it, four characters per token; equal blocks are equal text."""
        repeats = max(1, self.block_tokens * CHARACTERS // 16)
        text = "".join([format((block + 1) * _MIX & _WORD, "016x") * repeats for block in request.blocks])
        return text[: request.tokens * CHARACTERS]

    def at_speed(self, speed: float) -> Workload:
        """The same requests, `speed` times as fast."""
        return replace(self, requests=[replace(r, at=r.at / speed) for r in self.requests])
