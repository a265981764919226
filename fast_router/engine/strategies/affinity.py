"""session_affinity: the same session to the same deployment.

A server that has seen a conversation has its keys and values in cache; sending the next turn elsewhere computes them
again (`cache_aware` looks at the prompts themselves). But a popular session must not drown its server, so the load of
the preferred one is bounded: at most 1.25 times the average (consistent hashing with bounded loads, Mirrokni, Thorup
and Zadimoghaddam 2016; the factor is that of HAProxy's hash-balance-factor and of the SGLang gateway). A request
without a key goes to the less loaded of two.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.engine.ask import Ask, Rng
from fast_router.engine.strategies.power_of_two import PowerOfTwo

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["SessionAffinity"]

LOAD_FACTOR = 1.25
_POINTS = 64  # places on the ring per member of average share


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class SessionAffinity(PowerOfTwo):
    """The same key, the same deployment, while that is eligible and within its bound. O(log n).

    Options:
        load_factor: How far above the average load a preferred member may be, default 1.25.
    """

    name = "session_affinity"
    aliases: ClassVar[tuple[str, ...]] = ("consistent_hash", "session")
    accepts: ClassVar[frozenset[str] | None] = frozenset({"load", "load_factor"})
    follows_load = True

    def __init__(self, members: Sequence[Deployment], rng: Rng, options: Mapping[str, Any]) -> None:
        super().__init__(members, rng, options)
        self._factor = float(options.get("load_factor") or LOAD_FACTOR)
        self._loads: dict[Deployment, float] = {}
        self._total = 0.0
        average = sum(d.share or 1.0 for d in self.members) / max(1, len(self.members))
        ring = sorted(
            (_hash(f"{d.id}/{point}"), index)
            for index, d in enumerate(self.members)
            for point in range(max(1, round(_POINTS * (d.share or 1.0) / average)))
        )
        self._hashes = [point for point, _ in ring]
        self._owners = [self.members[index] for _, index in ring]

    def added(self, deployment: Deployment) -> None:
        """Count its load."""
        self._loads[deployment] = deployment.load
        self._total += deployment.load

    def removed(self, deployment: Deployment) -> None:
        """Its load is nothing to the others any more."""
        self._total -= self._loads.pop(deployment)

    def moved(self, deployment: Deployment) -> None:
        """Keep the sum."""
        before = self._loads.get(deployment)
        if before is not None:
            self._loads[deployment] = deployment.load
            self._total += deployment.load - before

    def has_room(self, deployment: Deployment) -> bool:
        """True if one more call keeps it within the bound."""
        return deployment.load + 1 <= ceil(self._factor * (self._total + 1) / len(self.ready))

    def pick(self, now: float, ask: Ask | None) -> Deployment | None:
        """Walk the ring from the key to the first member that is eligible and has room."""
        if ask is None or ask.key is None:
            return super().pick(now, ask)
        if not self.ready:
            return None
        owners = self._owners
        start = bisect_right(self._hashes, _hash(ask.key))
        fallback: Deployment | None = None
        for step in range(len(owners)):
            owner = owners[(start + step) % len(owners)]
            if owner.held or owner.id in ask.exclude:
                continue
            if self.has_room(owner):
                return owner
            fallback = fallback or owner
        return fallback

    def choose(self, candidates: Sequence[Deployment], now: float, ask: Ask | None) -> Deployment:
        """The candidate that comes first on the ring."""
        if ask is None or ask.key is None:
            return super().choose(candidates, now, ask)
        wanted = set(candidates)
        start = bisect_right(self._hashes, _hash(ask.key))
        for step in range(len(self._owners)):
            owner = self._owners[(start + step) % len(self._owners)]
            if owner in wanted and (owner.held or self.has_room(owner)):
                return owner
        return super().choose(candidates, now, ask)
