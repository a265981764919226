"""Whether this process is a proxy that is starting, and how such a one ends because of a mistake: by one line.

An exception that is raised while LiteLLM's proxy starts is told at the end of some hundred lines of traceback, by the
application's lifespan and by the server around it; nothing that is raised there gets past them. A program that merely
uses a Router gets its exception, and decides itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys

__all__ = ["end", "serves"]

_SERVERS = frozenset({"litellm", "proxy_cli", "uvicorn", "gunicorn", "hypercorn", "granian"})
_ASGI = "fast_router.asgi"
_WRONG = 2
_NO_WORKER = 3
"""The word of gunicorn and uvicorn for a worker that cannot start: of any other they start the next one, for ever."""
_SUPERVISOR = "uvicorn.supervisors.multiprocess"


def serves() -> bool:
    """Whether a server was started as this program, with LiteLLM's proxy in it."""
    arguments = getattr(sys, "argv", None) or [""]
    if any(word.partition(":")[0] == _ASGI for word in arguments[1:]):
        return True
    folder, name = os.path.split(arguments[0])
    # `python -m uvicorn` is …/uvicorn/__main__.py
    program = folder.rpartition(os.sep)[2] if name == "__main__.py" else name.partition(".")[0]
    return program in _SERVERS and "litellm.proxy.proxy_server" in sys.modules


def end(error: Exception) -> None:
    """End the process with `error` in one line, if it is a proxy that starts, and with it the server that it serves.

    The exit code is 2, of one of several workers 3: their server then ends as well, instead of starting them anew.

    Returns:
        Only if it is no such proxy: the caller is to raise the error.
    """
    if not serves():
        return
    sys.stdout.flush()
    sys.stderr.write(f"Error: {error}\n")
    sys.stderr.flush()
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None and _restarts_for_ever():
        os.kill(parent.pid, signal.SIGTERM)
    # Not `sys.exit`: the lifespan takes that for a failure like any other. Nothing runs yet that is to be ended.
    os._exit(_NO_WORKER if parent is not None or "gunicorn" in sys.modules else _WRONG)


def _restarts_for_ever() -> bool:
    """Whether this is an older uvicorn, whose supervisor knows no exit code by which to stop."""
    supervisor = sys.modules.get(_SUPERVISOR)
    return supervisor is not None and not hasattr(supervisor, "STARTUP_FAILURE")
