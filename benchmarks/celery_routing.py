"""Celery routing beside Celery's own way of doing the same, on private servers, in one run.

Both sides run the same task (one decision among three providers, one Lua call) on the same kind of worker:

- ours: `CeleryRouting.decide`, a hand-built envelope and one reply list per process;
- Celery's: `apply_async` and `AsyncResult.get` over the Redis result backend.

Run it with `python benchmarks/celery_routing.py [--json out.json]`. Figures are ratios on purpose: they
say the same on a slow machine and on a busy one, because the sides take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from celery import Celery
from kombu import Exchange, Queue

from fast_router.cluster.celery_routing import CeleryRouting
from fast_router.cluster.celery_settings import Candidate, CelerySettings
from fast_router.testing.servers import RabbitServer, RedisServer

CANDIDATES = [Candidate("one"), Candidate("two"), Candidate("three")]
PEER_TASK = "benchmark.peer"


# -- workers: this file again, as a child --------------------------------------------------------------------


def peer_app(settings: CelerySettings) -> Celery:
    """Celery as its documentation has it: results in Redis, waited for with AsyncResult.get."""
    app = Celery("peer", broker=settings.broker_url, backend=settings.redis_url)
    app.conf.update(
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        task_default_queue="peer",
        task_queues=[Queue("peer", Exchange("peer"), routing_key="peer")],
        result_expires=60,
        task_default_delivery_mode="transient",
        worker_send_task_events=False,
        worker_enable_remote_control=False,
    )
    return app


def run_peer(settings: CelerySettings, concurrency: int, pool: str) -> None:
    from fast_router.cluster.celery_worker import Decider  # noqa: PLC0415

    app = peer_app(settings)
    decide = Decider(settings)

    @app.task(name=PEER_TASK)
    def peer(request: dict[str, Any]) -> str:
        return decide(request)

    worker = app.Worker(
        pool=pool,
        concurrency=concurrency,
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()


def run_ours(settings: CelerySettings, concurrency: int, pool: str, models: list[str]) -> None:
    from fast_router.cluster.celery_models import ModelWatch  # noqa: PLC0415
    from fast_router.cluster.celery_worker import run_worker  # noqa: PLC0415

    sys.exit(run_worker(settings, ModelWatch(models), concurrency=concurrency, pool=pool))


class Worker:
    """A worker process."""

    def __init__(self, kind: str, settings: CelerySettings, models: str = "", concurrency: int = 1) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                __file__,
                "--child",
                kind,
                settings.broker_url,
                settings.redis_url,
                models,
                str(concurrency),
                OPTIONS.pool,
            ],
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


OPTIONS = argparse.Namespace(pool="prefork")


# -- measuring -------------------------------------------------------------------------------------------------


def quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1e6)

    return {"p50_us": at(0.5), "p95_us": at(0.95), "p99_us": at(0.99), "n": len(ordered)}


class Ours:
    """decide, and the release that follows it."""

    def __init__(self, settings: CelerySettings, model: str) -> None:
        self.routing = CeleryRouting(settings)
        self.model = model

    async def once(self) -> float:
        begun = time.perf_counter()
        grant = await self.routing.decide(self.model, CANDIDATES, deadline=30)
        seconds = time.perf_counter() - begun
        if grant is None:
            raise RuntimeError(f"no answer: {self.routing.stats()}")
        grant.release()
        return seconds

    async def burst(self, in_flight: int, each: int) -> float:
        async def caller() -> None:
            for _ in range(each):
                await self.once()

        begun = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(in_flight)))
        return in_flight * each / (time.perf_counter() - begun)


class Theirs:
    """apply_async and AsyncResult.get on the same decision. The release is not counted against it."""

    def __init__(self, settings: CelerySettings) -> None:
        self.app = peer_app(settings)
        self.number = 0
        self.prefix = f"{settings.key_prefix}:reply:peer"
        self.rows = json.dumps([candidate.wire() for candidate in CANDIDATES])

    def once(self) -> float:
        self.number += 1
        request = {"id": f"p{self.number}", "reply_to": self.prefix, "strategy": "score", "candidates": self.rows}
        begun = time.perf_counter()
        result = self.app.send_task(PEER_TASK, (request,), queue="peer")
        outcome = result.get(timeout=30)
        seconds = time.perf_counter() - begun
        if outcome not in {"granted", "again"}:
            raise RuntimeError(f"unexpected outcome {outcome!r}")
        return seconds

    def burst(self, in_flight: int, each: int) -> float:
        with ThreadPoolExecutor(in_flight) as threads:
            begun = time.perf_counter()
            list(threads.map(lambda _: [self.once() for _ in range(each)], range(in_flight)))
            return in_flight * each / (time.perf_counter() - begun)


async def round_trips(settings: CelerySettings, rounds: int, chunk: int, in_flight: int) -> dict[str, Any]:
    ours, theirs = Ours(settings, "bench"), Theirs(settings)
    workers = [Worker("ours", settings, "bench"), Worker("peer", settings)]
    try:
        await ours.once()
        await asyncio.to_thread(theirs.once)
        for _ in range(30):
            await ours.once()
            theirs.once()
        mine: list[float] = []
        other: list[float] = []
        rates: list[tuple[float, float]] = []
        for number in range(rounds):
            # In turns, each first every other time; the synchronous peer has the process to itself meanwhile.
            def peer_chunk() -> None:
                other.extend(theirs.once() for _ in range(chunk))

            if number % 2:
                peer_chunk()
            for _ in range(chunk):
                mine.append(await ours.once())
            if not number % 2:
                peer_chunk()
            rates.append((await ours.burst(in_flight, 12), theirs.burst(in_flight, 12)))
        one, two = quantiles(mine), quantiles(other)
        rate_ours, rate_theirs = (statistics.median(side) for side in zip(*rates, strict=True))
        return {
            "one_at_a_time": {"ours": one, "celery": two, "p50_ratio": round(one["p50_us"] / two["p50_us"], 3)},
            f"{in_flight}_in_flight": {
                "ours_per_s": round(rate_ours),
                "celery_per_s": round(rate_theirs),
                "ratio": round(statistics.median(a / b for a, b in rates), 2),
            },
        }
    finally:
        for worker in workers:
            worker.stop()
        await ours.routing.close()


async def isolation(settings: CelerySettings, flood: int, probes: int) -> dict[str, Any]:
    """A flood on one model, and what another model's requests notice of it, with a worker of its own."""
    routing = Ours(settings, "calm")
    crowd = CeleryRouting(settings)
    workers = [Worker("ours", settings, "calm"), Worker("ours", settings, "crowd")]
    try:
        await routing.once()
        if await crowd.decide("crowd", CANDIDATES, deadline=30) is None:
            raise RuntimeError("the flooded model has no worker")

        async def probe() -> list[float]:
            seen = []
            for _ in range(probes):
                seen.append(await routing.once())
                await asyncio.sleep(0.005)
            return seen

        async def one() -> None:
            grant = await crowd.decide("crowd", CANDIDATES, deadline=120)
            if grant is not None:
                grant.release()

        quiet = await probe()
        # The caller's own CPU is no part of the question, so the flood is published first.
        pending = [asyncio.create_task(one()) for _ in range(flood)]
        while crowd.stats()["granted"] < 50:
            await asyncio.sleep(0.01)
        loud = await probe()
        left = sum(not task.done() for task in pending)
        await asyncio.gather(*pending)
        before, during = quantiles(quiet), quantiles(loud)
        return {
            "flood": flood,
            "still_waiting_after_the_probes": left,
            "answered": crowd.stats()["granted"],
            "alone": before,
            "during": during,
            "p95_ratio": round(during["p95_us"] / before["p95_us"], 2),
        }
    finally:
        for worker in workers:
            worker.stop()
        await routing.routing.close()
        await crowd.close()


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    with RedisServer() as redis, RabbitServer() as rabbit:
        settings = CelerySettings(broker_url=rabbit.url, redis_url=redis.url, max_queue_length=50_000)
        report = {"pool": options.pool, "load_average": os.getloadavg()[0]}
        report["round_trip"] = await round_trips(settings, options.rounds, options.chunk, options.in_flight)
        if options.flood:
            report["isolation"] = await isolation(settings, options.flood, options.probes)
        return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--chunk", type=int, default=100, help="requests of a side before the other has its turn")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--flood", type=int, default=10_000, help="0 leaves the isolation part out")
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--pool", choices=("prefork", "threads"), default="prefork")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    OPTIONS.pool = options.pool
    report = asyncio.run(measure(options))
    text = json.dumps(report, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        _, _, kind, broker, redis, models, concurrency, pool = sys.argv
        found = CelerySettings(broker_url=broker, redis_url=redis, max_queue_length=50_000)
        if kind == "peer":
            run_peer(found, int(concurrency), pool)
        else:
            run_ours(found, int(concurrency), pool, models.split(","))
    else:
        main()
