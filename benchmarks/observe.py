"""What looking costs: four workers with 1,000 deployments each, watched by the commands and the page; and unwatched.

The workers do nothing but be asked, so that all of their CPU time is what the watcher takes.
"""

from __future__ import annotations

import json
import os
import pty
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import interleaved, per_call
from benchmarks.report import Report

WORKERS = 4
DEPLOYMENTS = 1000
_SECONDS = 20.0
_CALLS = 20_000

_WORKER = """
import sys
from benchmarks.observe import busy_router
from fast_router.observe import process_status
router = busy_router()
process_status.start()
print("ready", flush=True)
sys.stdin.read()
"""


def busy_router() -> Any:
    """A router whose every deployment has served calls: all of its histograms are there."""
    from fast_router import AdvancedRouter  # noqa: PLC0415 - the first import is a worker's

    models = [
        {"model_name": f"m{n % 20}", "id": f"d{n}", "endpoint": f"10.0.{n // 200}.{n % 200}:8000"}
        for n in range(DEPLOYMENTS)
    ]
    router = AdvancedRouter("least_busy", model_list=models)
    for deployment in router.deployments.values():
        for _ in range(3):
            router.engine.acquire_deployment(deployment).release(completion_tokens=5)
    return router


@contextmanager
def _workers(environment: dict[str, str]) -> Iterator[list[int]]:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parent.parent,
        )
        for _ in range(WORKERS)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
        yield [child.pid for child in children]
    finally:
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
            child.wait(60)


def _cpu(pids: list[int]) -> float:
    """CPU seconds of these processes so far, as Linux counts them."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _share(pids: list[int], watch: Callable[[], None]) -> float:
    """How much of a CPU one worker takes while somebody watches, in percent."""
    before, began = _cpu(pids), time.monotonic()
    while time.monotonic() - began < _SECONDS:
        watch()
    return 100 * (_cpu(pids) - before) / (time.monotonic() - began) / len(pids)


def _command(environment: dict[str, str], *words: str) -> tuple[float, float]:
    """Run a command; its seconds on the wall and of CPU."""
    began, used = time.monotonic(), _children()
    subprocess.run(
        [sys.executable, "-m", "fast_router.cli", *words], env=environment, stdout=subprocess.DEVNULL, check=True
    )
    return time.monotonic() - began, _children() - used


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _terminal(environment: dict[str, str], *words: str) -> Iterator[float]:
    """A command on a terminal of its own; gives the seconds until it shows a server."""
    ours, theirs = pty.openpty()
    size = {"TERM": "xterm-256color", "COLUMNS": "160", "LINES": "50"}
    began = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "fast_router.cli", *words],
        env={**environment, **size},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        seen = b""
        while b"10.0." not in seen:
            seen += os.read(ours, 65536)
        shown = time.monotonic() - began
        os.set_blocking(ours, False)
        _drained[:] = [ours]
        yield shown
    finally:
        child.terminate()
        child.wait(30)
        os.close(ours)


_drained: list[int] = []


def _read_along() -> None:
    """Keep a terminal's buffer empty, else its program waits."""
    time.sleep(0.1)
    try:
        while os.read(_drained[0], 1 << 20):
            pass
    except (BlockingIOError, OSError):
        pass


@contextmanager
def _page(environment: dict[str, str]) -> Iterator[Callable[[], dict[str, Any]]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "fast_router.cli", "dashboard", "--port", "0"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        address, _, token = child.stdout.readline().strip().partition("#token=")

        def state() -> dict[str, Any]:
            asked = urllib.request.Request(f"{address}api/state", headers={"X-Fast-Router-Token": token})
            with urllib.request.urlopen(asked, timeout=60) as answer:
                found: dict[str, Any] = json.load(answer)
            return found

        yield state
    finally:
        child.terminate()
        child.wait(30)


def _watched(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="fr-bench-") as home:
        environment = {**os.environ, "FAST_ROUTER_RUNTIME_DIR": home}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        with _workers(environment) as pids:
            report.add("nobody", "–", round(_share(pids, lambda: time.sleep(0.5)), 2))
            first, cpu = min(_command(environment, "status") for _ in range(3))
            report.notes.append(f"`status` itself takes {cpu:.2f} s of CPU time.")
            with _terminal(environment, "status", "--watch"):
                report.add("status --watch", round(first, 2), round(_share(pids, _read_along), 2))
            with _terminal(environment, "top") as first:
                report.add("top", round(first, 2), round(_share(pids, _read_along), 2))
            with _page(environment) as state:
                began = time.monotonic()
                state()
                first = time.monotonic() - began
                share = _share(pids, lambda: time.sleep(state()["every"]))
                report.add("dashboard", round(first, 2), round(share, 2))


def _unwatched() -> dict[str, float]:
    """CPU time of a pick and its release with the socket open, without it, and without it once more, ns."""
    from fast_router.observe import process_status  # noqa: PLC0415 - as above

    router = busy_router()

    def call() -> None:
        router.acquire("m0").release()

    def listening() -> float:
        process_status.start()
        try:
            return per_call(call, _CALLS)
        finally:
            process_status.stop()

    found = interleaved(
        {"off": lambda: per_call(call, _CALLS), "off again": lambda: per_call(call, _CALLS), "on": listening}, 15
    )
    return {name: round(1e9 * seconds) for name, seconds in found.items()}


def _sample() -> float:
    """CPU milliseconds of one of the samples that are taken every ten seconds."""
    from fast_router.observe.history import History  # noqa: PLC0415 - as above

    router, history = busy_router(), History()
    return 1000 * per_call(lambda: history.sample([router]), 20)


def main() -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory(prefix="fr-bench-") as home:
        os.environ["FAST_ROUTER_RUNTIME_DIR"] = home
        picks, sample = _unwatched(), _sample()
        del os.environ["FAST_ROUTER_RUNTIME_DIR"]
    report = Report(
        "observe",
        f"{WORKERS} workers with {DEPLOYMENTS:,} deployments each",
        ["watched by", "first screen, s", "CPU of one worker, %"],
        [
            f"Pick and release, socket open: {picks['on']} ns; without: {picks['off']}, {picks['off again']} ns.",
            f"One sample of the last hour, every ten seconds: {sample:.1f} ms.",
        ],
    )
    _watched(report)
    report.finish(picks=picks, sample_ms=sample)


if __name__ == "__main__":
    main()
