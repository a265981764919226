"""A soak: the real proxy with four workers and Redis, everything that can go wrong, for as long as you like.

Chats, streams, embeddings, callers that go away and a hostile one that sends what breaks servers; the upstreams fail in
turn before their first token (500, 429, reset, hang, refused); a deployment is added and deleted in the running
workers. At the end no request may have failed but the hostile caller's, every count must be 0, nothing of ours may have
gone wrong, and the log must not have grown with the requests. `make soak` runs it for two hours, `make soak
SECONDS=180` for three minutes. From an hour on, or with `--compare`, LiteLLM alone runs beside it, and the memory of
ours may not grow by 2 % more than its after the first half hour.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import itertools
import json
import random
import re
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.proxies import ProxySide
from benchmarks.report import Report
from fast_router.observe.asking import ask
from fast_router.testing import Behaviour, Rule, Upstream
from fast_router.testing.load import arrivals
from fast_router.testing.servers import RedisServer

HOSTILE = "sk-of-the-hostile-caller"
_WORKERS = 4
_SERVERS = 4
_TIMEOUT = 30.0
_PATIENCE = 150.0
_HEALTHY = {
    "error_rate": 0.0, "throttle_rate": 0.0, "reset_rate": 0.0, "hang_rate": 0.0, "retry_after": None,
}  # fmt: skip
_FAULTS: dict[str, dict[str, Any]] = {
    "500": {"error_rate": 1.0},
    "429": {"throttle_rate": 1.0, "retry_after": 2},
    "reset": {"reset_rate": 1.0},
    "hang": {"hang_rate": 1.0},
    "refused": {},
}
_LASTS = {"hang": 12.0}
_FAULTY, _WELL = 5.0, 6.0
_EDITS = 11.0
_SAMPLES = 5.0
# What a prompt brings about goes before the fault of the day.
_RULES = (
    Rule({**_HEALTHY, "error_rate": 1.0, "error_status": 500}, contains="soak-500"),
    Rule({**_HEALTHY, "error_rate": 1.0, "error_status": 400}, contains="soak-400"),
    Rule({**_HEALTHY, "reset_rate": 1.0}, contains="soak-reset"),
    Rule({**_HEALTHY, "throttle_rate": 1.0, "retry_after": 600}, contains="soak-429"),
    Rule({"latency": 8.0}, contains="soak-slow"),
)
_HOSTILE: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "soak-500"}]},
    {"messages": [{"role": "user", "content": "soak-400"}]},
    {"messages": [{"role": "user", "content": "soak-reset"}], "num_retries": 20},
    {"messages": [{"role": "user", "content": "soak-429"}]},
    {"messages": [{"role": "user", "content": "soak-slow"}], "timeout": 0.2},
    {"messages": [{"role": "user", "content": "x" * 200_000}], "n": 100},
    {"messages": "not a list"},
    {"messages": [{"role": "user", "content": "hello"}], "model": "nobody-has-this"},
)
MESSAGES = [{"role": "user", "content": "hello"}]


@dataclass
class _Side:
    proxy: ProxySide
    upstreams: list[Upstream]
    spare: Upstream
    sent: collections.Counter[str] = field(default_factory=collections.Counter)
    failed: collections.Counter[str] = field(default_factory=collections.Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)
    edits: int = 0  # workers that have added or deleted a deployment


def _entry(upstream: Upstream) -> dict[str, Any]:
    return {
        "model_name": "m",
        "litellm_params": {"model": "openai/test-model", "api_base": upstream.api_base, "api_key": "k"},
        "model_info": {"id": upstream.name},
    }


def _side(name: str, redis: RedisServer, *, plugin: bool) -> _Side:
    behaviour = Behaviour(latency=0.05, jitter=0.1, per_token=0.01, rules=_RULES)
    made = [Upstream(name=f"u{n}", seed=n, behaviour=behaviour).start() for n in range(_SERVERS + 1)]
    host, _, port = redis.url.removeprefix("redis://").partition("/")[0].partition(":")
    proxy = ProxySide(
        name,
        [_entry(each) for each in made[:_SERVERS]],
        {
            "routing_strategy": "least-busy",
            "redis_host": host,
            "redis_port": int(port),
            "cooldown_time": 3,
            # One call alone that waits for a server is no proof that the server hangs.
            "timeout": _TIMEOUT,
        },
        plugin=plugin,
        workers=_WORKERS,
        sections={
            "litellm_settings": {"callbacks": ["soak_side.handler"]},
            "general_settings": {"custom_auth": "callers.known"},
        },
        files={f"{name}.py": Path(__file__).with_name(f"_{name}.py").read_text() for name in ("callers", "soak_side")},
    )
    return _Side(proxy, made[:_SERVERS], made[_SERVERS])


# -- what is sent ------------------------------------------------------------------------------------------


async def _whole(side: _Side, path: str, body: dict[str, Any], **more: Any) -> None:
    answer = await side.proxy.client.post(path, json={"model": "m", **body}, timeout=_PATIENCE, **more)
    if answer.status_code != 200:
        raise RuntimeError(f"{answer.status_code}: {answer.text[:160]}")


async def _stream(side: _Side, *, leave: bool = False) -> str:
    """Read a stream; one that fails after its first token is none of the failures."""
    body = {"model": "m", "messages": MESSAGES, "stream": True}
    begun = False
    wrong = "a stream without an end"
    async with side.proxy.client.stream("POST", "/v1/chat/completions", json=body, timeout=_PATIENCE) as answer:
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {(await answer.aread())[:160]!r}")
        try:
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    return "stream"
                if line.startswith('data: {"error"'):
                    wrong = line[:160]
                    break
                begun = begun or '"content":"' in line
                if leave and begun:
                    return "left"
        except httpx.TransportError as error:
            wrong = repr(error)
    if begun:
        return "cut after the first token"
    raise RuntimeError(wrong)


async def _leaving(side: _Side, rng: random.Random) -> None:
    """Make a request and go away, before its answer or in the middle of it."""
    if rng.random() < 0.5:
        await _stream(side, leave=True)
        return
    with contextlib.suppress(httpx.TimeoutException):
        body = {"model": "m", "messages": MESSAGES}
        await side.proxy.client.post("/v1/chat/completions", json=body, timeout=rng.uniform(0.01, 0.2))


async def _one(side: _Side, rng: random.Random) -> None:
    chance = rng.random()
    kind = "chat"
    try:
        if chance < 0.45:
            await _whole(side, "/v1/chat/completions", {"messages": MESSAGES})
        elif chance < 0.70:
            kind = "stream"
            kind = await _stream(side)
        elif chance < 0.80:
            kind = "embedding"
            await _whole(side, "/v1/embeddings", {"input": ["hello"]})
        elif chance < 0.90:
            kind = "left"
            await _leaving(side, rng)
        else:
            kind = "hostile"
            with contextlib.suppress(RuntimeError, httpx.TransportError):
                headers = {"Authorization": f"Bearer {HOSTILE}"}
                await _whole(side, "/v1/chat/completions", rng.choice(_HOSTILE), headers=headers)
    except Exception as error:
        # Numbers aside, most failures are of a few kinds.
        side.failed[re.sub(r"\d+(\.\d+)?", "N", f"{kind}: {type(error).__name__}: {str(error)[:200]}")] += 1
    side.sent[kind] += 1


async def _load(side: _Side, rate: float, seconds: float, seed: int) -> None:
    rng = random.Random(seed)
    began = time.monotonic()
    under_way: set[asyncio.Task[None]] = set()
    for arrival in arrivals(int(rate * seconds * 2) + 10, rate, seed=seed):
        if arrival.due >= seconds:
            break
        await asyncio.sleep(max(0.0, began + arrival.due - time.monotonic()))
        task = asyncio.create_task(_one(side, random.Random(rng.random())))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    while under_way:
        await asyncio.wait(tuple(under_way))


# -- what happens meanwhile ----------------------------------------------------------------------------------


async def _break(side: _Side) -> None:
    """Have one upstream after the other fail, in one way after the other."""
    for name, upstream in zip(itertools.cycle(_FAULTS), itertools.cycle(side.upstreams), strict=False):
        await asyncio.sleep(_WELL)
        await asyncio.to_thread(upstream.stop) if name == "refused" else upstream.order(**_FAULTS[name])
        try:
            await asyncio.sleep(_LASTS.get(name, _FAULTY))
        finally:
            upstream.start() if name == "refused" else upstream.order(**_HEALTHY)


async def _edit(side: _Side) -> None:
    """Add a deployment to every worker, and delete it again."""
    entry = _entry(side.spare)
    # Each request has a connection of its own, which may meet any of the workers.
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=side.proxy.url, limits=limits, timeout=30) as client:
        for wanted in itertools.cycle((entry, {"model_info": entry["model_info"]})):
            await asyncio.sleep(_EDITS)
            heard: set[int] = set()
            for _ in range(60 * _WORKERS):
                with contextlib.suppress(httpx.TransportError):
                    heard.add((await client.post("/soak/deployments", json=wanted)).json()["pid"])
                if len(heard) == _WORKERS:
                    break
            side.edits += len(heard)


async def _watch(side: _Side, began: float) -> None:
    while True:
        side.memory.append((time.monotonic() - began, await asyncio.to_thread(side.proxy.memory)))
        await asyncio.sleep(_SAMPLES)


async def _tell(sides: list[_Side], seconds: float) -> None:
    """Say each minute how far it is: two hours without a word look like a hang."""
    for minute in itertools.count(1):
        await asyncio.sleep(60.0)
        told = (
            f"{side.proxy.name} {sum(side.sent.values()):,} requests, {sum(side.failed.values()):,} failed, "
            f"{side.memory[-1][1]:.0f} MiB"
            for side in sides
        )
        print(f"soak: {minute} of {seconds / 60:.0f} min: {'; '.join(told)}", file=sys.stderr, flush=True)


async def _soaked(side: _Side, rate: float, seconds: float) -> None:
    others = [asyncio.create_task(each) for each in (_break(side), _edit(side), _watch(side, time.monotonic()))]
    try:
        await _load(side, rate, seconds, 7)
    finally:
        for task in others:
            task.cancel()
        ended = await asyncio.gather(*others, return_exceptions=True)
    for error in ended:
        if not isinstance(error, asyncio.CancelledError) and isinstance(error, BaseException):
            raise error


# -- what came of it -----------------------------------------------------------------------------------------


def _workers(side: _Side) -> list[dict[str, Any]]:
    found = (ask(path, {"do": "status"}, timeout=20.0) for path in side.proxy.home.iterdir() if path.is_socket())
    return [each for each in found if each is not None and each.get("routers")]


def _in_flight(document: Any) -> int:
    """What a worker's routers have in flight."""
    if isinstance(document, dict):
        own = document.get("in_flight")
        return (own if isinstance(own, int) else 0) + sum(map(_in_flight, document.values()))
    return sum(map(_in_flight, document)) if isinstance(document, list) else 0


