"""Shared state over Redis: what it costs, how right it is, and what happens without Redis. LiteLLM beside us.

* commands: Redis commands per request at a steady rate, counted by the server, what scripts call included.
* view: what each process believes to be in flight in the whole fleet, against the truth, 50 times a second.
* shares: real LiteLLM proxies with least-busy over four equal upstreams; each should get a quarter.
* killed: Redis dies under load and comes back; failed requests, the slowest one, log lines, time until whole again.

`python -m benchmarks.redis` runs all; `--only commands killed` some.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from benchmarks.report import Report
from fast_router.testing.servers import RedisServer, free_port
from fast_router.testing.upstream import Fleet, Spec, UpstreamFace

ROOT = Path(__file__).resolve().parent.parent
SIDES = {"LiteLLM": False, "fast_router": True}
UPSTREAMS = 4
MASTER_KEY = "sk-" + secrets.token_hex(32)


def port_of(server: RedisServer) -> int:
    """The port in a server's address."""
    return int(server.url.rsplit(":", 1)[1].split("/")[0])


@contextlib.contextmanager
def stage(latency: float) -> Iterator[tuple[RedisServer, Fleet]]:
    """A Redis and four upstreams of their own process that answer after `latency` seconds."""
    with (
        RedisServer() as server,
        Fleet([Spec(name=f"u{n}") for n in range(UPSTREAMS)], subprocess=True) as upstreams,
    ):
        for upstream in upstreams.values():
            upstream.order(latency=latency)
        yield server, upstreams


