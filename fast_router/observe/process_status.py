"""The status of running processes, asked for from outside: `fast-router status`.

Each process that wants to be seen listens on a Unix socket of its own, `<pid>.sock`, in a directory that only its
user can enter, and answers every connection with one JSON document: who it is, `fast_router.status()` and the
`stats()` of its routers at that moment. Nothing is written while nobody asks, a killed process leaves at most a
dead socket (removed by the next reader), and there is no port that anyone else could reach. The document holds
names and counters; no keys, headers or prompts.

The directory is the option `runtime_dir`, else `fast_router` in `$XDG_RUNTIME_DIR`, else `fast_router-<uid>` in the
temporary directory. Under the launcher and in a proxy processes want to be seen; elsewhere the option `status`
turns it on.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import socket
import stat
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.errors import ConfigurationError

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["directory", "install", "processes", "start", "stop", "want", "wanted"]

_log = logging.getLogger("fast_router")
_TIMEOUT = 5.0
# Longer paths do not fit into a socket's address everywhere (macOS: 104 bytes, Linux: 108).
_LONGEST = 100


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


_state = _State()


def want() -> None:
    """Have this process answer `fast-router status`, from the moment on that LiteLLM is patched."""
    from fast_router.litellm_plugin import hook  # noqa: PLC0415

    _state.wanted = True
    if wanted() and hook.status()["enabled"]:
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
            path = directory() / f"{os.getpid()}.sock"
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(path))
            listener.listen(16)
        except (OSError, ConfigurationError) as error:
            _log.warning("`fast-router status` cannot see this process: %s", error)
            return False
        _state.socket, _state.path, _state.pid = listener, path, os.getpid()
        if not _state.registered:
            _state.registered = True
            atexit.register(stop)
            os.register_at_fork(after_in_child=_after_fork)
    threading.Thread(target=_serve, args=(listener,), name="fast_router-status", daemon=True).start()
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


def _after_fork() -> None:
    # The parent's thread is not here, and its socket is not ours.
    _state.lock = threading.Lock()
    inherited, _state.socket = _state.socket, None
    if inherited is not None:
        inherited.close()
        _state.started = time.time()
        start()


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with contextlib.suppress(OSError), connection:
            connection.settimeout(_TIMEOUT)
            connection.sendall(_document())


def _document() -> bytes:
    document: dict[str, Any] = {"pid": os.getpid(), "program": Path(sys.argv[0] or "python").name}
    document["started"] = _state.started
    try:
        from fast_router.litellm_plugin import hook  # noqa: PLC0415
        from fast_router.router import live_routers  # noqa: PLC0415

        document["status"] = hook.status()
        document["routers"] = [router.stats() for router in live_routers() if router.groups]
    except Exception as error:  # noqa: BLE001 - the reader shall see that, and which
        document["error"] = type(error).__name__
    return json.dumps(document, default=lambda value: type(value).__name__).encode()


def directory() -> Path:
    """The private directory of the sockets, made if it is not there.

    Raises:
        ConfigurationError: It is somebody else's, open to others, or its name is too long.
    """
    chosen = settings.current().runtime_dir
    if chosen:
        path = Path(chosen).expanduser()
    else:
        path = Path(tempfile.gettempdir()) / f"fast_router-{_uid()}"
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        if runtime and Path(runtime).is_dir() and os.access(runtime, os.W_OK):
            path = Path(runtime) / "fast_router"
    if len(os.fsencode(path)) + len("/1234567890.sock") > _LONGEST:
        msg = f"{path}: too long for a socket's address; set FAST_ROUTER_RUNTIME_DIR to a shorter directory"
        raise ConfigurationError(msg)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        msg = f"{path}: cannot be made ({error.strerror}); set FAST_ROUTER_RUNTIME_DIR to a directory of your own"
        raise ConfigurationError(msg) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != _uid() or stat.S_IMODE(found.st_mode) & 0o077:
        msg = (
            f"{path}: must be a directory that only you can enter (mode 0700, your own); "
            "correct it or set FAST_ROUTER_RUNTIME_DIR to another one"
        )
        raise ConfigurationError(msg)
    return path


def _uid() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def processes() -> list[dict[str, Any]]:
    """Ask every process of this user that wants to be seen, oldest first; dead sockets are removed.

    Returns:
        One document a process: `pid`, `program`, `started` (seconds since the epoch), `status` and `routers`
        (`stats()` of each that has picked), or `error` with a word instead of them if it did not answer.
    """
    found = []
    for path in sorted(directory().glob("*.sock")):
        answer = _ask(path)
        if answer is not None:
            found.append(answer)
    return sorted(found, key=lambda each: (each.get("started", 0.0), each.get("pid", 0)))


def _ask(path: Path) -> dict[str, Any] | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT)
        parts = []
        try:
            connection.connect(str(path))
            while part := connection.recv(65536):
                parts.append(part)
            document: dict[str, Any] = json.loads(b"".join(parts))
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        except (OSError, ValueError) as error:
            name = path.stem
            return {"pid": int(name) if name.isdigit() else 0, "error": f"no answer ({type(error).__name__})"}
        return document
