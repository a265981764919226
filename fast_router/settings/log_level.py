"""Where the log lines go of a program that has set up no logging, as LiteLLM's proxy has not for loggers of others.

Python would write warnings alone then, without time, level or logger. A program that sets up logging, at whichever
time, gets every line through its own handlers and no other way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

__all__ = ["LOGGER", "announce", "prepare", "set_level"]

LOGGER = logging.getLogger("fast_router")
_FORMAT = "%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"


is_server: list[Callable[[], bool]] = [lambda: False]
"""Whether this process is a server that an operator watches; `observe.process_status` knows."""


class _LastResort(logging.StreamHandler):  # type: ignore[type-arg]  # generic only from Python 3.11 on
    """Writes to stderr what no handler of the program's own takes, at whichever time that is set up."""

    def emit(self, record: logging.LogRecord) -> None:
        if not _set_up():
            super().emit(record)


_last_resort = _LastResort()
_last_resort.setFormatter(logging.Formatter(_FORMAT))


def _set_up() -> bool:
    """Whether the program has said where log lines go."""
    return bool(logging.root.handlers) or any(handler is not _last_resort for handler in LOGGER.handlers)


def prepare() -> None:
    """Have lines that nobody else takes written with time, level and logger; again is the same as once."""
    if _last_resort not in LOGGER.handlers:
        LOGGER.addHandler(_last_resort)


def set_level(level: str) -> None:
    """Log from this level on, and where somebody sees it."""
    LOGGER.setLevel(level)
    prepare()


def announce(message: str) -> None:
    """Log a line at INFO; in a server whose program set up no logging it is written whatever the level."""
    if LOGGER.isEnabledFor(logging.INFO):
        LOGGER.info("%s", message)
    elif not _set_up() and LOGGER.level == logging.NOTSET and is_server[0]():
        LOGGER.handle(LOGGER.makeRecord(LOGGER.name, logging.INFO, __file__, 0, message, (), None))
