"""What clients notice when upstreams fail: real HTTP, the real proxy, LiteLLM beside us at the same time.

Each side has three upstreams of its own. In every case the first one (in "all 503" all of them) fails for some seconds
and recovers; requests of several callers go on coming.

    python -m benchmarks.chaos [case …]      # a short fault each: 4 s
    python -m benchmarks.chaos --table       # what docs/performance.md shows: about ten minutes
    python -m benchmarks.chaos --table hang  # one part of it
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import dataclasses
import importlib.metadata
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.proxies import ProxySide
from benchmarks.report import Report
from fast_router.testing import Upstream
from fast_router.testing.load import arrivals

_LATENCY, _JITTER = 0.08, 0.04
_USUAL = 8.0
_STREAMED = 0.25
_SAMPLE = 0.1
_HEALTHY = {
    "error_rate": 0.0, "throttle_rate": 0.0, "reset_rate": 0.0, "hang_rate": 0.0, "cut_rate": 0.0,
    "retry_after": None, "error_status": 500, "latency": _LATENCY, "jitter": _JITTER,
}  # fmt: skip

CASES: dict[str, dict[str, Any]] = {
    "500": {"error_rate": 1.0},
    "503": {"error_rate": 1.0, "error_status": 503},
    "flaky": {"error_rate": 0.3},
    "429": {"throttle_rate": 1.0},
    "429 + Retry-After 3": {"throttle_rate": 1.0, "retry_after": 3},
    "reset": {"reset_rate": 1.0},
    "slow": {"latency": 30.0},
    "hang": {"hang_rate": 1.0},
    "cut before a token": {"cut_rate": 1.0, "cut_after": 0},
    "refused": {},
    "all 503": {"error_rate": 1.0, "error_status": 503},
}
ROUTERS: dict[str, dict[str, Any] | None] = {
    "LiteLLM": None,
    "fast_router": {},
    "hedging": {"hedge_percent": 10},
    "hedging, waiting": {"hedge_percent": 10, "max_wait": 10},
}


@dataclass(frozen=True)
class Plan:
    """How a run goes. Times are seconds.

    Attributes:
        cases: Of `CASES`, one after the other.
        routers: Of `ROUTERS`, all at once.
        rate: Requests per second and router.
        before: How long all is well first.
        faulty: How long the fault lasts.
        after: How long requests go on after it; where it is open, until the server has its share back, but no longer.
        open: Whether `after` is open.
        timeout: The Router's; None leaves LiteLLM's, ten minutes.
        cooldown: The Router's `cooldown_time`; None leaves LiteLLM's, five seconds.
        patience: When a client gives up.
        workers: Of each proxy.
        strategies: Of fast_router, a proxy each; LiteLLM beside it has simple-shuffle.
        callers: Keys that take turns.
    """

    cases: tuple[str, ...] = tuple(CASES)
    routers: tuple[str, ...] = ("LiteLLM", "fast_router", "hedging, waiting")
    rate: float = 20.0
    before: float = 1.0
    faulty: float = 4.0
    after: float = 8.0
    open: bool = True
    timeout: float | None = 2.0
    cooldown: float | None = 3.0
    patience: float = 60.0
    workers: int = 1
    strategies: tuple[str, ...] = ("simple_shuffle",)
    callers: int = 8


_LONG = Plan(before=10, faulty=20, after=10, open=False, cooldown=None, patience=30)
_HANGING = dataclasses.replace(_LONG, cases=("hang",), routers=("LiteLLM", "fast_router", "hedging"), timeout=None)
_FAILING = dataclasses.replace(
    _LONG, cases=("500", "reset", "refused", "429", "slow"), routers=("LiteLLM", "fast_router")
)
_BRIEF = dataclasses.replace(
    _LONG, cases=("500", "hang", "flaky"), routers=("fast_router",), rate=10, before=3, faulty=10, after=7,
    timeout=None, strategies=("simple_shuffle", "least_busy", "peak_ewma", "power_of_two", "cache_aware"),
)  # fmt: skip
TABLE: dict[str, list[Plan]] = {
    "failing": [_FAILING],
    "hang": [dataclasses.replace(_HANGING, workers=workers) for workers in (1, 2)],
    "strategies": [_BRIEF],
}
"""What docs/performance.md shows, in parts."""


@dataclass
class _Side:
    proxy: ProxySide
    strategy: str
    upstreams: list[Upstream]
    late: list[tuple[float, float, bool]] = field(default_factory=list)  # (due, seconds, failed)
    samples: list[tuple[float, list[int]]] = field(default_factory=list)
    wrong: collections.Counter[str] = field(default_factory=collections.Counter)


def _side(name: str, strategy: str, plan: Plan) -> _Side:
    upstreams = [Upstream(name=f"u{n}", seed=n, latency=_LATENCY, jitter=_JITTER).start() for n in range(3)]
    model_list = [
        {
            "model_name": "m",
            "litellm_params": {"model": "hosted_vllm/test-model", "api_base": u.api_base, "api_key": "k"},
            "model_info": {"id": u.name},
        }
        for u in upstreams
    ]
    settings = {"timeout": plan.timeout, "cooldown_time": plan.cooldown}
    options = ROUTERS[name]
    proxy = ProxySide(
        name,
        model_list,
        {key: value for key, value in settings.items() if value is not None},
        plugin=options is not None,
        options={**options, "strategy": strategy} if options is not None else None,
        workers=plan.workers,
        sections={"general_settings": {"custom_auth": "callers.known"}},
        files={"callers.py": Path(__file__).with_name("_callers.py").read_text()},
    )
    return _Side(proxy, strategy, upstreams)


async def _send(side: _Side, plan: Plan, seconds: float, seed: int, until: asyncio.Event | None = None) -> None:
    """Send requests for some seconds, or until an event, and note what comes of each."""
    began = time.monotonic()

    async def one(number: int, due: float, stream: bool) -> None:
        failed = False
        key = f"sk-of-caller-{number % plan.callers}"
        try:
            # A client's timeout is between two bytes; this one is for the whole of a request.
            await asyncio.wait_for(side.proxy.chat(stream=stream, key=key, patience=plan.patience), plan.patience)
        except Exception as error:
            failed = True
            side.wrong[f"{type(error).__name__}: {str(error)[:160]}"] += 1
        side.late.append((due, time.monotonic() - began - due, failed))

    under_way = []
    for arrival in arrivals(int(plan.rate * seconds * 2), plan.rate, stream_share=_STREAMED, seed=seed):
        await asyncio.sleep(max(0.0, began + arrival.due - time.monotonic()))
        if arrival.due >= seconds or (until is not None and until.is_set()):
            break
        under_way.append(asyncio.create_task(one(arrival.number, arrival.due, arrival.stream)))
    await asyncio.gather(*under_way)


async def _case(side: _Side, plan: Plan, case: str) -> None:
    """Send requests through one case."""
    side.late, side.samples, side.wrong = [], [], collections.Counter()
    for upstream in side.upstreams:
        upstream.reset()
    broken = side.upstreams if case.startswith("all") else side.upstreams[:1]
    refused = case == "refused"
    began = time.monotonic()
    over = asyncio.Event()

    async def watch() -> None:
        while True:
            now = time.monotonic() - began
            side.samples.append((now, [u.records.requests for u in side.upstreams]))
            # All of the upstreams are looked at for a moment longer: with them the first second back may be the last.
            if plan.open and now > plan.before + plan.faulty + 1.5 and not math.isnan(_back(side, plan)):
                over.set()
            await asyncio.sleep(_SAMPLE)

    async def switch(at: float, work: Callable[[Upstream], Any]) -> None:
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        for upstream in broken:
            await asyncio.to_thread(work, upstream)

    watching = asyncio.create_task(watch())
    await asyncio.gather(
        switch(plan.before, Upstream.stop if refused else lambda u: u.order(**CASES[case])),
        switch(plan.before + plan.faulty, Upstream.start if refused else lambda u: u.order(**_HEALTHY)),
        _send(side, plan, plan.before + plan.faulty + plan.after, 3, over),
    )
    watching.cancel()


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan


def _count(samples: list[tuple[float, list[int]]], at: float) -> list[int]:
    return [counts for when, counts in samples if when <= at][-1]


def _back(side: _Side, plan: Plan) -> float:
    """Give the seconds from the fault's end to that of the first second with a fair share, NaN if there is none."""
    end = plan.before + plan.faulty
    for when, counts in side.samples:
        later = next((c for w, c in side.samples if w >= when + 1.0), None)
        if when < end or later is None:
            continue
        gained = [b - a for a, b in zip(counts, later, strict=True)]
        if sum(gained) and gained[0] >= 0.75 * sum(gained) / len(gained):
            return when + 1.0 - end
    return math.nan


