"""Durations in buckets: what percentiles are read from, and what Prometheus is told. One addition costs a bisection."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

__all__ = ["BOUNDS", "Histogram", "percentile"]

BOUNDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 1.5, 2.5),
    *(4.0, 6.0, 10.0, 15.0, 25.0, 40.0, 60.0, 120.0, 300.0, 600.0),
)
"""Upper ends of the buckets, seconds; one more bucket holds what is longer."""


class Histogram:
    """How many durations fell into each bucket, and their sum.

    Attributes:
        counts: One for each of `BOUNDS`, and one for what is longer.
        total: Seconds in all.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


def percentile(counts: Sequence[int], share: float) -> float | None:
    """The duration below which that share lies, linear within its bucket; None without any.

    Args:
        counts: As of `Histogram`.
        share: 0 to 1.
    """
    total = sum(counts)
    if not total:
        return None
    wanted, below = share * total, 0
    for place, count in enumerate(counts):
        if count and below + count >= wanted:
            low = BOUNDS[place - 1] if place else 0.0
            high = BOUNDS[place] if place < len(BOUNDS) else low
            return low + (high - low) * max(0.0, wanted - below) / count
        below += count
    return BOUNDS[-1]
