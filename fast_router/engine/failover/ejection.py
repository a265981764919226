"""How much of a group may rest at a time, and the failures that no call raises."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EjectionOptions", "OvertakenTimeoutError", "SilentTimeoutError"]


class OvertakenTimeoutError(TimeoutError):
    """An attempt that its caller stopped waiting for, because a second one had answered."""


class SilentTimeoutError(TimeoutError):
    """Calls of which nothing has been heard for far longer than the others of the group take."""


@dataclass(frozen=True)
class EjectionOptions:
    """How much of a group may rest at a time.

    Attributes:
        max_share: Share of a group, 0 to 1. Somebody is always left, and in a group of two or more one may
            always rest.
        panic: What happens beyond it: True wakes the whole group, False lets those rest that rest already.
    """

    max_share: float = 1.0
    panic: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.max_share <= 1:
            raise ValueError("max_share is a share between 0 and 1")

    def most(self, size: int) -> int:
        """Give the most members of a group of ``size`` that may rest at a time."""
        if size < 2 or self.max_share == 0:
            return 0
        # A hair below a whole number is that number: 0.6 × 5 is not 2.
        return min(size - 1, max(1, int(self.max_share * size + 1e-9)))
