"""Where the log lines go of a program that has set up no logging, as LiteLLM's proxy has not for loggers of others.

Python shows warnings then, and nothing below: whoever asks for `log_level: INFO` would wait in vain for the lines that
say that a deployment is back.
"""

from __future__ import annotations

import logging

__all__ = ["LOGGER", "set_level"]

LOGGER = logging.getLogger("fast_router")


class _LastResort(logging.StreamHandler):  # type: ignore[type-arg]  # generic only from Python 3.11 on
    """Writes to stderr what no handler of the program's own takes, at whichever time that is set up."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.root.handlers or any(handler is not self for handler in LOGGER.handlers):
            return
        super().emit(record)


_last_resort = _LastResort()


def set_level(level: str) -> None:
    """Log from this level on, and where somebody sees it."""
    LOGGER.setLevel(level)
    if _last_resort not in LOGGER.handlers:
        LOGGER.addHandler(_last_resort)
