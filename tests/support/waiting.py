"""Barriers: wait until something holds, however slow the machine is. No test sleeps and hopes."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

__all__ = ["until", "until_sync", "within_a_minute"]

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


def within_a_minute(test: Callable[..., Any]) -> Callable[..., Any]:
    """Let a test of numbers per minute of the clock run again if that minute turned while it ran and it failed."""

    def turned(minute: float) -> bool:
        return time.time() // 60 != minute

    @functools.wraps(test)
    def once_or_twice(*args: Any, **kwargs: Any) -> None:
        minute = time.time() // 60
        try:
            test(*args, **kwargs)
        except AssertionError:
            if not turned(minute):
                raise
            test(*args, **kwargs)

    @functools.wraps(test)
    async def once_or_twice_awaited(*args: Any, **kwargs: Any) -> None:
        minute = time.time() // 60
        try:
            await test(*args, **kwargs)
        except AssertionError:
            if not turned(minute):
                raise
            await test(*args, **kwargs)

    return once_or_twice_awaited if inspect.iscoroutinefunction(test) else once_or_twice
