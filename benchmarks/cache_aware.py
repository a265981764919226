"""cache_aware beside an oracle that knows every cache and every queue, and beside least_busy, in virtual time.

Run with `python -m benchmarks.cache_aware [--trace FILE] [--quick] [--only WORDS]`. The trace is one in the published
format (a JSON object per line: timestamp in ms, input_length, output_length, hash_ids of 512-token blocks); without it,
one is made up. `make bench TRACE=FILE` hands it on. Figures after × are multiples of the oracle's, means over the
seeds. "Reach" is what the strategy is to come to: its hits at least, its p90 and p99 at the most.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Any

from benchmarks.report import Report
from fast_router.cache_world import (
    WORKLOADS,
    Change,
    Outcome,
    Proxies,
    ServerShape,
    Workload,
    mixed,
    read_trace,
    run,
    shape,
    traffic,
)

COLUMNS = ["workload: router", "hits", "p50 s", "p90 s", "p99 s", "× hits", "× p90", "× p99", "reach"]
SERVERS = 8
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Side:
    """Who serves, and what it is to come to.

    Attributes:
        title: What it is called in the table.
        strategy: Its name.
        reach: Hits at least, p90 and p99 at the most, as multiples of the first side's; empty for nothing.
        reports: Whether servers report cached tokens.
        options: Of the strategy.
        proxies: How many processes share the arrivals; they tell each other nothing if negative.
    """

    title: str
    strategy: str
    reach: Sequence[float] = ()
    reports: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    proxies: int = 1


ORACLE = Side("oracle", "oracle")
CALLS = Side("least_busy", "least_busy")


@dataclass(frozen=True)
class Case:
    """One workload and those who serve it; figures are given as multiples of the first one's.

    Attributes:
        title: What it is.
        loads: A workload per seed.
        shapes: The fleet.
        sides: Who serves.
        changes: What happens to the fleet.
        since: Seconds from which waits count.
    """

    title: str
    loads: Sequence[Workload]
    shapes: Sequence[ServerShape]
    sides: Sequence[Side]
    changes: Sequence[Change] = ()
    since: float = 0.0

    def outcomes(self, side: Side) -> list[Outcome]:
        """Let one side serve each of the workloads."""
        return [self._outcome(side, load, seed) for seed, load in enumerate(self.loads, 1)]

    def _outcome(self, side: Side, load: Workload, seed: int) -> Outcome:
        if side.proxies == 1:
            return run(
                load,
                self.shapes,
                side.strategy,
                reports=side.reports,
                changes=self.changes,
                seed=seed,
                options=side.options,
            )
        interval = 0.1 if side.proxies > 0 else None
        return run(
            load,
            self.shapes,
            lambda _, clock: Proxies(
                side.strategy, self.shapes, clock, count=abs(side.proxies), interval=interval, seed=seed
            ),
            reports=side.reports,
        )


def figures(outcomes: Sequence[Outcome], since: float) -> list[float]:
    """Hit share, p50, p90 and p99: means over the seeds."""
    return [mean(o.hit_share for o in outcomes)] + [
        mean(o.percentile(rank, since) for o in outcomes) for rank in (0.5, 0.9, 0.99)
    ]


def ratios(ours: Sequence[Outcome], theirs: Sequence[Outcome], since: float) -> list[float]:
    """The same as multiples, seed by seed."""
    pairs = [(figures([o], since), figures([t], since)) for o, t in zip(ours, theirs, strict=True)]
    return [mean(one[n] / other[n] if other[n] else 1.0 for one, other in pairs) for n in range(4)]


def verdict(side: Side, against: Sequence[float]) -> str:
    """What it was to come to, and whether it did."""
    if not side.reach:
        return ""
    hits, p90, p99 = side.reach
    there = against[0] >= hits and against[2] <= p90 and against[3] <= p99
    return f"{'yes' if there else 'NO'} {hits:g} {p90:g} {p99:g}"


def cases(trace: Workload, seeds: Sequence[int], *, quick: bool) -> Iterator[Case]:
    """Everything that is measured."""
    fleet = shape(SERVERS)
    for name in ("agents", "tenants", "chat"):
        loads = [WORKLOADS[name](seed=seed) for seed in seeds]
        reach = (0.97, 1.2, 1.4)
        yield Case(name, loads, fleet, [ORACLE, CALLS, *_ours(reach, reach)])
    for speed in (1.0,) if quick else (0.5, 1.0, 1.5):
        load = trace.at_speed(speed)
        reach = (0.9, 1.25, 1.2) if speed <= 1 else (0.88, 1.4, 1.3)
        for blocks in (3000,) if quick else (1000, 3000, 10_000):
            loads = [replace(load, cache_blocks=blocks)]
            title = f"{trace.name} × {speed:g}, {blocks:,} blocks"
            yield Case(title, loads, fleet, [ORACLE, CALLS, *_ours(reach, (0.95, 1.15, 1.15))])
    yield from _several(trace, seeds[:2])
    yield from _changing(seeds)
    for servers in (SERVERS, 64):
        mixes = [mixed(seed=seed, rate=1.25 * servers, seconds=120.0) for seed in range(1, 3 if quick else 11)]
        title = f"no sharing, {servers} servers"
        ours = Side("cache_aware", "cache_aware", (0.0, 1.03, 1.03))
        yield Case(title, mixes, shape(servers), [CALLS, ours])
    sides = [ORACLE]
    for name in ("least_busy", "power_of_two", "peak_ewma"):
        sides += [Side(name, name), Side(f"{name}, tokens", name, options={"load": "tokens"})]
    yield Case(f"{trace.name}, load: tokens", [trace], fleet, sides)


def _ours(silent: Sequence[float], reported: Sequence[float]) -> list[Side]:
    return [
        Side("cache_aware", "cache_aware", silent),
        Side("cache_aware, told", "cache_aware", reported, reports=True),
    ]


def _several(trace: Workload, seeds: Sequence[int]) -> Iterator[Case]:
    """Processes with a part of the arrivals each."""
    reach = (0.9, 1.5, 1.5)
    sides = [
        ORACLE,
        Side("2 × cache_aware", "cache_aware", reach, proxies=2),
        Side("2 ×, told", "cache_aware", reach, reports=True, proxies=2),
        Side("2 ×, without news", "cache_aware", proxies=-2),
    ]
    for name in ("agents", "tenants", "chat"):
        yield Case(f"two proxies: {name}", [WORKLOADS[name](seed=seed) for seed in seeds], shape(SERVERS), sides)
    yield Case(f"two proxies: {trace.name}", [trace], shape(SERVERS), sides)


def _changing(seeds: Sequence[int]) -> Iterator[Case]:
    """Fleets that are uneven or change."""
    fleet = shape(SERVERS)
    loads = [WORKLOADS["agents"](seed=seed, rate=8.0) for seed in seeds]
    sides = [ORACLE, CALLS, Side("cache_aware", "cache_aware", (0.9, 1.5, 1.5))]
    slow = [replace(one, rate=4000.0) if place == 0 else one for place, one in enumerate(fleet)]
    yield Case("agents, one half as fast", loads, slow, sides, since=60.0)
    restarts, joins = [Change(100, restart=0)], [Change(100, add=ServerShape("new"))]
    yield Case("agents, one restarted", loads, fleet, sides, restarts, since=160)
    yield Case("agents, one joined", loads, fleet[1:], sides, joins, since=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", default=os.environ.get("TRACE"), help="a published trace; else one is generated")
    parser.add_argument("--quick", action="store_true", help="one seed, one speed, one size")
    parser.add_argument("--only", default="", help="workloads with this in their title")
    parser.add_argument("--seed", type=int, default=1, help="the first of three")
    arguments = parser.parse_args()
    seeds = [arguments.seed + more for more in range(1 if arguments.quick else len(SEEDS))]
    trace = replace(read_trace(arguments.trace), name="trace") if arguments.trace else traffic(seed=arguments.seed)
    report = Report(
        "cache_aware",
        f"Time to first token in virtual time, {SERVERS} servers (prefill 8,000 tokens/s and 20 ms, serial)",
        COLUMNS,
        [
            "× the first row's, means over the seeds; reach: hits at least, p90 and p99 at the most. The oracle takes",
            "the earliest first token by the true caches and queues, without foresight. told: servers report",
            "cached_tokens. Two proxies have half of the arrivals each and hear of each other in batches of 100 ms,",
            "100 ms late. Uneven fleets count from 60 s after what happened.",
        ],
    )
    for case in cases(trace, seeds, quick=arguments.quick):
        if arguments.only not in case.title:
            continue
        first = case.outcomes(case.sides[0])
        for place, side in enumerate(case.sides):
            outcomes = case.outcomes(side) if place else first
            against = [round(value, 2) for value in ratios(outcomes, first, case.since)]
            rounded = [round(value, 3) for value in figures(outcomes, case.since)]
            label = f"  {side.title}" if place else f"{case.title}: {side.title}"
            report.add(label, *rounded, against[0], *against[2:], verdict(side, against))
    report.finish()


if __name__ == "__main__":
    main()
