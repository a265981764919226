"""Where the processes of this user are to be found: the private directories of their status sockets.

A process puts its socket, `fast_router-<pid>.sock`, into the option `runtime_dir`, else into `fast_router` in
`$XDG_RUNTIME_DIR`, else into `fast_router-<uid>` in the temporary directory. A service and a login shell seldom agree
on `XDG_RUNTIME_DIR`, so whoever looks for processes looks in all of these, and on Linux wherever the kernel says that
such a socket is open.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from pathlib import Path

from fast_router import settings
from fast_router.errors import ConfigurationError

__all__ = ["directories", "directory", "private", "socket_name", "sockets"]

# Longer paths do not fit into a socket's address everywhere (macOS: 104 bytes, Linux: 108).
_LONGEST = 100
_NAME = re.compile(r"fast_router-(\d+)\.sock")


def socket_name(pid: int) -> str:
    """The name of a process's socket."""
    return f"fast_router-{pid}.sock"


def _chosen() -> Path:
    option = settings.current().runtime_dir
    if option:
        return Path(option).expanduser()
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir() and os.access(runtime, os.W_OK):
        return Path(runtime) / "fast_router"
    return Path(tempfile.gettempdir()) / f"fast_router-{_uid()}"


def _uid() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def directory() -> Path:
    """The private directory of this process's socket, made if it is not there.

    Raises:
        ConfigurationError: It is somebody else's, open to others, or its name is too long.
    """
    path = _chosen()
    if len(os.fsencode(path / socket_name(1234567890))) > _LONGEST:
        msg = f"{path}: too long for a socket's address; set FAST_ROUTER_RUNTIME_DIR to a shorter directory"
        raise ConfigurationError(msg)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mine = private(path)
    except OSError as error:
        msg = f"{path}: cannot be made ({error.strerror}); set FAST_ROUTER_RUNTIME_DIR to a directory of your own"
        raise ConfigurationError(msg) from None
    if not mine:
        msg = (
            f"{path}: must be a directory that only you can enter (mode 0700, your own); "
            "correct it or set FAST_ROUTER_RUNTIME_DIR to another one"
        )
        raise ConfigurationError(msg)
    return path


def private(path: Path) -> bool:
    """Whether it is a directory of this user's that nobody else can enter."""
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == _uid() and not stat.S_IMODE(found.st_mode) & 0o077


def directories() -> list[Path]:
    """Every private directory in which processes of this user may listen, this one's own first."""
    if settings.current().runtime_dir:
        # Somebody said where: processes elsewhere are none of their business.
        return [directory()]
    candidates = [
        directory(),
        Path(f"/run/user/{_uid()}/fast_router"),
        *(Path(base) / f"fast_router-{_uid()}" for base in (tempfile.gettempdir(), "/tmp", "/var/tmp")),
        *_open_sockets(),
    ]
    found = []
    for path in dict.fromkeys(candidates):
        with contextlib.suppress(OSError):
            if private(path):
                found.append(path)
    return found


def _open_sockets() -> list[Path]:
    """Directories that hold an open socket of that name, as the kernel lists them."""
    found: dict[Path, None] = {}
    with contextlib.suppress(OSError), Path("/proc/net/unix").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            path = line.rstrip("\n").rpartition(" ")[2]
            if path.startswith("/") and _NAME.fullmatch(path.rpartition("/")[2]):
                found[Path(path).parent] = None
    return list(found)


def sockets() -> list[Path]:
    """Every socket in those directories, of living processes and of dead ones."""
    return [path for each in directories() for path in sorted(each.glob("fast_router-*.sock"))]
