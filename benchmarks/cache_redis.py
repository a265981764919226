"""Two processes that route by cache and tell each other over a real Redis, beside an oracle, as time really passes.

The workloads and servers are those of `benchmarks.cache_aware`; servers are modelled, processes, messages and Redis are
real. Each process gets half of the arrivals. The oracle serves the same arrivals in virtual time. Run with
`python -m benchmarks.cache_redis [--seconds 90] [workload …]`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.report import Report
from fast_router import cluster
from fast_router.cache_world import WORKLOADS, Outcome, ServerShape, Workload, run, shape
from fast_router.cache_world.contenders import Router
from fast_router.cache_world.servers import Server
from fast_router.testing.servers import RedisServer

SERVERS = 8
PROCESSES = 2
REACH = (0.9, 1.5, 1.5)
SIDES = {"2 × cache_aware, over Redis": "redis", "2 × cache_aware, without news": ""}


def serve(pipe: Connection, shapes: Sequence[ServerShape], workload: Workload, redis: str, seed: int) -> None:
    """One process: pick servers for whoever asks, until the pipe is closed."""
    router = Router("cache_aware", shapes, time.monotonic, seed)
    state = cluster.attach(router.router, url=redis) if redis else None
    while state is not None and not state.status()["instances"]:
        time.sleep(0.02)
    leases: dict[int, Any] = {}
    pipe.send("ready")
    try:
        while True:
            what, number = pipe.recv()
            if what == "begin":
                place, leases[number] = router.begin(workload.requests[number], workload, 0.0)
                pipe.send(place)
            elif what == "first token":
                router.first_token(leases[number])
            else:
                router.end(leases.pop(number), workload.requests[number], None)
    except EOFError:
        if state is not None:
            state.close()


@dataclass
class Side:
    """Two processes before servers of their own."""

    name: str
    servers: list[Server]
    pipes: list[Connection] = field(default_factory=list)
    workers: list[Any] = field(default_factory=list)
    outcome: Outcome = field(default_factory=lambda: Outcome(""))

    def start(self, workload: Workload, shapes: Sequence[ServerShape], redis: str) -> None:
        """Start the processes; returns when each has heard of the others."""
        context = multiprocessing.get_context("spawn")
        for seed in range(PROCESSES):
            ours, theirs = context.Pipe()
            worker = context.Process(target=serve, args=(theirs, shapes, workload, redis, seed), daemon=True)
            worker.start()
            theirs.close()
            self.pipes.append(ours)
            self.workers.append(worker)
        for pipe in self.pipes:
            pipe.recv()

    def stop(self) -> None:
        """End the processes."""
        for pipe in self.pipes:
            pipe.close()
        for worker in self.workers:
            worker.join(10)


def play(workload: Workload, sides: Sequence[Side], seed: int = 1) -> None:
    """Let all sides serve the same arrivals at the same time."""
    chance = random.Random(f"halves {seed}")
    began = time.monotonic()
    # (when, serial, what, side, process, number).
    events: list[tuple[float, int, str, Side, Connection, int]] = []
    serial = 0
    for number, request in enumerate(workload.requests):
        whose = chance.randrange(PROCESSES)
        for side in sides:
            heappush(events, (request.at, (serial := serial + 1), "begin", side, side.pipes[whose], number))
    while events:
        due, _, what, side, pipe, number = heappop(events)
        if (left := due - (time.monotonic() - began)) > 0:
            time.sleep(left)
        pipe.send((what, number))
        if what != "begin":
            continue
        server = side.servers[pipe.recv()]
        request = workload.requests[number]
        now = time.monotonic() - began
        first, cached = server.take(request, now)
        outcome = side.outcome
        outcome.waits.append((now, first - now))
        outcome.prompt_tokens += request.tokens
        outcome.cached_tokens += cached
        heappush(events, (first, (serial := serial + 1), "first token", side, pipe, number))
        over = first + request.output * server.shape.decode
        heappush(events, (over, (serial := serial + 1), "end", side, pipe, number))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", help="agents, tenants, chat")
    parser.add_argument("--seconds", type=float, default=90.0, help="of each workload")
    arguments = parser.parse_args()
    report = Report(
        "cache_redis",
        f"Two processes that tell each other over Redis, {SERVERS} servers, {arguments.seconds:g} s of each workload",
        ["workload: router", "hits", "p50 s", "p90 s", "p99 s", "× hits", "× p90", "× p99", "reach"],
        [
            "Hits: share of the prompt tokens; seconds to the first token; × are multiples of the oracle's.",
            "Real time, two processes, a real Redis. Those without news have servers of their own, and tell nothing.",
        ],
    )
    for name in arguments.workloads or ("agents", "tenants", "chat"):
        workload = WORKLOADS[name](seconds=arguments.seconds)
        shapes = shape(SERVERS)
        sides = [
            Side(title, [Server(s, workload.block_tokens, workload.cache_blocks) for s in shapes]) for title in SIDES
        ]
        with RedisServer() as redis:
            try:
                for side in sides:
                    side.start(workload, shapes, redis.url if SIDES[side.name] else "")
                play(workload, sides)
            finally:
                for side in sides:
                    side.stop()
        oracle = _figures(run(workload, shapes, "oracle"))
        report.add(f"{name}: oracle", *oracle, None, None, None, "")
        for side in sides:
            ours = _figures(side.outcome)
            hits, p90, p99 = (ours[n] / oracle[n] for n in (0, 2, 3))
            reached = hits >= REACH[0] and p90 <= REACH[1] and p99 <= REACH[2]
            verdict = f"{'yes' if reached else 'NO'} {' '.join(f'{r:g}' for r in REACH)}" if SIDES[side.name] else ""
            report.add(f"{name}: {side.name}", *ours, hits, p90, p99, verdict)
    report.finish()


def _figures(outcome: Outcome) -> list[float]:
    return [outcome.hit_share, *(outcome.percentile(rank) for rank in (0.5, 0.9, 0.99))]


if __name__ == "__main__":
    main()
