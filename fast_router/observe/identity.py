"""Who this process is, in words of whoever started it: program, configuration, ports."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

__all__ = ["identity", "user"]

_LOOK_EVERY = 30.0
_CONFIG = re.compile(r"--config(?:=(.+))?|-c")


class _Seen:
    """The ports as they were found last: a look at every open file is not for every question."""

    ports: tuple[int, ...] = ()
    pid = 0
    at = -_LOOK_EVERY


def identity() -> dict[str, Any]:
    """Process id, parent's, host, program, configuration file and the TCP ports that it accepts calls at."""
    command = _command(os.getpid())
    if any("multiprocessing" in word for word in command) or not command:
        # A spawned worker is named by what spawned it.
        command = _command(os.getppid()) or command
    program = Path(sys.argv[0] or "python").name
    if command[1:2] == ["-c"] and program in {"-c", "python"}:
        program = "python -c"  # and no word of the code, which may hold anything
    elif program in {"-c", "-m", "python"}:
        program = next((Path(word).name for word in command[1:] if not word.startswith("-")), program)
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "host": socket.gethostname(),
        "program": program,
        "config": _config([*sys.argv[1:]]) or _config(command[1:]) or os.environ.get("CONFIG_FILE_PATH") or None,
        "ports": list(_ports()),
    }


def user() -> str:
    """Who gives orders, as `user@host`."""
    import getpass  # noqa: PLC0415 - wanted for an order only

    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _config(words: list[str]) -> str | None:
    for word, following in pairwise([*words, ""]):
        found = _CONFIG.fullmatch(word)
        if found is not None:
            value = found.group(1) or following
            # `-c` is Python's own, too.
            return value if value.endswith((".yaml", ".yml")) else None
    return None


def _ports() -> tuple[int, ...]:
    now = time.monotonic()
    if _Seen.pid != os.getpid() or now - _Seen.at > (_LOOK_EVERY if _Seen.ports else 1.0):
        _Seen.ports, _Seen.pid, _Seen.at = _listening(), os.getpid(), now
    return _Seen.ports


def _listening() -> tuple[int, ...]:
    inodes = set()
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - pathlib would make an object for each
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115 - as above
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    ports = set()
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6") if inodes else ():
        with contextlib.suppress(OSError), Path(table).open(encoding="ascii") as lines:
            for line in lines:
                parts = line.split()
                # 0A: listening.
                if len(parts) > 9 and parts[3] == "0A" and parts[9] in inodes:
                    ports.add(int(parts[1].rpartition(":")[2], 16))
    return tuple(sorted(ports))
