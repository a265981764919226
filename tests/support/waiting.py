"""Barriers: wait until something holds, however slow the machine is. No test sleeps and hopes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

__all__ = ["until", "until_sync"]

PATIENCE = 60.0


async def until(
    condition: Callable[[], Any], seconds: float = PATIENCE, *, every: float = 0.005, told: Any = ""
) -> Any:
    """Poll `condition` (a coroutine function may be given) until it is true, and give its value.

    Args:
        condition: What must come true.
        seconds: After which the test fails: a bound for what never comes true, not a measure.
        every: Seconds between two looks; 0 looks at each turn of the event loop.
        told: What is said then; a function is called for it.
    """
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        _in_time(end, told)
        await asyncio.sleep(every)


def until_sync(condition: Callable[[], Any], seconds: float = PATIENCE, *, every: float = 0.005, told: Any = "") -> Any:
    """The same from a thread that may block."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        _in_time(end, told)
        time.sleep(every)
    return found


def _in_time(end: float, told: Any) -> None:
    if time.monotonic() > end:
        raise AssertionError(f"waited in vain {told() if callable(told) else told}".rstrip())
