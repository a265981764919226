"""Whether this process is a proxy that is starting, and how such a one ends because of a mistake: by one line.

An exception that is raised while LiteLLM's proxy starts is told at the end of some hundred lines of traceback, by the
application's lifespan and by the server around it; nothing that is raised there gets past them. A program that merely
uses a Router gets its exception, and decides itself.
"""

from __future__ import annotations

import os
import sys

__all__ = ["end", "serves"]

_SERVERS = frozenset({"litellm", "proxy_cli", "uvicorn", "gunicorn", "hypercorn", "granian"})
_ASGI = "fast_router.asgi"
_WRONG = 2
_NO_WORKER = 3
"""Gunicorn's word for a worker that cannot start: of any other it starts the next one, for ever."""


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
    """End the process with `error` in one line and exit code 2 (3 under gunicorn), if it is a proxy that starts.

    Returns:
        Only if it is not: the caller is to raise the error.
    """
    if not serves():
        return
    sys.stdout.flush()
    sys.stderr.write(f"Error: {error}\n")
    sys.stderr.flush()
    # Not `sys.exit`: the lifespan takes that for a failure like any other. Nothing runs yet that is to be ended.
    os._exit(_NO_WORKER if "gunicorn" in sys.modules else _WRONG)
