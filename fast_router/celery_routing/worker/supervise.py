"""Several worker processes under one: kept at their number, and stopped together."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Final

__all__ = ["run_processes"]

logger = logging.getLogger("fast_router.celery.worker")

_STOP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_SHORT_LIFE: Final = 5.0
"""A process that ends sooner (seconds) is started again only after a pause, ..."""
_PAUSE: Final = 1.0
"""... of so many seconds."""


def run_processes(run: Callable[[], int], count: int) -> int:
    """Run `run` in `count` processes; one that dies is replaced, and a signal to stop reaches all of them.

    Args:
        run: Runs a worker until it is told to stop, and returns its exit code. Called in each process.
        count: How many.

    Returns:
        The largest exit code of those that were told to stop.
    """
    parent = os.getpid()
    started: dict[int, float] = {}
    told: list[int] = []

    def stop(number: int, _frame: Any) -> None:
        told.append(number)
        for pid in list(started):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    for number in _STOP:
        signal.signal(number, stop)
    worst = 0
    while started or not told:
        while len(started) < count and not told:
            # No signal between the fork and the note of it: `stop` would not know the process.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
            pid = os.fork()
            if pid:
                started[pid] = time.monotonic()
            else:
                for number in _STOP:
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if not pid:
                os._exit(_child(run, parent))
        pid, status = os.waitpid(-1, 0)
        lived = time.monotonic() - started.pop(pid, 0.0)
        code = os.waitstatus_to_exitcode(status)
        if told:
            # One that was still starting is ended by the signal itself.
            worst = max(worst, 0 if -code in _STOP else abs(code))
        else:
            logger.warning("a worker process ended (%d) and is replaced", code)
            if lived < _SHORT_LIFE:
                time.sleep(_PAUSE)
    return worst


def _child(run: Callable[[], int], parent: int) -> int:
    # A group of its own: Ctrl-C reaches the parent, which passes it on once.
    os.setpgid(0, 0)
    threading.Thread(target=_follow, args=(parent,), name="fast-router-parent", daemon=True).start()
    try:
        return run()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        logger.exception("a worker process failed")
        return 1


def _follow(parent: int) -> None:
    """Stop when the parent is gone: nobody else would ever tell us to."""
    while os.getppid() == parent:
        time.sleep(_PAUSE)
    os.kill(os.getpid(), signal.SIGTERM)
