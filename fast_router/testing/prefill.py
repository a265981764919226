"""The part of a model server that a prompt waits for: prefill, one prompt after the other, sparing what is cached.

A prompt's turn takes `prefill_latency` plus its uncached tokens at `prefill_rate`; what is decoded meanwhile runs
beside it (the server's `per_token`). That is the world of `fast-router simulate --trace`, on a real clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fast_router.testing.answers import Prompt
from fast_router.testing.behaviour import Behaviour
from fast_router.testing.kv_publisher import KvPublisher
from fast_router.testing.prefix_cache import Change, Hold, PrefixCache
from fast_router.testing.prompts import rendered, tokenizer
from fast_router.testing.records import Records
from fast_router.testing.slots import Slots

__all__ = ["Prefill"]


class Prefill:
    """Prefix cache and prefill of one server, for one life: a restart makes a new one.

    Args:
        orders: The server's at the start.
        tokens: Name of the tokenizer (`prompts.tokenizer`).
        publisher: Of KV-cache events.
    """

    def __init__(self, orders: Behaviour, tokens: str | None, publisher: KvPublisher | None = None) -> None:
        self.cache = PrefixCache(orders.cache_blocks, orders.block_size)
        self._encode = tokenizer(tokens)
        self._publisher = publisher
        self._line = Slots(1)
        self._until = 0.0

    def apply(self, orders: Behaviour) -> None:
        """Take over changed orders. Another block size empties the cache."""
        if orders.block_size != self.cache.size:
            self.clear()
            self.cache.size = orders.block_size
        if removed := self.cache.resize(orders.cache_blocks):
            self._tell(Change(removed=removed))

    def clear(self) -> None:
        """Forget every block."""
        self.cache.clear()
        if self._publisher is not None:
            self._publisher.cleared()

    @asynccontextmanager
    async def computed(
        self, body: Mapping[str, Any], answer: str, orders: Behaviour, records: Records
    ) -> AsyncIterator[Prompt]:
        """Compute a request's prompt, in line, and hold its blocks for the length of the block.

        Args:
            body: The request.
            answer: What will be answered: its tokens are cached behind the prompt's.
            orders: How fast, and whether to say what was cached.
            records: Where waiting, prompt tokens and cached tokens are counted.

        Yields:
            The prompt's length, and how much of it was cached if the server says so.
        """
        text = rendered(body)
        tokens = self._encode(text) if isinstance(text, str) else text
        hold = await self._turn(tokens, str(body.get("cache_salt") or ""), orders, records)
        try:
            yield Prompt(max(1, hold.tokens), hold.cached if orders.report_cached else None)
            whole = self._encode(text + answer) if isinstance(text, str) else [*text, *self._encode(answer)]
            self._tell(self.cache.computed(hold, whole))
        finally:
            self._tell(Change(removed=self.cache.end(hold)))

    async def _turn(self, tokens: list[int], salt: str, orders: Behaviour, records: Records) -> Hold:
        clock = asyncio.get_running_loop().time
        came = clock()
        records.waiting += 1
        records.serving -= 1  # as a scheduler counts: in line for prefill is waiting, not running
        try:
            await self._line.enter()
        finally:
            records.waiting -= 1
            records.serving += 1
        # Deadlines, not delays: what a sleep overruns does not add up along the line.
        start = max(came, self._until)
        hold = None
        try:
            hold = self.cache.begin(tokens, salt)
            records.prompt_tokens += hold.tokens
            records.cached_tokens += hold.cached
            rate = orders.prefill_rate or float("inf")
            self._until = start + orders.prefill_latency + (hold.tokens - hold.cached) / rate
            if (pause := self._until - clock()) > 0:
                await asyncio.sleep(pause)
            self._tell(self.cache.computed(hold))
        except BaseException:
            self._until = min(self._until, clock())  # a client that leaves frees the rest of its turn
            if hold is not None:
                self._tell(Change(removed=self.cache.end(hold)))
            raise
        finally:
            self._line.leave()
        return hold

    def _tell(self, change: Change) -> None:
        if self._publisher is not None:
            self._publisher.changed(change, self.cache.size)
