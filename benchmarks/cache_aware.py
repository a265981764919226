"""cache_aware beside an oracle that knows every cache and every queue, and beside least_busy, in virtual time.

Run with `python -m benchmarks.cache_aware [--trace FILE] [--quick]`. The trace is one in the published format (a JSON
object per line: timestamp in ms, input_length, output_length, hash_ids of 512-token blocks); without it, one is made
up. `make bench TRACE=FILE` hands it on. Figures are also given as multiples of the oracle's. Generated workloads are
those of seeds 1 to 3.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from benchmarks.report import Report
from fast_router.cache_world import (
    WORKLOADS,
    Change,
    Outcome,
    ServerShape,
    Workload,
    mixed,
    read_trace,
    run,
    shape,
    traffic,
)

COLUMNS = [
    "workload", "router", "hit share", "p50 s", "p90 s", "p99 s", "hit × oracle", "p50 × oracle", "p90 × oracle",
    "p99 × oracle",
]  # fmt: skip
SERVERS = 8


@dataclass(frozen=True)
class Case:
    """One row's world.

    Attributes:
        title: What it is.
        loads: A workload per seed.
        shapes: The fleet.
        reports: Whether servers report cached tokens.
        changes: What happens to the fleet.
        since: Seconds from which waits count.
    """

    title: str
    loads: Sequence[Workload]
    shapes: Sequence[ServerShape]
    reports: bool = False
    changes: Sequence[Change] = ()
    since: float = 0.0

    def outcomes(self, name: str) -> list[Outcome]:
        """Let one router serve each of the workloads."""
        return [
            run(load, self.shapes, name, reports=self.reports, changes=self.changes, seed=seed)
            for seed, load in enumerate(self.loads, 1)
        ]


def figures(outcomes: Sequence[Outcome], since: float) -> list[float]:
    """Hit share, p50, p90 and p99: means over the seeds."""
    return [mean(o.hit_share for o in outcomes)] + [
        mean(o.percentile(rank, since) for o in outcomes) for rank in (0.5, 0.9, 0.99)
    ]


def ratios(ours: Sequence[Outcome], theirs: Sequence[Outcome], since: float) -> list[float]:
    """The same as multiples, seed by seed."""
    pairs = [(figures([o], since), figures([t], since)) for o, t in zip(ours, theirs, strict=True)]
    return [mean(one[n] / other[n] if other[n] else 1.0 for one, other in pairs) for n in range(4)]


def cases(trace: Workload, *, quick: bool) -> list[Case]:
    """Everything that is measured."""
    seeds = (1,) if quick else (1, 2, 3)
    fleet = shape(SERVERS)
    found: list[Case] = []
    for name in ("agents", "tenants", "chat"):
        loads = [WORKLOADS[name](seed=seed) for seed in seeds]
        found += [Case(f"{name}{_says(reports)}", loads, fleet, reports) for reports in (False, True)]
    for speed in (1.0,) if quick else (0.5, 1.0, 1.5):
        load = trace.at_speed(speed)
        for blocks in (3000,) if quick else (1000, 3000, 10_000):
            for reports in (False, True):
                title = f"{trace.name} × {speed:g}, {blocks:,} blocks{_says(reports)}"
                found.append(Case(title, [replace(load, cache_blocks=blocks)], fleet, reports))
    half: Callable[[int], Workload] = lambda seed: WORKLOADS["agents"](seed=seed, rate=8.0)  # noqa: E731
    slow = [replace(one, rate=4000.0) if place == 0 else one for place, one in enumerate(fleet)]
    loads = [half(seed) for seed in seeds]
    found.append(Case("agents, one server half as fast, after 60 s", loads, slow, since=60.0))
    found.append(
        Case("agents, one restarts at 100 s, after 160 s", loads, fleet, changes=[Change(100, restart=0)], since=160)
    )
    joined = [Change(100, add=ServerShape("new"))]
    found.append(Case("agents, one joins at 100 s, after 160 s", loads, shape(SERVERS - 1), changes=joined, since=160))
    return found


def _says(reports: bool) -> str:
    return ", cached tokens reported" if reports else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", default=os.environ.get("TRACE"), help="a published trace; else one is generated")
    parser.add_argument("--quick", action="store_true", help="one seed, one speed, one size")
    arguments = parser.parse_args()
    trace = read_trace(arguments.trace) if arguments.trace else traffic()
    report = Report(
        "cache_aware",
        f"Time to first token in virtual time, {SERVERS} servers (prefill 8,000 tokens/s and 20 ms, serial)",
        COLUMNS,
        ["Means over the seeds. The oracle takes the earliest first token by the true caches and queues."],
    )
    for case in cases(trace, quick=arguments.quick):
        oracle = case.outcomes("oracle")
        for name in ("oracle", "least_busy", "cache_aware"):
            outcomes = oracle if name == "oracle" else case.outcomes(name)
            rounded = [round(value, 3) for value in figures(outcomes, case.since)]
            against = [round(value, 2) for value in ratios(outcomes, oracle, case.since)]
            report.add(case.title if name == "oracle" else "", name, *rounded, *against)
    for servers in (SERVERS, 64):
        loads = [
            mixed(seed=seed, rate=1.25 * servers, seconds=120.0) for seed in range(1, 3 if arguments.quick else 11)
        ]
        case = Case(f"no sharing, log-normal lengths, {servers} servers: × least_busy", loads, shape(servers))
        simple = case.outcomes("least_busy")
        for name in ("least_busy", "cache_aware"):
            outcomes = simple if name == "least_busy" else case.outcomes(name)
            rounded = [round(value, 3) for value in figures(outcomes, 0.0)]
            against = [round(value, 2) for value in ratios(outcomes, simple, 0.0)]
            report.add(case.title if name == "least_busy" else "", name, *rounded, *against)
    report.finish()


if __name__ == "__main__":
    main()
