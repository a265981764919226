"""Draws the plots of docs/cache-aware.md from simulations: `python scripts/plots.py [TRACE]`.

The same code gives the same bytes. A published trace is drawn where its path is given, and left as it is otherwise.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import click

from fast_router.cache_world import WORKLOADS, Workload, read_trace, shape
from fast_router.cli.simulate.caches import compare
from fast_router.cli.simulate.plot import cache_plot

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
STRATEGIES = ("LiteLLM simple-shuffle", "LiteLLM least-busy", "least_busy", "cache_aware")
SERVERS = 8


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
    draw(WORKLOADS["agents"](seconds=180), "Agents: one long system prompt, growing sessions")
    draw(WORKLOADS["tenants"](seconds=180), "40 tenants with a long prompt each")
    draw(WORKLOADS["mixed"](seconds=180), "Prompts that share nothing")
    if arguments.trace is not None:
        draw(replace(read_trace(arguments.trace), name="trace"), "An hour of published chat traffic")


if __name__ == "__main__":
    main()
