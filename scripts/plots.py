"""Draws the plots of the documentation: `python scripts/plots.py [TRACE]`.

Those of docs/strategies.md and docs/cache-aware.md come from simulations: the same code gives the same bytes. A
published trace is drawn where its path is given, and left as it is otherwise. That of docs/performance.md comes from
what `python -m benchmarks pick` has measured last, if it has.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import click
import matplotlib as mpl
from matplotlib.figure import Figure

from fast_router.cache_world import WORKLOADS, Workload, read_trace, shape
from fast_router.cli.simulate.caches import compare
from fast_router.cli.simulate.plot import cache_plot, latency_plot
from fast_router.simulation import Fault, ServerSpec, World, simulate

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
STRATEGIES = ("LiteLLM simple-shuffle", "LiteLLM least-busy", "least_busy", "cache_aware")
SLOW = ("LiteLLM simple-shuffle", "LiteLLM least-busy", "least_busy", "power_of_two", "peak_ewma")
SERVERS = 8
PICKS = IMAGES.parents[1] / "benchmarks" / "results" / "pick.json"


def slow_server() -> None:
    """Simulate four servers of which one is ten times slower for a while, and draw how strategies take it."""
    slow = (Fault("slow", start=20, end=40),)
    servers = [ServerSpec(f"server-{number}", 0.3, faults=slow if number == 0 else ()) for number in range(4)]
    outcomes = simulate(World(servers, rate=40, seconds=60), SLOW)
    path = IMAGES / "strategies-slow.svg"
    latency_plot(path, "One of four servers is ten times slower from second 20 to 40", outcomes)
    click.echo(f"{path.relative_to(IMAGES.parents[1])}: {path.stat().st_size // 1000} kB")
    for one in outcomes:
        click.echo(f"  {one.name:24} p50 {one.percentile(0.5):.3f} s  p99 {one.percentile(0.99):.3f} s")


def pick_cost() -> None:
    """Draw how many times faster a pick is than LiteLLM's own, by the number of deployments.

    Times depend on the machine that they were measured on; how often one goes into the other hardly does.
    """
    if not PICKS.exists():
        click.echo("docs/images/pick.svg stays as it is: `python -m benchmarks pick` measures what it shows")
        return
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in json.loads(PICKS.read_text())["rows"]:
        size = row["deployments"]
        if size.isdigit():  # one group, not several
            lines.setdefault(row["strategy"], []).append((int(size), row["times faster"]))
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    axes = figure.subplots()
    for strategy, points in lines.items():
        axes.plot(*zip(*points, strict=True), "o-", linewidth=1.5, markersize=3, label=strategy)
    axes.set(xscale="log", yscale="log", xlabel="deployments in the group", ylabel="times faster")
    axes.set_title("One pick with its lease, beside LiteLLM's own", fontsize=10)
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
    with mpl.rc_context({"svg.hashsalt": "fast_router", "svg.fonttype": "none"}):
        figure.savefig(IMAGES / "pick.svg", metadata={"Date": None})
    click.echo("docs/images/pick.svg")


def draw(workload: Workload, title: str) -> None:
    """Simulate a workload on eight servers and draw it."""
    outcomes = compare(workload, shape(SERVERS), STRATEGIES, reports=False, seed=1, progress=lambda _name, _over: None)
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / f"cache-aware-{workload.name}.svg"
    cache_plot(path, f"{title}, {SERVERS} servers", outcomes)
    click.echo(f"{path.relative_to(IMAGES.parents[1])}: {path.stat().st_size // 1000} kB")
    for one in outcomes:
        waits = " ".join(f"{one.percentile(share):.3f}" for share in (0.5, 0.9, 0.99))
        click.echo(f"  {one.name:24} hits {one.hit_share:.3f}  first token p50 p90 p99 {waits} s")


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", nargs="?", type=Path, help="a trace in the published format")
    arguments = parser.parse_args()
    slow_server()
    pick_cost()
    draw(WORKLOADS["agents"](seconds=180), "Agents: one long system prompt, growing sessions")
    draw(WORKLOADS["tenants"](seconds=180), "40 tenants with a long prompt each")
    draw(WORKLOADS["mixed"](seconds=180), "Prompts that share nothing")
    if arguments.trace is not None:
        draw(replace(read_trace(arguments.trace), name="trace"), "An hour of published chat traffic")


if __name__ == "__main__":
    main()
