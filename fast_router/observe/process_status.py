"""This process as others of its user see it: a private socket that answers questions and takes orders.

Each process that wants to be seen listens on a Unix socket of its own in a directory that only its user can enter
(`runtime_dir`). A question is one line of JSON, `{"do": "status"}`; the answer is one JSON document. Nothing is written
while nobody asks, a killed process leaves at most a dead socket (removed by the next reader), and there is no port that
anyone else could reach. Answers hold names and counters; no keys, headers or prompts.

Under the launcher and in a proxy processes want to be seen; elsewhere the option `status` turns it on.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_router import operator_holds, settings
from fast_router.errors import ConfigurationError
from fast_router.observe.runtime_dir import directory, socket_name
from fast_router.settings import log_level

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install", "start", "stop", "want", "wanted"]

_log = logging.getLogger("fast_router")
_TIMEOUT = 5.0
# How long a question may take to arrive; one that asks nothing gets the status.
_PATIENCE = 1.0
_LONGEST_QUESTION = 65536
_TICK = 10.0
# Seconds for which the end of the process waits for the thread at the most.
_LAST = 5.0
_LIFT = ("ids", "servers", "actions")


class _State:
    """This process's listener."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wanted = False
        self.socket: socket.socket | None = None
        self.path: Path | None = None
        self.pid = 0
        self.started = time.time()
        self.registered = False
        self.thread: threading.Thread | None = None


_state = _State()


def want() -> None:
    """Have this process answer `fast-router status`, from the moment on that LiteLLM is patched."""
    from fast_router.litellm_plugin import report  # noqa: PLC0415

    _state.wanted = True
    if wanted() and report.status()["enabled"]:
        start()


def install(patches: PatchSet, band: Band) -> list[str]:  # noqa: ARG001 - a feature like the others, of any band
    """Listen if this process wants to be seen.

    Returns:
        The names of the features that are on.
    """
    if not wanted() or not start():
        return []
    patches.on_restore(stop)
    return ["process_status"]


def wanted() -> bool:
    """Whether this process is one that wants to be seen: a proxy, under the launcher, or by the option."""
    option = settings.current().status
    return _state.wanted if option is None else option


log_level.is_server[0] = wanted


def start() -> bool:
    """Listen, if the system has Unix sockets and the directory is usable; a problem is logged, never raised.

    Returns:
        True if this process answers now.
    """
    with _state.lock:
        if _state.socket is not None and _state.pid == os.getpid():
            return True
        if not hasattr(socket, "AF_UNIX"):
            return False
        try:
            path = directory() / socket_name(os.getpid())
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(path))
            listener.listen(64)
        except (OSError, ConfigurationError) as error:
            _log.warning("`fast-router status` cannot see this process: %s", error)
            return False
        _state.socket, _state.path, _state.pid = listener, path, os.getpid()
        _obey(path.parent)
        if not _state.registered:
            _state.registered = True
            atexit.register(_at_exit)
            os.register_at_fork(after_in_child=_after_fork)
        _state.thread = threading.Thread(
            target=_serve, args=(listener, path.parent), name="fast_router-status", daemon=True
        )
        _state.thread.start()
    return True


def stop() -> None:
    """Stop listening and remove the socket."""
    with _state.lock:
        listener, path, pid = _state.socket, _state.path, _state.pid
        _state.socket = _state.path = None
    if listener is not None and pid == os.getpid():
        with contextlib.suppress(OSError):
            # Wakes the thread that waits in accept().
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()


def _at_exit() -> None:
    """Stop, and wait for the thread: ended within an import it would keep the lock that finalizers import under."""
    thread, pid = _state.thread, _state.pid
    stop()
    if thread is not None and pid == os.getpid():
        thread.join(_LAST)


def _after_fork() -> None:
    # The parent's thread is not here, and its socket is not ours.
    _state.lock = threading.Lock()
    inherited, _state.socket = _state.socket, None
    if inherited is not None:
        inherited.close()
        _state.started = time.time()
        start()


def _obey(path: Path, question: dict[str, Any] | None = None) -> None:
    """Take over the orders that an operator has written down; a question says that they are new."""
    lift = None if question is None else question.get("lift")
    if isinstance(lift, dict):
        ids, servers, actions = ([each for each in lift[key] if isinstance(each, str)] for key in _LIFT)
        operator_holds.lift(ids, servers, actions, float(lift["before"]))
    operator_holds.at_home(path, ordered=question is not None)


def _serve(listener: socket.socket, path: Path) -> None:
    from fast_router.observe import answers  # noqa: PLC0415 - it imports what a process that is not seen need not

    due = time.monotonic()
    while True:
        now = time.monotonic()
        if now >= due:
            due = now + _TICK
            with contextlib.suppress(Exception):
                _obey(path)  # in case nobody could tell us
                answers.tick()
        try:
            listener.settimeout(max(0.01, due - time.monotonic()))
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        except OSError:
            return
        # The next question must find somebody here, whatever this one was.
        with contextlib.suppress(Exception), connection:
            if not _same_user(connection):
                continue
            question = _question(connection)
            connection.settimeout(_TIMEOUT)
            if isinstance(question, dict) and question.get("do", "status") in ("holds", "wake"):
                question["problem"] = _obeyed(path, question)
            connection.sendall(_json(answers.answer(question, _state.started)))


def _obeyed(path: Path, question: dict[str, Any]) -> str:
    """Obey; a word about what was wrong with the order if it was none."""
    try:
        _obey(path, question)
    except Exception as error:  # noqa: BLE001 - whoever ordered shall hear it
        return type(error).__name__
    return ""


def _same_user(connection: socket.socket) -> bool:
    """Whether the same user, or root, asks; the directory sees to it already, where it is private."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1] in {os.getuid(), 0}


def _question(connection: socket.socket) -> dict[str, Any] | None:
    """The question; None if what arrived is none. One that asks nothing gets the status."""
    end = time.monotonic() + _PATIENCE  # for all of it: one slow asker must not keep the others waiting
    parts = b""
    try:
        while b"\n" not in parts and len(parts) < _LONGEST_QUESTION:
            connection.settimeout(max(0.001, end - time.monotonic()))
            part = connection.recv(4096)
            if not part:
                break
            parts += part
    except TimeoutError:
        pass
    try:
        found = json.loads(parts.partition(b"\n")[0] or b"{}")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _json(answer: Any) -> bytes:
    return json.dumps(answer, default=lambda value: type(value).__name__).encode()
