"""CPU per request of the real LiteLLM proxy, one worker: as it is, and started with fast_router.

The proxy runs in a process of its own against upstreams in another; its CPU time (user and system) is read from the
kernel before and after each block of requests. The two proxies live side by side and take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.report import Report
from fast_router.testing import Fleet

KEY = "sk-" + secrets.token_hex(32)
CASES = (
    ("simple-shuffle", 20, None),
    ("simple-shuffle", 1000, 1.6),
    ("least-busy", 1000, None),
    ("latency-based-routing", 1000, 6.0),
    ("cost-based-routing", 1000, 10.0),
)
_TICK = os.sysconf("SC_CLK_TCK")


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _config(folder: Path, strategy: str, size: int, api_base: str) -> Path:
    entries = [
        {
            "model_name": "m",
            "litellm_params": {"model": "openai/gpt-4o-mini", "api_key": "unused", "api_base": api_base},
            "model_info": {"id": f"d{number}"},
        }
        for number in range(size)
    ]
    content = {
        "model_list": entries,
        "router_settings": {"routing_strategy": strategy, "num_retries": 0},
        "general_settings": {"master_key": KEY},
    }
    path = folder / f"{strategy}-{size}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@contextlib.contextmanager
def _proxy(config: Path, side: str) -> Iterator[tuple[int, str]]:
    """Start a proxy; yields its process id and its address. Ends only what it started."""
    port = _port()
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environment["FAST_ROUTER_ENABLED"] = "1" if side == "on" else "0"
    lines = ["import fast_router"] if side == "on" else []
    lines += ["from litellm import run_server", "run_server()"]
    arguments = ["--config", str(config), "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines), *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health/liveliness", timeout=2, trust_env=False).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the proxy did not start (plugin {side})")
            time.sleep(0.2)
        yield process.pid, url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _cpu(process: int) -> float:
    """Seconds of CPU that the process has used, from the kernel's account of it."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


async def _requests(url: str, calls: int, at_once: int) -> None:
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Where to?"}]}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
        for _ in range(0, calls, at_once):
            answers = await asyncio.gather(
                *(client.post(f"{url}/v1/chat/completions", json=body, headers=headers) for _ in range(at_once))
            )
            for answer in answers:
                answer.raise_for_status()


def measure(strategy: str, size: int, api_base: str, calls: int, rounds: int) -> dict[str, float]:
    """Return seconds of the proxy's CPU per request with the plugin ``off`` and ``on``: the fastest blocks."""
    with tempfile.TemporaryDirectory() as folder:
        config = _config(Path(folder), strategy, size, api_base)
        with _proxy(config, "off") as off, _proxy(config, "on") as on:
            sides = {"off": off, "on": on}
            taken: dict[str, list[float]] = {"off": [], "on": []}
            for _, url in sides.values():
                asyncio.run(_requests(url, 40, 4))
            for _ in range(rounds):
                for side, (process, url) in sides.items():
                    before = _cpu(process)
                    asyncio.run(_requests(url, calls, 4))
                    taken[side].append((_cpu(process) - before) / calls)
    return {side: min(times) for side, times in taken.items()}


def main() -> None:
    """Measure every case and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=60, help="requests in a block")
    parser.add_argument("--rounds", type=int, default=3, help="blocks of each side; the fastest counts")
    parser.add_argument("--only", default="", help="only cases whose strategy or size contains this")
    options = parser.parse_args()
    report = Report(
        "proxy",
        "CPU of the LiteLLM proxy, ms per request (one worker)",
        ["strategy", "deployments", "LiteLLM", "fast_router", "times less", "reach"],
        ["User and system time of the proxy's process; real HTTP to upstreams in another process."],
    )
    with Fleet(1, subprocess=True) as fleet:
        api_base = next(iter(fleet.values())).api_base
        for strategy, size, reach in CASES:
            if options.only and options.only not in f"{strategy} {size}":
                continue
            # Small differences need longer blocks.
            calls = options.calls if size >= 100 else 5 * options.calls
            one = measure(strategy, size, api_base, calls, options.rounds)
            report.add(strategy, size, one["off"] * 1e3, one["on"] * 1e3, one["off"] / one["on"], reach)
            print(f"   {strategy} {size}: {one['off'] / one['on']:.2f} times less", flush=True)
    report.finish()


if __name__ == "__main__":
    main()