class Side:
    """One process under load (benchmarks._redis_side)."""

    def __init__(self, server: RedisServer, upstreams: Fleet, *, plugin: bool, **order: Any) -> None:
        environment = {**os.environ, "FAST_ROUTER_ENABLED": "1" if plugin else "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._redis_side"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.views: list[list[float]] = []
        wanted = {
            "bases": [u.api_base for u in upstreams.values()],
            "port": port_of(server),
            "limits": False,
            "retries": 0,
            "direct": False,
        }
        self.tell(json.dumps({**wanted, "watch": False, "strategy": "least-busy", **order}))

    def tell(self, line: str) -> None:
        """Say one line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self, wanted: str) -> dict[str, Any]:
        """Wait for the answer that has `wanted`; keeps the views that come before it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                message: dict[str, Any] = json.loads(line)
                if wanted in message:
                    return message
                if "view" in message:
                    self.views.append(message["view"])
        raise SystemExit(f"a side ended with exit code {self.process.wait()}")

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


def run(sides: list[Side]) -> list[dict[str, Any]]:
    """Let all sides serve at once and return what became of it."""
    for side in sides:
        side.tell("go")
    return [side.hear("done") for side in sides]


# -- commands ----------------------------------------------------------------------------------------------


def commands(report: Report, rate: float, seconds: float, direct_rate: float) -> None:
    """Count what Redis was asked."""
    for strategy, limits in (
        ("least-busy", False),
        ("usage-based-routing-v2", False),
        ("latency-based-routing", False),
        ("cost-based-routing", False),
        ("simple-shuffle", True),
    ):
        for name, plugin in SIDES.items():
            order = {"strategy": strategy, "limits": limits, "rate": rate, "seconds": seconds}
            label = strategy + (" with rpm and tpm" if limits else "")
            _count(report, label, name, plugin=plugin, order=order)
    for processes in (1, 4):
        order = {"direct": True, "rate": direct_rate / processes, "seconds": seconds}
        label = f"least-busy, {processes} process{'es' if processes > 1 else ''}, no LiteLLM"
        _count(report, label, "AdvancedRouter", plugin=True, order=order, processes=processes)


def _count(report: Report, label: str, name: str, *, plugin: bool, order: dict[str, Any], processes: int = 1) -> None:
    with stage(0.02) as (server, upstreams):
        sides = [Side(server, upstreams, plugin=plugin, **order) for _ in range(processes)]
        try:
            for side in sides:
                side.hear("ready")
            client = Redis(port=port_of(server))
            client.config_resetstat()
            done = run(sides)
            calls = {key: value["calls"] for key, value in client.info("commandstats").items()}
        finally:
            for side in sides:
                side.close()
    asked = sum(calls.values()) - calls.get("cmdstat_config|resetstat", 0)
    results = [result for one in done for result in one["results"]]
    seconds = max(one["seconds"] for one in done)
    slow = sorted(result[1] * 1000 for result in results)
    report.add(
        label,
        name,
        len(results),
        len(results) / seconds,
        asked / len(results),
        asked / seconds,
        statistics.median(slow),
        slow[int(len(slow) * 0.99)],
        sum(1 for result in results if result[2]),
    )


# -- view --------------------------------------------------------------------------------------------------


def view(report: Report, rate: float, seconds: float) -> None:
    """Compare what each of several processes believes with the truth."""
    for count in (2, 4):
        with stage(0.2) as (server, upstreams):
            each = {"rate": rate / count, "seconds": seconds, "watch": True}
            sides = [Side(server, upstreams, plugin=True, **each) for _ in range(count)]
            try:
                for side in sides:
                    side.hear("ready")
                run(sides)
            finally:
                for side in sides:
                    side.close()
        report.add(count, rate, *accuracy([side.views for side in sides]))


_WINDOWS = (0.12, 0.3)  # one interval and a sample; an interval of the writer's, one of the reader's and their trips


def accuracy(views: list[list[list[float]]]) -> tuple[float, ...]:
    """Mean in flight, mean error, its 95th percentile, shares of views within what was true in each window."""
    # Each process's own count is exact; the fleet's truth at a time is the sum of the last known of each.
    times = [[sample[0] for sample in side] for side in views]

    def truth(when: float) -> float:
        held = 0.0
        for at, side in zip(times, views, strict=True):
            place = bisect.bisect_right(at, when) - 1
            held += side[place][1] if place >= 0 else 0.0
        return held

    begin, end = max(at[0] for at in times) + 1.0, min(at[-1] for at in times)
    errors, levels = [], []
    within = [0] * len(_WINDOWS)
    for side in views:
        for when, own, outside in side:
            if begin <= when <= end:
                recent = [truth(when - step * 0.02) for step in range(round(max(_WINDOWS) / 0.02) + 1)]
                levels.append(recent[0])
                errors.append(abs(own + outside - recent[0]))
                for place, window in enumerate(_WINDOWS):
                    then = recent[: round(window / 0.02) + 1]
                    within[place] += min(then) - 1 <= own + outside <= max(then) + 1
    errors.sort()
    shares = [count / len(errors) for count in within]
    return statistics.mean(levels), statistics.mean(errors), errors[int(len(errors) * 0.95)], *shares


# -- shares ------------------------------------------------------------------------------------------------


class Proxy:
    """One real LiteLLM proxy."""

    def __init__(self, config: Path, *, plugin: bool) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        command = [str(Path(sys.executable).parent / "litellm")]
        launch = [sys.executable, "-m", "fast_router.cli", "run", "--", *command] if plugin else command
        self.process = subprocess.Popen(
            [*launch, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"],
            env={
                **os.environ,
                "FAST_ROUTER_ENABLED": "1" if plugin else "0",
                "LITELLM_MASTER_KEY": MASTER_KEY,
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def ready(self, timeout: float = 240.0) -> None:
        """Wait until it serves."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health/liveliness", timeout=5.0).status_code == 200:
                    return
            time.sleep(0.25)
        raise SystemExit(f"a proxy did not start (exit code {self.process.poll()})")

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def write_config(folder: Path, server: RedisServer, upstreams: Fleet) -> Path:
    """A proxy configuration with four equal deployments, least-busy and Redis."""
    content = {
        "model_list": [
            {
                "model_name": "m",
                "litellm_params": {"model": "openai/test-model", "api_base": u.api_base, "api_key": "none"},
                "model_info": {"id": name},
            }
            for name, u in upstreams.items()
        ],
        "router_settings": {
            "routing_strategy": "least-busy",
            "redis_host": "127.0.0.1",
            "redis_port": port_of(server),
            "num_retries": 0,
        },
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(content))
    return path


def shares(report: Report, rate: float, seconds: float, counts: list[int]) -> None:
    """Drive several proxies at once and see who got what."""
    for count in counts:
        for name, plugin in SIDES.items():
            with stage(0.3) as (server, upstreams), tempfile.TemporaryDirectory() as folder:
                config = write_config(Path(folder), server, upstreams)
                proxies = [Proxy(config, plugin=plugin) for _ in range(count)]
                try:
                    for proxy in proxies:
                        proxy.ready()
                    drive(proxies, rate, 3.0)
                    upstreams.reset()
                    answers = drive(proxies, rate, seconds)
                    served = [u.records.requests for u in upstreams.values()]
                    most = max(u.records.max_in_flight for u in upstreams.values())
                finally:
                    for proxy in proxies:
                        proxy.close()
            percent = [100 * n / max(1, sum(served)) for n in served]
            report.add(
                count,
                name,
                len(answers),
                sum(1 for status in answers if status != 200),
                " / ".join(f"{p:.1f}" for p in percent),
                max(abs(p - 100 / UPSTREAMS) for p in percent),
                most,
            )


def drive(proxies: list[Proxy], rate: float, seconds: float) -> list[int]:
    """Send requests to the proxies in turn, on time; returns the statuses (0: no answer)."""
    import asyncio  # noqa: PLC0415 - only here

    async def one(client: httpx.AsyncClient, url: str) -> int:
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        try:
            return (await client.post(f"{url}/chat/completions", json=body)).status_code
        except httpx.HTTPError:
            return 0

    async def send() -> list[int]:
        limits = httpx.Limits(max_connections=1000)
        headers = {"Authorization": f"Bearer {MASTER_KEY}"}
        async with httpx.AsyncClient(timeout=60.0, limits=limits, headers=headers) as client:
            tasks, begin = [], time.monotonic()
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
                tasks.append(asyncio.create_task(one(client, proxies[number % len(proxies)].url)))
            return await asyncio.gather(*tasks)

    return asyncio.run(send())


# -- killed ------------------------------------------------------------------------------------------------


def killed(report: Report, rate: float) -> dict[str, list[str]]:
    """Kill Redis under load and bring it back; returns the beginning of each side's log.

    Then once more with an upstream that answers 429 from half a second after the kill.
    """
    logs = {}
    for name, throttled, plugin in (
        (name + (", one upstream throttles" if throttled else ""), throttled, plugin)
        for throttled in (False, True)
        for name, plugin in SIDES.items()
    ):
        with stage(0.05) as (server, upstreams):
            each = {"rate": rate / 2, "seconds": 12.0, "watch": plugin, "retries": 2 if throttled else 0}
            sides = [Side(server, upstreams, plugin=plugin, **each) for _ in range(2)]
            moments: dict[str, float] = {}

            try:
                for side in sides:
                    side.hear("ready")
                first = next(iter(upstreams.values())) if throttled else None
                actor = threading.Thread(target=_outage, args=(server, moments, first))
                actor.start()
                done = run(sides)
                actor.join()
            finally:
                for side in sides:
                    side.close()
        results = [result for one in done for result in one["results"]]
        before = sorted(r[1] * 1000 for r in results if r[0] + r[1] < moments["down"])
        during = sorted(r[1] * 1000 for r in results if moments["down"] - 0.1 <= r[0] <= moments["up"] + 1.0)
        whole = [_whole_after(side.views, moments) for side in sides] if plugin else [None]
        report.add(
            name,
            len(results),
            sum(1 for result in results if result[2]),
            statistics.median(before),
            before[-1],
            statistics.median(during),
            during[-1],
            max(one["lines"] for one in done),
            None if None in whole else max(w for w in whole if w is not None),
        )
        logs[name] = done[0]["sample"]
    return logs


def _outage(server: RedisServer, moments: dict[str, float], throttled: UpstreamFace | None) -> None:
    time.sleep(3.0)
    moments["down"] = time.monotonic()
    server.kill()
    time.sleep(0.5)
    if throttled is not None:
        throttled.order(throttle_rate=1.0)
    time.sleep(3.5)
    server.start()
    moments["up"] = time.monotonic()


def _whole_after(views: list[list[float]], moments: dict[str, float]) -> float | None:
    """Seconds from Redis's return until the others' load is seen again."""
    silent = any(outside == 0 for when, _, outside in views if moments["down"] + 3.2 < when < moments["up"])
    seen = next((when for when, _, outside in views if when > moments["up"] and outside > 0), None)
    return seen - moments["up"] if silent and seen is not None else None


def main() -> None:
    """Run what was asked for and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["commands", "view", "shares", "killed"])
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second (commands, view)")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--proxy-rate", type=float, default=40.0, help="requests a second over all proxies")
    parser.add_argument("--proxies", type=int, nargs="+", default=[2, 4])
    options = parser.parse_args()
    if "commands" in options.only:
        report = Report(
            "redis_commands",
            "Redis commands per request",
            [
                "strategy",
                "side",
                "requests",
                "requests/s",
                "commands/request",
                "commands/s",
                "p50-ms",
                "p99-ms",
                "failed",
            ],
            ["Counted by the server, what scripts call included. 20 ms upstreams; latency is the whole call."],
        )
        commands(report, options.rate, options.seconds, 200.0)
        report.finish()
    if "view" in options.only:
        report = Report(
            "redis_view",
            "What each process believes to be in flight in the fleet",
            [
                "processes",
                "requests/s",
                "in flight",
                "mean error",
                "p95 error",
                "within 120 ms' truth",
                "within 300 ms'",
            ],
        )
        view(report, options.rate / 2, options.seconds)
        report.finish()
    if "shares" in options.only:
        report = Report(
            "redis_shares",
            f"Least-busy over {UPSTREAMS} equal upstreams, real proxies, {options.proxy_rate:g} requests/s in all",
            ["proxies", "side", "requests", "failed", "shares, %", "off by at most", "most in flight at one"],
        )
        shares(report, options.proxy_rate, options.seconds, options.proxies)
        report.finish()
    if "killed" in options.only:
        report = Report(
            "redis_killed",
            "Redis killed for 4 s under load (two processes, least-busy), ms",
            [
                "side",
                "requests",
                "failed",
                "p50-before",
                "max-before",
                "p50-while",
                "max-while",
                "log-lines",
                "whole-after-s",
            ],
            ["Milliseconds; `while` is from the kill until a second after Redis is back."],
        )
        logs = killed(report, options.rate / 4)
        report.finish(logs=logs)


if __name__ == "__main__":
    main()
