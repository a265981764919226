"""Who may hold a beginning, in a fleet too large to ask everyone.

For each block the last few servers that got it, at random among more: a starting point, since each server's own mirror
has the last word. Two generations of a dict stand for an LRU: what nobody asked for while a generation filled goes
with the next.
"""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_router.engine.ask import Rng
    from fast_router.engine.deployment import Deployment

__all__ = ["Holders"]

KEPT = 8
"""Servers per block."""
BLOCKS = 1 << 18
"""Blocks per generation."""


class Holders:
    """Servers by block.

    Args:
        rng: The source of chance.
    """

    __slots__ = ("_old", "_random", "_young")

    def __init__(self, rng: Rng) -> None:
        self._random = rng.random
        self._young: dict[int, list[Deployment]] = {}
        self._old: dict[int, list[Deployment]] = {}

    def find(self, hashes: list[int], wanted: int) -> tuple[list[Deployment], int]:
        """Some who may hold the longest beginning of a prompt, and of shorter ones until there are `wanted`.

        Returns:
            The servers, and how many blocks the first of them may hold.
        """
        low, high = 0, len(hashes)
        young, old = self._young, self._old
        while low < high:
            middle = (low + high) >> 1
            if hashes[middle] in young or hashes[middle] in old:
                low = middle + 1
            else:
                high = middle
        if not low:
            return [], 0
        block = hashes[low - 1]
        first = young.get(block) or old.get(block) or []
        if len(first) >= wanted:
            return first, low
        found = dict.fromkeys(first)
        depth = low * 7 // 8
        while depth and len(found) < wanted:
            block = hashes[depth - 1]
            found.update(dict.fromkeys(young.get(block) or old.get(block) or ()))
            # The next who holds less: far fewer steps than blocks.
            depth = depth * 7 // 8
        return list(found), low

    def add(self, hashes: list[int], known: int, deployment: Deployment) -> None:
        """`deployment` got a prompt, of which it had the first `known` blocks."""
        young, old = self._young, self._old
        if known and hashes[known - 1] not in young:
            known = 0
        for block in hashes[known:]:
            servers = young.get(block)
            if servers is None:
                servers = young[block] = old.get(block) or []
            if deployment in servers:
                continue
            if len(servers) < KEPT:
                servers.append(deployment)
            else:
                servers[floor(self._random() * KEPT)] = deployment
        if len(young) > BLOCKS:
            self._old, self._young = young, {}

    def forget(self, kept: set[Deployment]) -> None:
        """Drop all servers but those `kept`."""
        for generation in (self._young, self._old):
            for block, servers in list(generation.items()):
                servers[:] = [d for d in servers if d in kept]
                if not servers:
                    del generation[block]
