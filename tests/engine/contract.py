"""What every strategy must obey, and small helpers to drive an engine by hand."""

from __future__ import annotations

import random
from collections import Counter

from fast_router.engine import Ask, Deployment, Engine, Lease, ModelGroup


class Clock:
    """A clock that stands still until told otherwise; it is the wall clock, too."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Bench:
    """An engine with one group, driven by hand."""

    def __init__(self, strategy: str, members: int | list[dict] = 3, seed: int = 7, **options) -> None:
        self.clock = Clock()
        self.engine = Engine(clock=self.clock, wall=self.clock, rng=random.Random(seed))
        configs = [{}] * members if isinstance(members, int) else members
        self.members = [Deployment(f"d{i}", "g", {"n": i}, **config) for i, config in enumerate(configs)]
        self.engine.deployments.update({d.id: d for d in self.members})
        self.group: ModelGroup = self.engine.compile_group("g", self.members, strategy, options)

    def acquire(self, ask: Ask | None = None) -> Lease | None:
        return self.engine.acquire(self.group, ask)

    def shares(self, picks: int, ask: Ask | None = None) -> list[float]:
        """Shares of the members over `picks` picks that leave no trace in flight."""
        counts: Counter[str] = Counter()
        for _ in range(picks):
            lease = self.acquire(ask)
            counts[lease.id] += 1
            lease.release(cancelled=True)
        return [counts[d.id] / picks for d in self.members]


STRATEGIES = [
    "cache_aware",
    "cost_based",
    "latency_based",
    "least_busy",
    "peak_ewma",
    "power_of_two",
    "round_robin",
    "session_affinity",
    "simple_shuffle",
    "usage_based",
]
