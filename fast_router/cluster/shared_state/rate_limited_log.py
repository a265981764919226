"""A log that stays readable while Redis is away: at most one line a minute, with the number of those left out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

__all__ = ["QuietLog"]

EVERY = 60.0
"""Seconds between two lines."""


class QuietLog:
    """Logs the first trouble, and then at most one line a minute.

    Args:
        logger: Where to.
        clock: Monotonic seconds.
    """

    def __init__(self, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._lock = threading.Lock()
        self._next = -float("inf")
        self._left_out = 0
        self._told = False

    def trouble(self, what: str, error: BaseException | None = None) -> bool:
        """Log `what` and the error's type (its text can hold addresses and keys); False if left out."""
        now = self._clock()
        with self._lock:
            if now < self._next:
                self._left_out += 1
                return False
            self._next = now + EVERY
            left_out, self._left_out = self._left_out, 0
            self._told = True
        kind = f" ({type(error).__name__})" if error is not None else ""
        more = f"; {left_out} more since the last line" if left_out else ""
        self._logger.warning("%s%s%s", what, kind, more)
        return True

    def well(self, what: str) -> None:
        """Log once that the trouble that was logged is over."""
        with self._lock:
            if not self._told:
                return
            self._told = False
        self._logger.info("%s", what)
