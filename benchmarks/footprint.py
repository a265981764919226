"""What fast_router costs before the first request: import time, memory a deployment, compiling 1,000 deployments.

Each figure is taken in a fresh process, several times, and the median is reported.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.report import Report

_ROOT = Path(__file__).resolve().parent.parent
_REPEATS = 3

# Each program prints one JSON object of figures.
_IMPORT = """
import sys, time
before = set(sys.modules)
began = time.process_time()
import fast_router
taken = time.process_time() - began
import json
print(json.dumps({"seconds": taken, "modules": len(set(sys.modules) - before), "litellm": "litellm" in sys.modules}))
"""

_LITELLM = """
import time
began = time.process_time()
import litellm
import json
print(json.dumps({"seconds": time.process_time() - began}))
"""

_ENGINE = """
import gc, json, time, tracemalloc
from benchmarks.common import model_list
from fast_router import AdvancedRouter
entries = model_list(1, 1000)
AdvancedRouter("STRATEGY", model_list=entries[:2])  # imports what is imported late
began = time.process_time()
router = AdvancedRouter("STRATEGY", model_list=entries)
router.get_available_deployment(model="group-0")
taken = time.process_time() - began
del router
gc.collect()
tracemalloc.start()
router = AdvancedRouter("STRATEGY", model_list=entries)
router.get_available_deployment(model="group-0")
gc.collect()
print(json.dumps({"seconds": taken, "bytes": tracemalloc.get_traced_memory()[0] / len(entries)}))
"""

_PLUGIN = """
import asyncio, gc, json, logging, time, tracemalloc
logging.disable(logging.CRITICAL)
from benchmarks.common import model_list
import fast_router, litellm
async def main():
    def build():
        return litellm.Router(model_list=model_list(1, 1000), routing_strategy="least-busy")
    def pick(router):
        return router.async_get_available_deployment(model="group-0", request_kwargs={}, messages=[])
    await pick(litellm.Router(model_list=model_list(1, 2)))  # imports what is imported late
    first, second = build(), build()
    began = time.process_time()
    await pick(first)
    compiling = time.process_time() - began
    began = time.process_time()
    await pick(first)
    again = time.process_time() - began
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    await pick(second)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    fast = fast_router.status()["picks"]["fast"]
    print(json.dumps({"seconds": compiling - again, "bytes": (after - before) / 1000, "fast": fast}))
asyncio.run(main())
"""


def _run(program: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=_ROOT,
        env=dict(os.environ, LITELLM_LOCAL_MODEL_COST_MAP="True"),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _median(program: str) -> dict[str, float]:
    runs = [_run(program) for _ in range(_REPEATS)]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def main() -> None:
    """Measure and report."""
    report = Report(
        "footprint",
        "What it costs before the first request",
        ["what", "milliseconds", "kB a deployment"],
        [f"CPU time in fresh processes, medians of {_REPEATS}. Memory is what tracemalloc sees of Python objects."],
    )
    imported = _median(_IMPORT)
    if imported["litellm"]:
        raise SystemExit("importing fast_router imported litellm, which it must not")
    report.add("import fast_router", imported["seconds"] * 1000, None)
    report.add("import litellm, for comparison", _median(_LITELLM)["seconds"] * 1000, None)
    for strategy in ("simple_shuffle", "least_busy", "latency_based", "peak_ewma"):
        engine = _median(_ENGINE.replace("STRATEGY", strategy))
        what = f"AdvancedRouter({strategy!r}), 1,000 deployments and the first pick"
        report.add(what, engine["seconds"] * 1000, engine["bytes"] / 1024)
    plugin = _median(_PLUGIN)
    if not plugin["fast"]:
        raise SystemExit("the plugin's pick was not a fast one: nothing was compiled")
    what = "litellm.Router with 1,000 deployments: compiling at the first pick"
    report.add(what, plugin["seconds"] * 1000, plugin["bytes"] / 1024)
    report.finish(modules_imported=imported["modules"])


if __name__ == "__main__":
    main()
