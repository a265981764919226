"""Which models a routing worker serves: a file, what API processes announce, and what it was limited to."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from typing import Any

from redis.exceptions import RedisError

from fast_router.errors import FastRouterError

__all__ = ["ModelWatch"]

logger = logging.getLogger("fast_router.celery.worker")

_WILD = frozenset("*?[")


class ModelWatch:
    """The models to serve now.

    Args:
        patterns: Only models that match one of these (`*` and `?` match as in file names); a name without
            them is served even if nobody announced it. Empty: all.
        path: The configuration file; read again when it changes.
        read: Reads the models' names out of `path`.
        redis: Client for the announcements; None to do without.
        key: The sorted set of announcements (model → when, server seconds).
        keep: Seconds for which an announcement counts.
    """

    def __init__(
        self,
        patterns: Collection[str] = (),
        *,
        path: str | None = None,
        read: Callable[[str], Collection[str]] | None = None,
        redis: Any = None,
        key: str = "",
        keep: float = 1800.0,
    ) -> None:
        self.patterns = tuple(patterns)
        self._path = path
        self._read = read
        self._stamp: tuple[int, int] | None = None
        self._from_file: frozenset[str] = frozenset()
        self._redis = redis
        self._key = key
        self._keep = keep
        self._announced: frozenset[str] = frozenset()
        self._complained = -60.0

    def names(self) -> frozenset[str]:
        """The models to serve; on trouble the last known ones."""
        self._look_at_file()
        self._look_at_redis()
        known = self._from_file | self._announced
        if not self.patterns:
            return known
        plain = {pattern for pattern in self.patterns if not _WILD & set(pattern)}
        return frozenset(
            plain | {name for name in known if any(fnmatchcase(name, pattern) for pattern in self.patterns)}
        )

    def _look_at_file(self) -> None:
        if self._path is None or self._read is None:
            return
        try:
            status = os.stat(self._path)  # noqa: PTH116 - a string from the command line
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._from_file = frozenset(self._read(self._path))
        except (OSError, FastRouterError, ValueError) as error:
            self._complain(f"{self._path} cannot be read, the models stay as they were: {error}")

    def _look_at_redis(self) -> None:
        if self._redis is None:
            return
        try:
            now, _ = self._redis.time()
            self._redis.zremrangebyscore(self._key, "-inf", now - self._keep)
            self._announced = frozenset(raw.decode() for raw in self._redis.zrange(self._key, 0, -1))
        except (RedisError, OSError, UnicodeDecodeError) as error:
            self._complain(f"announced models cannot be read ({type(error).__name__}), they stay as they were")

    def _complain(self, what: str) -> None:
        now = time.monotonic()
        if now - self._complained >= 60:
            self._complained = now
            logger.warning("%s", what)
