"""Questions to the processes of this user that want to be seen, by way of their status sockets (`process_status`)."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

from fast_router.observe.runtime_dir import sockets

__all__ = ["ask", "ask_all", "processes"]

_TIMEOUT = 5.0


def processes() -> list[dict[str, Any]]:
    """Ask every process of this user that wants to be seen, oldest first; dead sockets are removed.

    Returns:
        One document a process: `pid`, `program`, `started` (seconds since the epoch), `status` and `routers`
        (`stats()` of each), or `error` with a word instead of them if it did not answer.
    """
    return ask_all({"do": "status"})


def ask_all(question: dict[str, Any], *, timeout: float = _TIMEOUT) -> list[dict[str, Any]]:
    """Put one question to every process, all at the same time.

    Args:
        question: What to `do`, and its arguments.
        timeout: Seconds for each answer.

    Returns:
        The answers, those of the oldest processes first.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - processes that are asked need none

    paths = sockets()
    if not paths:
        return []
    with ThreadPoolExecutor(min(16, len(paths))) as pool:
        answers = pool.map(lambda path: ask(path, question, timeout=timeout), paths)
        found = [answer for answer in answers if answer is not None]
    return sorted(found, key=lambda each: (each.get("started", 0.0), each.get("pid", 0)))


def ask(path: Path, question: dict[str, Any], *, timeout: float = _TIMEOUT) -> dict[str, Any] | None:
    """Put one question to one process; None if it is gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        parts = []
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(question).encode() + b"\n")
            while part := connection.recv(1 << 20):
                parts.append(part)
            document: dict[str, Any] = json.loads(b"".join(parts))
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        except (OSError, ValueError) as error:
            name = path.stem.rpartition("-")[2]
            return {"pid": int(name) if name.isdigit() else 0, "error": f"no answer ({type(error).__name__})"}
        return {**document, "socket": str(path)} if isinstance(document, dict) else None