async def _settled(side: _Side) -> tuple[int, list[dict[str, Any]]]:
    """Wait until nothing is in flight any more, a minute at the most: what was cancelled ends a moment later."""
    end = time.monotonic() + 60
    while True:
        workers = await asyncio.to_thread(_workers, side)
        left = sum(_in_flight(each["routers"]) for each in workers)
        if not left or time.monotonic() > end:
            return left, workers
        await asyncio.sleep(1.0)


def _grown(side: _Side, seconds: float) -> tuple[float, float]:
    """MiB held after the first half hour (of a short run: its first third) and at the end, medians of a minute."""
    begin = min(1800.0, seconds / 3)
    early = [held for when, held in side.memory if begin <= when < begin + 60] or [side.memory[-1][1]]
    late = [held for _, held in side.memory][-12:]
    return statistics.median(early), statistics.median(late)


async def _run(seconds: float, rate: float, *, compare: bool) -> list[str]:
    wrong: list[str] = []
    columns = ["proxy", "requests", "failed", "cut streams", "hostile", "edits", "in flight at the end", "our errors"]
    columns += ["MiB early", "MiB late", "log lines", "of ours"]
    notes = [
        "Cut streams had begun. Failed: requests of all callers but the hostile one, and but those that went away."
    ]
    report = Report("soak", f"{seconds:g} s through {_WORKERS} workers, {rate:g} requests/s", columns, notes)
    sides: list[_Side] = []
    with RedisServer() as redis, contextlib.ExitStack() as servers:
        other = servers.enter_context(RedisServer()) if compare else redis
        try:
            sides.append(_side("fast_router", redis, plugin=True))
            if compare:
                sides.append(_side("LiteLLM", other, plugin=False))
            for side in sides:
                side.proxy.start()
            await asyncio.gather(*(side.proxy.ready() for side in sides))
            telling = asyncio.create_task(_tell(sides, seconds))
            try:
                await asyncio.gather(*(_soaked(side, rate, seconds) for side in sides))
            finally:
                telling.cancel()
            for side in sides:
                left, workers = await _settled(side)
                lines = side.proxy.log()
                ours = [line for line in lines if "fast_router" in line]
                errors = sum(each["status"]["errors"]["count"] for each in workers)
                early, late = _grown(side, seconds)
                report.add(
                    side.proxy.name, sum(side.sent.values()), sum(side.failed.values()),
                    side.sent["cut after the first token"], side.sent["hostile"], side.edits, left, errors,
                    round(early), round(late), len(lines), len(ours),
                )  # fmt: skip
                for what, times in side.failed.most_common(10):
                    print(f"   {side.proxy.name}: {times} × {what}", flush=True)
                if side is sides[0]:
                    wrong += _judge(side, seconds, left, workers, errors, ours)
        finally:
            for side in sides:
                await side.proxy.close()
                for upstream in (*side.upstreams, side.spare):
                    upstream.stop()
    if compare and seconds > 1800:
        ours_early, ours_late = _grown(sides[0], seconds)
        early, late = _grown(sides[1], seconds)
        if ours_late / ours_early > late / early * 1.02:
            wrong.append(f"memory: {ours_early:.0f} to {ours_late:.0f} MiB, LiteLLM alone {early:.0f} to {late:.0f}")
    report.finish(rate=rate, wrong=wrong)
    return wrong


