"""Celery routing beside Celery's own way of doing the same, on private servers, in one run.

Both sides run the same task (one decision among three providers, one Lua call) on the same kind of worker:

- ours: `CeleryRouting.decide`, a hand-built envelope and one reply list per process;
- Celery's: `apply_async` and `AsyncResult.get` over the Redis result backend.

Run it with `python -m benchmarks.celery_routing`. Figures are ratios on purpose: they say nearly the same on a
slow machine and on a busy one, because the sides take turns.
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

from amqp import Message
from celery import Celery
from kombu import Connection, Exchange, Queue
from typing_extensions import Self

from benchmarks.report import Report
from fast_router.celery_routing.envelope import Keys, amqp_headers, body, queue_name, request_of
from fast_router.celery_routing.routing import CeleryRouting
from fast_router.celery_routing.settings import Candidate, CelerySettings
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
    from fast_router.celery_routing.worker.app import Decider  # noqa: PLC0415

    app = peer_app(settings)
    decide = Decider(settings)

    @app.task(name=PEER_TASK)
    def peer(request: dict[str, Any]) -> str:
        return decide([request])

    worker = app.Worker(
        pool="prefork" if pool == "inline" else pool,
        concurrency=concurrency,
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()


def run_ours(settings: CelerySettings, concurrency: int, pool: str, models: list[str]) -> None:
    from fast_router.celery_routing.worker.app import run_worker  # noqa: PLC0415
    from fast_router.celery_routing.worker.models import ModelWatch  # noqa: PLC0415

    sys.exit(run_worker(settings, ModelWatch(models), concurrency=concurrency, pool=pool))


class Worker:
    """A worker process."""

    def __init__(self, kind: str, settings: CelerySettings, models: str = "", concurrency: int = 1) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.celery_routing",
                "--child",
                kind,
                settings.broker_url,
                settings.redis_url,
                models,
                str(concurrency),
                OPTIONS.pool,
            ],
            cwd=Path(__file__).resolve().parent.parent,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )

    def cpu(self) -> float:
        """CPU seconds of the worker and its pool processes so far."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ticks = 0
        for one in (str(pid), *children):
            # After the name in brackets: state, …; user and system time are the 12th and 13th of them.
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


OPTIONS = argparse.Namespace(pool="inline")


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
        """One decision; its seconds."""
        begun = time.perf_counter()
        grant = await self.routing.decide(self.model, CANDIDATES, deadline=30)
        seconds = time.perf_counter() - begun
        if grant is None:
            raise RuntimeError(f"no answer: {self.routing.stats()}")
        grant.release()
        return seconds

    async def burst(self, in_flight: int, each: int) -> float:
        """Decisions/s with so many at a time."""

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
        """One decision; its seconds."""
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
        """Decisions/s with so many at a time."""
        with ThreadPoolExecutor(in_flight) as threads:
            begun = time.perf_counter()
            list(threads.map(lambda _: [self.once() for _ in range(each)], range(in_flight)))
            return in_flight * each / (time.perf_counter() - begun)


async def round_trips(settings: CelerySettings, rounds: int, chunk: int, in_flight: int) -> list[tuple[Any, ...]]:
    """Both sides in turns: one request at a time, then many."""
    ours, theirs = Ours(settings, "bench"), Theirs(settings)
    workers = [Worker("ours", settings, "bench"), Worker("peer", settings)]
    try:
        for _ in range(30):
            await ours.once()
            theirs.once()
        mine: list[float] = []
        other: list[float] = []
        rates: list[tuple[float, float]] = []
        spent = [0.0, 0.0]
        begun = [worker.cpu() for worker in workers]
        for number in range(rounds):
            # Each side is first every other time; the synchronous peer has the process to itself meanwhile.
            for side in (number % 2, 1 - number % 2):
                before = time.process_time()
                if side:
                    other += [theirs.once() for _ in range(chunk)]
                else:
                    mine += [await ours.once() for _ in range(chunk)]
                spent[side] += time.process_time() - before
            rates.append((await ours.burst(in_flight, 12), theirs.burst(in_flight, 12)))
        decisions = rounds * (chunk + 12 * in_flight)
        caller = [seconds / (rounds * chunk) * 1e6 for seconds in spent]
        worked = [(worker.cpu() - cpu) / decisions * 1e6 for worker, cpu in zip(workers, begun, strict=True)]
        one, two = quantiles(mine), quantiles(other)
        rate_ours, rate_theirs = (statistics.median(side) for side in zip(*rates, strict=True))
        return [
            *(
                (f"round trip {name}, us", two[f"{name}_us"], one[f"{name}_us"], one[f"{name}_us"] / two[f"{name}_us"])
                for name in ("p50", "p95", "p99")
            ),
            (
                f"decisions/s, {in_flight} in flight",
                round(rate_theirs),
                round(rate_ours),
                statistics.median(a / b for a, b in rates),
            ),
            ("CPU of the caller, us a decision", caller[1], caller[0], caller[0] / caller[1]),
            ("CPU of the worker, us a decision", worked[1], worked[0], worked[0] / worked[1]),
        ]
    finally:
        for worker in workers:
            worker.stop()
        await ours.routing.close()


