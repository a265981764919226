"""What `rollout` may be: a share of the traffic, or `observe`."""

from __future__ import annotations

from typing import Final

__all__ = ["EVERYTHING", "OBSERVE", "check_rollout"]

OBSERVE: Final = "observe"
EVERYTHING: Final = 100.0
"""Percent, and the default: nothing of a rollout is there."""


def check_rollout(value: object) -> float | str:
    """The share in percent, or `observe`.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, str) and value.strip().lower() == OBSERVE:
        return OBSERVE
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if 0.0 <= share <= EVERYTHING:
            return share
    msg = "expected a share in percent from 0 to 100, or observe"
    raise ValueError(msg)