def _judge(
    side: _Side, seconds: float, left: int, workers: list[dict[str, Any]], errors: int, ours: list[str]
) -> list[str]:
    """Give what the soak may not show of the side under fast_router."""
    wrong = []
    if side.failed:
        wrong.append(f"{sum(side.failed.values())} requests failed")
    if left:
        wrong.append(f"{left} calls are in flight at the end")
    if len(workers) != _WORKERS:
        wrong.append(f"{len(workers)} of {_WORKERS} workers say how they are")
    if errors:
        last = next(each["status"]["errors"] for each in workers if each["status"]["errors"]["count"])
        wrong.append(f"{errors} errors of ours, for instance {json.dumps(last)[:300]}")
    if not side.edits and seconds > 4 * _EDITS:
        wrong.append("no deployment was added")
    # A rest and a return in each worker, of a few deployments at a time; and what a worker says at its start.
    most = _WORKERS * (20 + 4 * seconds / _FAULTY)
    if len(ours) > most:
        wrong.append(f"{len(ours)} lines of ours in the log, where {most:.0f} are enough; the last: {ours[-1][:200]}")
    return wrong


def main() -> None:
    """Run it; the exit status is 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--rate", type=float, default=12.0, help="requests per second")
    parser.add_argument("--compare", action="store_true", help="LiteLLM alone beside it; by itself from an hour on")
    options = parser.parse_args()
    compare = options.compare or options.seconds >= 3600
    wrong = asyncio.run(_run(options.seconds, options.rate, compare=compare))
    for line in wrong:
        print(f"soak: {line}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