def _figures(side: _Side, plan: Plan, case: str, usual: float) -> dict[str, Any]:
    fault = (plan.before, plan.before + plan.faulty)
    during = [seconds for due, seconds, failed in side.late if fault[0] <= due < fault[1] and not failed]
    begin, end = _count(side.samples, fault[0]), _count(side.samples, fault[1])
    wasted = end[0] - begin[0]
    requests = len(side.late)
    p99 = _percentile([seconds for _, seconds, failed in side.late if not failed], 0.99)
    return {
        "requests": requests,
        "errors": sum(failed for _, _, failed in side.late),
        "p99 s": p99,
        "to usual": p99 / usual,
        "in the fault": _percentile(during, 0.99),
        # Nothing that could be counted reaches a port that nobody listens at.
        "calls to it": math.nan if case == "refused" else wasted,
        "back s": _back(side, plan),
        "attempts": sum(side.samples[-1][1]) / max(1, requests),
    }


_COLUMNS = ["requests", "errors", "p99 s", "to usual", "in the fault", "calls to it", "back s"]
_COLUMNS += ["attempts"]


async def _run(plan: Plan, report: Report) -> None:
    sides = [
        _side(name, strategy, plan)
        for name in plan.routers
        for strategy in (plan.strategies if ROUTERS[name] is not None else ("simple_shuffle",))
    ]
    try:
        for side in sides:
            side.proxy.start()
        await asyncio.gather(*(side.proxy.ready() for side in sides))
        usual = await asyncio.gather(*(_usual(side, plan) for side in sides))
        for case in plan.cases:
            await asyncio.gather(*(_case(side, plan, case) for side in sides))
            for side, fault_free in zip(sides, usual, strict=True):
                figures = _figures(side, plan, case, fault_free)
                first = case if side is sides[0] else ""
                load = round(os.getloadavg()[0], 1)
                report.add(first, _called(side, plan), *(_round(figures[c]) for c in _COLUMNS), load)
                for what, times in side.wrong.most_common(3):
                    print(f"   {case}, {_called(side, plan)}: {times} × {what}", flush=True)
    finally:
        for side in sides:
            await side.proxy.close()
            for upstream in side.upstreams:
                upstream.stop()


