"""How long a litellm.Router takes to construct: as it is, and with fast_router.

Each measurement is a fresh process (LiteLLM's price map grows with every Router ever built, and so does the cost of
the next one), the two sides take turns, the fastest counts. With ``--compare`` the price map, its index and the
Router's own tables that result are compared, too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from typing import Any

from benchmarks.common import model_list
from benchmarks.report import Report

CASES = ((1, 100, False), (1, 1000, False), (500, 2, False), (1, 1000, True))


def _build(groups: int, size: int, prices: bool) -> None:
    """Build one Router in this process and print the seconds of CPU it took, and a digest of the result."""
    import litellm  # noqa: PLC0415 - the side is chosen by the environment before the import

    if os.environ.get("FAST_ROUTER_ENABLED") != "0":
        import fast_router  # noqa: PLC0415

        assert fast_router.enable()
    entries = model_list(groups, size)
    if not prices:
        for entry in entries:
            del entry["litellm_params"]["input_cost_per_token"], entry["litellm_params"]["output_cost_per_token"]
    litellm.Router(model_list=[{**model_list(1, 1)[0], "model_name": "warm", "model_info": {"id": "warm"}}])
    began = time.process_time()
    router = litellm.Router(model_list=entries)
    seconds = time.process_time() - began
    print(json.dumps({"seconds": seconds, "digest": _digest(litellm, router)}))


def _digest(litellm: Any, router: Any) -> str:
    """A hash over everything that the construction leaves behind."""
    utils = litellm.utils
    index = utils._model_cost_lowercase_map or utils._rebuild_model_cost_lowercase_map()
    core = vars(router).get("_core", router)
    # Public, whatever the core is written in; then the tables of one in Python.
    tables = [
        router.get_model_list(),
        router.get_model_names(),
        sorted(index.items()),
        list(litellm.model_cost.items()),
    ]
    tables.append(getattr(core, "model_id_to_deployment_index_map", None))
    for name in ("model_list", "model_names", "model_name_to_deployment_indices"):
        value = vars(core).get(f"_core_{name}", vars(core).get(name))
        tables.append(sorted(value) if isinstance(value, set) else value)
    return hashlib.sha256(json.dumps(tables, default=str, sort_keys=False).encode()).hexdigest()


def _run(side: str, groups: int, size: int, prices: bool) -> dict[str, Any]:
    environment = {**os.environ, "FAST_ROUTER_ENABLED": "0" if side == "off" else "1"}
    command = [sys.executable, "-m", "benchmarks.construction", "--build", str(groups), str(size), str(int(prices))]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    """Measure every case and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side; the fastest counts")
    parser.add_argument("--build", nargs=3, type=int, metavar=("GROUPS", "SIZE", "PRICES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        groups, size, prices = options.build
        _build(groups, size, bool(prices))
        return
    report = Report(
        "construction",
        "Constructing a Router, seconds of CPU",
        ["groups", "deployments each", "own prices", "LiteLLM", "fast_router", "times faster", "same result"],
        ["Each figure from a process of its own; result: price map, its index, the Router's tables, by hash."],
    )
    for groups, size, prices in CASES:
        taken: dict[str, list[dict[str, Any]]] = {"off": [], "on": []}
        for _ in range(options.rounds):
            for side, results in taken.items():
                results.append(_run(side, groups, size, prices))
        off, on = (min(result["seconds"] for result in taken[side]) for side in ("off", "on"))
        same = len({result["digest"] for results in taken.values() for result in results}) == 1
        report.add(groups, size, "yes" if prices else "no", off, on, off / on, "yes" if same else "NO")
    report.finish()


if __name__ == "__main__":
    main()
