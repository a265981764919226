"""Hot reload: follow a file and hand over each new configuration; a bad one changes nothing and says why."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from fast_router.settings.log_level import announce

from .config import AlbertConfig, load_config
from .errors import AlbertConfigError

__all__ = ["Stamp", "Watcher", "stamp_of"]

logger = logging.getLogger("fast_router.albert")

Stamp = tuple[int, int, int]
"""What tells two versions of a file apart: time of change (ns), size, inode."""


def stamp_of(path: Path) -> Stamp | None:
    """The file's stamp, None while it is missing."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


class Watcher:
    """Follows one configuration file on a daemon thread.

    Args:
        path: The file.
        apply: Takes a new configuration; called on the watcher's thread. If it raises, the old one stays in use.
        interval: Seconds between two looks at the file.
        seen: Stamp of the version in use; a file that differs at the start is loaded at once.
        environ: The environment variables, by default the process's own.

    Attributes:
        error: The last file's problem, None while the file in use is the newest.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        apply: Callable[[AlbertConfig], None],
        *,
        interval: float = 1.0,
        seen: Stamp | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.error: Exception | None = None
        self._apply = apply
        self._interval = interval
        self._environ = environ
        self._seen = seen or stamp_of(self.path)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._forced = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fast_router-albert-reload", daemon=True)

    def start(self) -> Watcher:
        """Begin to follow the file."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop following the file."""
        self._stopped.set()
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(self._interval + 5.0)

    def force(self) -> None:
        """Load the file at the next look whether it changed or not (SIGHUP); returns at once."""
        self._forced = True
        self._wake.set()

    def check(self, *, force: bool = False) -> bool:
        """Look at the file now.

        Args:
            force: Load it even if it looks unchanged.

        Returns:
            True if a new configuration was taken over.
        """
        with self._lock:
            stamp = stamp_of(self.path)
            if stamp is None or (stamp == self._seen and not force):
                return False
            self._seen = stamp
            try:
                config = load_config(self.path, environ=self._environ)
                self._apply(config)
            except AlbertConfigError as error:
                self.error = error
                logger.error("the changed configuration is not used, the former one stays:\n%s", error)  # noqa: TRY400
                return False
            except Exception as error:  # noqa: BLE001 - whatever happens, the former configuration stays in use
                self.error = error
                logger.error("%s cannot be taken over, the former configuration stays: %s", self.path, _kind(error))  # noqa: TRY400
                return False
            self.error = None
            announce(f"{self.path}: taken over; models: {len(config.models)}")
            return True

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait(self._interval)
            self._wake.clear()
            if self._stopped.is_set():
                return
            forced, self._forced = self._forced, False
            self.check(force=forced)


def _kind(error: BaseException) -> str:
    # An error from elsewhere may quote a deployment, and with it a key: its type is enough.
    return type(error).__name__