def _called(side: _Side, plan: Plan) -> str:
    """Give what the table calls a side."""
    strategy = "" if side.strategy == "simple_shuffle" else f", {side.strategy}"
    return f"{side.proxy.name}{strategy}" + (f", {plan.workers} workers" if plan.workers > 1 else "")


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 3)
    return value


async def _usual(side: _Side, plan: Plan) -> float:
    """Give the fault-free p99, after a warm-up of every worker."""
    for number in range(20 * plan.workers):
        await side.proxy.chat(stream=number % 2 == 0)
    await _send(side, plan, max(_USUAL, plan.before + plan.after), 5)
    return _percentile([seconds for _, seconds, _ in side.late], 0.99)


def _either(values: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(values))


def _seconds(value: float | None) -> str:
    return "LiteLLM's" if value is None else f"{value:g} s"


def _report(plans: list[Plan]) -> Report:
    plan = plans[0]
    version = importlib.metadata.version("litellm")
    lengths = _either(f"{each.faulty:g} of {each.before + each.faulty + each.after:g} s" for each in plans)
    timeouts = _either(f"{_seconds(each.timeout)} ({', '.join(each.cases)})" for each in plans)
    rates = _either(f"{each.rate:g}" for each in plans)
    return Report(
        "chaos",
        f"One of three upstreams fails for {lengths} behind the real proxy of LiteLLM {version}",
        ["case", "router", *_COLUMNS, "load"],
        [
            f"{rates} requests/s a router, a quarter streams, of {plan.callers} callers; all routers at once.",
            f"cooldown_time: {_seconds(plan.cooldown)}; timeout: {timeouts}; num_retries: LiteLLM's.",
            f"A client gives up after {plan.patience:g} s, which is an error.",
            "p99: of all answered requests, and of those that came during the fault. Usual: the same load, no fault.",
            "Slow: answers after 30 s. Flaky: 500 to 30 %. Calls to it: during the fault. Attempts: per request.",
            "Back: the end of the first second in which it gets at least three quarters of a fair share.",
            "Load: of the machine, in the last minute of the case.",
        ],
    )


async def _all(plans: list[Plan]) -> None:
    report = _report(plans)
    try:
        for plan in plans:
            await _run(plan, report)
    finally:
        report.finish(plans=[dataclasses.asdict(plan) for plan in plans])


def main() -> None:
    """Run it."""
    usual = Plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=[], metavar="case", help=", ".join(CASES))
    parser.add_argument("--table", nargs="?", const="all", choices=["all", *TABLE], help="print the documented table")
    parser.add_argument("--rate", type=float, help="requests per second for each router (default: 20)")
    parser.add_argument("--workers", type=int, help="of each proxy (default: 1)")
    parser.add_argument("--strategy", action="append", help="of fast_router; may be repeated")
    parser.add_argument("--callers", type=int, default=usual.callers, help="keys that take turns")
    parser.add_argument("--router", action="append", choices=list(ROUTERS), help="only these; may be repeated")
    options = parser.parse_args()
    if unknown := [case for case in options.cases if case not in CASES]:
        parser.error(f"no case is called {unknown[0]!r}; there are: {', '.join(CASES)}")
    if options.table is None:
        plans = [Plan(cases=tuple(options.cases) or usual.cases)]
    else:
        plans = [plan for name, part in TABLE.items() if options.table in ("all", name) for plan in part]
        if options.cases:
            kept = [tuple(case for case in plan.cases if case in options.cases) for plan in plans]
            plans = [dataclasses.replace(plan, cases=cases) for plan, cases in zip(plans, kept, strict=True) if cases]
    more: dict[str, Any] = {"callers": options.callers}
    if options.rate:
        more["rate"] = options.rate
    if options.router:
        more["routers"] = tuple(options.router)
    if options.strategy:
        more["strategies"] = tuple(options.strategy)
    if options.workers:
        more["workers"] = options.workers
    # Two parts may have become one.
    asyncio.run(_all(list(dict.fromkeys(dataclasses.replace(plan, **more) for plan in plans))))


if __name__ == "__main__":
    main()
