"""The direct API against fast-litellm's Rust core: one pick from the caller's own list.

Both answer the same call, `router.get_available_deployment(model_list=…, model=…, blocked_models=[…])`, on the same
lists, each in a process of its own (fast-litellm patches LiteLLM when it is imported), taking turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import interleaved, per_call
from benchmarks.report import Report

PEER = "fast-litellm 0.1.10"
SIZES = (3, 20, 100, 1000)
SHARES = {"all": 1.0, "half": 0.5, "5 %": 0.05}
_ROOT = Path(__file__).resolve().parent.parent
_PEER_PYTHON = _ROOT / ".venvs" / "fast-litellm" / "bin" / "python"


def entries(size: int, share: float) -> list[dict[str, Any]]:
    """Return `size` deployments of which `share` (at least one) are called "wanted", in a shuffled order."""
    matching = max(1, int(size * share))
    listed = [
        {
            "model_name": "wanted" if number < matching else f"other-{number % 5}",
            "litellm_params": {"model": f"openai/model-{number}", "api_base": f"http://127.0.0.1/{number}"},
            "model_info": {"id": str(number)},
        }
        for number in range(size)
    ]
    random.Random(size).shuffle(listed)
    return listed


def _router(side: str) -> Any:
    if side == "peer":
        from fast_litellm import _rust  # noqa: PLC0415 - only in the peer's environment

        return _rust.AdvancedRouter("simple_shuffle")
    from fast_router import AdvancedRouter  # noqa: PLC0415 - not in the peer's environment

    return AdvancedRouter("simple_shuffle")


def _nothing() -> None:
    """What an empty turn of the loop costs."""


def work(side: str) -> None:
    """Answer lines of JSON {size, share, calls} with the seconds of one pick, until the input ends."""
    router = _router(side)
    lists: dict[tuple[int, float], list[dict[str, Any]]] = {}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        key = (asked["size"], asked["share"])
        listed = lists.setdefault(key, entries(*key))
        blocked = ["nobody"]

        def pick(listed: Any = listed, blocked: Any = blocked) -> Any:
            return router.get_available_deployment(model_list=listed, model="wanted", blocked_models=blocked)

        if pick()["model_name"] != "wanted":
            raise SystemExit(f"{side} picked a deployment of another model")
        empty = per_call(_nothing, asked["calls"])
        print(json.dumps({"seconds": per_call(pick, asked["calls"]) - empty}), flush=True)


class _Worker:
    """One side in its own process."""

    def __init__(self, python: str, side: str) -> None:
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.direct", "--worker", side],
            cwd=_ROOT,
            env=dict(os.environ, FAST_ROUTER_ENABLED="0"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._hear("ready")

    def measure(self, size: int, share: float, calls: int) -> Callable[[], float]:
        """Return a function that takes the time of one pick."""

        def taken() -> float:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"size": size, "share": share, "calls": calls}) + "\n")
            self.process.stdin.flush()
            return float(self._hear("seconds"))

        return taken

    def _hear(self, wanted: str) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{") and wanted in (message := json.loads(line)):
                return message[wanted]
        raise SystemExit(f"a side ended with exit code {self.process.wait()}")

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


def _peer_python() -> str:
    if _PEER_PYTHON.exists():
        return str(_PEER_PYTHON)
    if importlib.util.find_spec("fast_litellm"):
        return sys.executable
    raise SystemExit("fast-litellm is not installed: `make bench` makes an environment for it")


def main() -> None:
    """Measure every size and share and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", choices=["peer", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    report = Report(
        "direct",
        "Direct API, one pick from the caller's list, µs",
        ["deployments", "matching", PEER, "fast_router", "times faster"],
        [
            "CPU time; each side in its own process, taking turns; medians; the loop's own cost is taken off.",
            "A call names its arguments and blocks one model that nobody is called.",
        ],
    )
    peer, ours = _Worker(_peer_python(), "peer"), _Worker(sys.executable, "ours")
    try:
        for size in SIZES:
            for name, share in SHARES.items():
                calls = 20_000 if size < 1000 else 4000
                sides = {"peer": peer.measure(size, share, calls), "ours": ours.measure(size, share, calls)}
                taken = interleaved(sides, options.rounds)
                micro = {side: seconds * 1e6 for side, seconds in taken.items()}
                report.add(size, name, micro["peer"], micro["ours"], micro["peer"] / micro["ours"])
    finally:
        peer.close()
        ours.close()
    report.finish()


if __name__ == "__main__":
    main()
