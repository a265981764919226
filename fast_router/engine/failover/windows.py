"""Counts over the last seconds, in a ring of buckets: constant memory, constant time, no timer."""

from __future__ import annotations

__all__ = ["SlidingCounts"]


class SlidingCounts:
    """Several counters over one sliding window.

    A count leaves the window one bucket at a time, so a sum covers between ``window`` minus one bucket
    and ``window`` seconds.

    Args:
        window: Length in seconds.
        width: How many counters run side by side.
        buckets: Into how many parts the window is cut.
    """

    __slots__ = ("_bucket", "_counts", "_slot", "sums")

    def __init__(self, window: float, *, width: int = 2, buckets: int = 10) -> None:
        if window <= 0 or width < 1 or buckets < 1:
            raise ValueError("a window needs a positive length, width and number of buckets")
        self._bucket = window / buckets
        self._counts = [[0.0] * width for _ in range(buckets)]
        self._slot: int | None = None
        self.sums = [0.0] * width

    def _advance(self, now: float) -> int:
        slot = int(now // self._bucket)
        last = self._slot
        size = len(self._counts)
        if last is None:
            self._slot = slot
        elif slot > last:
            # A clock that steps back keeps counting in the newest bucket: nothing is counted twice.
            for index in range(last + 1, last + 1 + min(slot - last, size)):
                counts = self._counts[index % size]
                for kind, value in enumerate(counts):
                    if value:
                        self.sums[kind] -= value
                        counts[kind] = 0.0
            self._slot = slot
        return (self._slot if self._slot is not None else slot) % size

    def add(self, now: float, kind: int, value: float = 1.0) -> None:
        """Count ``value`` for the counter ``kind`` at the time ``now`` (seconds)."""
        index = self._advance(now)
        self._counts[index][kind] += value
        self.sums[kind] += value

    def read(self, now: float) -> list[float]:
        """Give the sums over the window that ends at ``now`` (seconds); the list stays ours."""
        self._advance(now)
        return self.sums

    def clear(self) -> None:
        """Forget everything."""
        for counts in self._counts:
            counts[:] = [0.0] * len(counts)
        self.sums[:] = [0.0] * len(self.sums)