async def isolation(settings: CelerySettings, flood: int, probes: int) -> list[tuple[Any, ...]]:
    """A flood on one model, and what another model's requests notice of it, with a worker of its own."""
    calm = Ours(settings, "calm")
    workers = [Worker("ours", settings, "calm"), Worker("ours", settings, "crowd")]
    connection = Connection(settings.broker_url).connect()
    try:
        await calm.once()
        channel = connection.channel()
        queue = queue_name(settings, "crowd")
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=settings.queue_arguments())

        async def probe() -> list[float]:
            seen = []
            for _ in range(probes):
                seen.append(await calm.once())
                await asyncio.sleep(0.005)
            return seen

        def waiting() -> int:
            return int(channel.queue_declare(queue, passive=True).message_count)

        quiet = await probe()
        nobody = Keys(settings).reply("nobody")
        for number in range(flood):
            message = Message(
                body([request_of(f"f{number}", nobody, "crowd", "score", CANDIDATES)]),
                application_headers=amqp_headers(f"f{number}"),
                content_type="application/json",
                content_encoding="utf-8",
                delivery_mode=1,
            )
            channel.basic_publish(message, exchange="", routing_key=queue)
        at_first = waiting()
        loud = await probe()
        left = waiting()
        before, during = quantiles(quiet), quantiles(loud)
        return [
            (
                f"p95 of another model, us, during a flood of {flood} ({at_first} to {left} waiting)",
                before["p95_us"],
                during["p95_us"],
                during["p95_us"] / before["p95_us"],
            )
        ]
    finally:
        connection.close()
        for worker in workers:
            worker.stop()
        await calm.routing.close()


class Load:
    """Callers that ask all the time: how many were granted, picked locally or failed, and the slowest."""

    def __init__(self, settings: CelerySettings) -> None:
        self.routing = CeleryRouting(settings)
        self.counts = {"granted": 0, "local": 0, "failed": 0}
        self.slowest = 0.0
        self._over = False

    async def __aenter__(self) -> Self:
        while await self.routing.decide("bench", CANDIDATES, deadline=5) is None:
            await asyncio.sleep(0.1)
        self._callers = [asyncio.create_task(self._call()) for _ in range(8)]
        await asyncio.sleep(1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._callers)
        await self.routing.close()

    async def _call(self) -> None:
        while not self._over:
            begun = time.perf_counter()
            try:
                grant = await self.routing.decide("bench", CANDIDATES)
            except Exception:
                self.counts["failed"] += 1
                continue
            self.slowest = max(self.slowest, time.perf_counter() - begun)
            self.counts["granted" if grant else "local"] += 1
            if grant is not None:
                grant.release()
            await asyncio.sleep(0.005)

    async def more(self, grants: int) -> None:
        """Wait until so many more were granted, a minute at most."""
        wanted, end = self.counts["granted"] + grants, time.monotonic() + 60
        while self.counts["granted"] < wanted and time.monotonic() < end:
            await asyncio.sleep(0.05)

    def rows(self, what: str) -> list[tuple[Any, ...]]:
        """The rows of the report."""
        return [
            (f"requests while {what}", None, sum(self.counts.values()), None),
            ("… failed", None, self.counts["failed"], None),
            ("… picked locally", None, self.counts["local"], None),
            ("… the slowest decision, ms", None, self.slowest * 1000, None),
        ]


async def broker_restart(settings: CelerySettings, rabbit: RabbitServer) -> list[tuple[Any, ...]]:
    """RabbitMQ killed and started again under load."""
    worker = Worker("ours", settings, "bench")
    try:
        async with Load(settings) as load:
            await asyncio.to_thread(rabbit.kill)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(rabbit.start)
            await load.more(50)
        return load.rows("RabbitMQ restarted")
    finally:
        worker.stop()


async def worker_killed(settings: CelerySettings) -> list[tuple[Any, ...]]:
    """One of two workers killed with SIGKILL under load."""
    workers = [Worker("ours", settings, "bench"), Worker("ours", settings, "bench")]
    try:
        async with Load(settings) as load:
            await asyncio.sleep(1)
            workers[0].process.kill()
            await load.more(500)
        return load.rows("one of two workers was killed")
    finally:
        for worker in workers:
            worker.stop()


async def measure(options: argparse.Namespace) -> None:
    """All of it, on one pair of servers."""
    report = Report(
        "celery_routing",
        f"Celery routing ({options.pool}) beside Celery's own round trip, one worker process each",
        ["what", "celery", "fast_router", "ratio"],
        [
            "Celery: apply_async and AsyncResult.get over Redis, the same decision in the task.",
            "The row of another model compares alone (first column) with during the flood.",
        ],
    )
    with RedisServer() as redis, RabbitServer() as rabbit:
        settings = CelerySettings(broker_url=rabbit.url, redis_url=redis.url, max_queue_length=50_000)
        rows = await round_trips(settings, options.rounds, options.chunk, options.in_flight)
        if options.flood:
            rows += await isolation(settings, options.flood, options.probes)
            rows += await worker_killed(settings)
            rows += await broker_restart(settings, rabbit)
    for row in rows:
        report.add(*row)
    report.finish(pool=options.pool)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--chunk", type=int, default=100, help="requests of a side before the other has its turn")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--flood", type=int, default=10_000, help="0 leaves isolation and restart out")
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--pool", choices=("inline", "prefork", "threads"), default="inline", help="of our workers")
    options = parser.parse_args()
    OPTIONS.pool = options.pool
    asyncio.run(measure(options))


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
