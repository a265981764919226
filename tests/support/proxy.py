"""LiteLLM's proxy in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

PATIENCE = 240.0


class Proxy:
    """A proxy process, its address and its log.

    Args:
        command: What starts it.
        url: Where it will listen.
        environment: Its environment variables.
        log: File for what it says.
    """

    def __init__(self, command: Sequence[str], url: str, environment: Mapping[str, str], log: Path) -> None:
        self.url = url
        self.environment = environment
        self.log = log
        with log.open("wb") as said:
            # In a folder of its own: LiteLLM imports from two folders above the one that it runs in, whatever is there.
            self.process = subprocess.Popen(
                command,
                cwd=log.parent,
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for a condition and give its value; `what` is told if it does not come about."""
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{what}; the proxy said:\n{self.log.read_text()[-6000:]}")
            time.sleep(0.1)
        return value

    def alive(self) -> bool:
        """Whether it answers."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health/liveliness", timeout=5).status_code == 200
        return False

    def stop(self) -> None:
        """End it and its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(30)


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str) -> str:
    """Give the path of a program of this environment."""
    return str(Path(sys.executable).parent / name)


def environment(**more: str) -> dict[str, str]:
    """Give the environment of a proxy: without settings of ours that this process may have, and what is asked for."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("FAST_ROUTER_")}
    # Each worker would compile the whole of LiteLLM's proxy otherwise, for half a minute.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**env, "LITELLM_LOCAL_MODEL_COST_MAP": "True", **more}
