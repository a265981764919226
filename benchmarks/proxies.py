"""LiteLLM's real proxy as a side of a benchmark: started plain or under fast_router, on a port of the system's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

__all__ = ["ProxySide"]

_KEY = "sk-" + secrets.token_hex(32)
_PATIENCE = 240.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ProxySide:
    """One proxy process.

    Args:
        name: What the table calls it.
        model_list: LiteLLM's.
        router_settings: LiteLLM's.
        plugin: Whether it runs under fast_router.
        workers: Worker processes.
        options: Options of fast_router, by name.
        sections: Further sections of the configuration.
        files: Files beside it, by name: modules that the configuration names.
    """

    def __init__(
        self,
        name: str,
        model_list: list[dict[str, Any]],
        router_settings: dict[str, Any],
        *,
        plugin: bool,
        workers: int = 1,
        options: dict[str, Any] | None = None,
        sections: dict[str, Any] | None = None,
        files: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self._config = {"model_list": model_list, "router_settings": router_settings, **(sections or {})}
        self._files = files or {}
        self._plugin = plugin
        self._workers = workers
        self._options = options or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._home = tempfile.TemporaryDirectory(prefix="fr-bench-")
        self.home = Path(self._home.name)
        self.url = ""
        self._client: httpx.AsyncClient | None = None

    def start(self) -> None:
        """Start it; `ready` waits until it answers."""
        port = _free_port()
        home = Path(self._home.name)
        config = home / "config.json"
        config.write_text(json.dumps(self._config))
        for name, text in self._files.items():
            (home / name).write_text(text)
        self.url = f"http://127.0.0.1:{port}"
        litellm = str(Path(sys.executable).parent / "litellm")
        command = [litellm, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--num_workers", str(self._workers)]
        if self._workers > 1:
            # uvicorn kills a worker that has not answered five seconds after its start: on a busy machine, every one.
            command.append("--run_gunicorn")
        if self._plugin:
            command = [sys.executable, "-m", "fast_router.cli", "run", "--", *command]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FAST_ROUTER_")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment |= {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MASTER_KEY": _KEY,
            "LITELLM_LOG": "CRITICAL",
            "FAST_ROUTER_RUNTIME_DIR": str(home),
            **{f"FAST_ROUTER_{key.upper()}": str(value) for key, value in self._options.items()},
        }
        self._process = subprocess.Popen(
            command, env=environment, stdout=(home / "log").open("wb"), stderr=subprocess.STDOUT, start_new_session=True
        )

    async def ready(self) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: It ended, or took too long.
        """
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {_KEY}"},
            timeout=120,
            # Shorter than uvicorn's five seconds, or gunicorn's two: both closing at once would look like an error.
            limits=httpx.Limits(max_connections=None, keepalive_expiry=2.0 if self._workers == 1 else 0.5),
        )
        deadline = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await self._client.get("/health/liveliness")).status_code == 200:
                    return
            process = self._process
            if process is None or process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start: {(Path(self._home.name) / 'log').read_text()[-2000:]}")
            await asyncio.sleep(0.2)

    @property
    def client(self) -> httpx.AsyncClient:
        """A client with the master key."""
        assert self._client is not None
        return self._client

    def log(self) -> list[str]:
        """What it has said so far, line by line."""
        return (self.home / "log").read_text(errors="replace").splitlines()

    def memory(self) -> float:
        """MiB that its processes hold, pages that they share by their share."""
        assert self._process is not None
        kib = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, IndexError, ValueError):
                group = int(stat.read_text().rpartition(")")[2].split()[2])
                if group == self._process.pid:
                    rollup = (stat.parent / "smaps_rollup").read_text()
                    kib += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        return kib / 1024

    async def chat(
        self, *, stream: bool = False, key: str | None = None, patience: float | None = None, **more: Any
    ) -> None:
        """Make one request and read its whole answer.

        Args:
            stream: Whether it is a stream.
            key: Whose it is; the master key's where none is given.
            patience: Seconds without a byte after which the client gives up.
            more: Further parts of its body.

        Raises:
            RuntimeError: The client saw it fail.
        """
        assert self._client is not None
        extra: dict[str, Any] = {} if patience is None else {"timeout": patience}
        if key is not None:
            extra["headers"] = {"Authorization": f"Bearer {key}"}
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": stream, **more}
        if not stream:
            answer = await self._client.post("/v1/chat/completions", json=body, **extra)
            if answer.status_code != 200:
                raise RuntimeError(f"status {answer.status_code}: {answer.text[:160]}")
            return
        async with self._client.stream("POST", "/v1/chat/completions", json=body, **extra) as answer:
            if answer.status_code != 200:
                raise RuntimeError(f"status {answer.status_code}: {(await answer.aread())[:160]!r}")
            done = False
            async for line in answer.aiter_lines():
                if line.startswith("data: {") and '"error"' in line[:20]:
                    raise RuntimeError(f"an error in the stream: {line[:160]}")
                done = done or line == "data: [DONE]"
            if not done:
                raise RuntimeError("a stream without an end")

    async def close(self) -> None:
        """Stop it."""
        if self._client is not None:
            await self._client.aclose()
        process = self._process
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(20)
        self._home.cleanup()
