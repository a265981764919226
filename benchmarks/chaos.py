"""What clients notice when upstreams fail: real HTTP, the real proxy, LiteLLM beside us at the same time.

Each side has three upstreams of its own. In every case the first one (in the last case all of them) fails for some
seconds and recovers; requests go on coming. Run with `python -m benchmarks.chaos [--rate 20] [case …]`.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.proxies import ProxySide
from benchmarks.report import Report
from fast_router.testing import Upstream
from fast_router.testing.load import arrivals

_LATENCY, _JITTER = 0.08, 0.04
_TIMEOUT = 2.0
_COOLDOWN = 3.0
_BEFORE, _FAULTY = 1.0, 4.0
# Requests go on until the broken one has its share back, for so many seconds at the most and at the least.
_AFTER, _AFTER_ALL = _COOLDOWN + 5.0, 1.5
_USUAL = 8.0
_STREAMED = 0.25
_SAMPLE = 0.1
_HEALTHY = {
    "error_rate": 0.0, "throttle_rate": 0.0, "reset_rate": 0.0, "hang_rate": 0.0, "cut_rate": 0.0,
    "retry_after": None, "error_status": 500,
}  # fmt: skip

CASES: dict[str, dict[str, Any]] = {
    "500": {"error_rate": 1.0},
    "503": {"error_rate": 1.0, "error_status": 503},
    "flaky: 500 in 30 %": {"error_rate": 0.3},
    "429 + Retry-After 3": {"throttle_rate": 1.0, "retry_after": 3},
    "reset": {"reset_rate": 1.0},
    "hang": {"hang_rate": 1.0},
    "cut before a token": {"cut_rate": 1.0, "cut_after": 0},
    "killed": {},
    "all 503": {"error_rate": 1.0, "error_status": 503},
}


@dataclass
class _Side:
    proxy: ProxySide
    upstreams: list[Upstream]
    late: list[tuple[float, float, bool]] = field(default_factory=list)  # (due, seconds, failed)
    samples: list[tuple[float, list[int]]] = field(default_factory=list)


def _side(name: str, *, plugin: bool, options: dict[str, Any] | None = None) -> _Side:
    upstreams = [Upstream(name=f"u{n}", seed=n, latency=_LATENCY, jitter=_JITTER).start() for n in range(3)]
    model_list = [
        {
            "model_name": "m",
            "litellm_params": {"model": "hosted_vllm/test-model", "api_base": u.api_base, "api_key": "k"},
            "model_info": {"id": u.name},
        }
        for u in upstreams
    ]
    settings = {"timeout": _TIMEOUT, "cooldown_time": _COOLDOWN}
    return _Side(ProxySide(name, model_list, settings, plugin=plugin, options=options), upstreams)


async def _send(side: _Side, rate: float, seconds: float, seed: int, until: asyncio.Event | None = None) -> None:
    """Send requests for some seconds, or until an event, and note what comes of each."""
    began = time.monotonic()

    async def one(due: float, stream: bool) -> None:
        failed = False
        try:
            await side.proxy.chat(stream=stream)
        except Exception:
            failed = True
        side.late.append((due, time.monotonic() - began - due, failed))

    under_way = []
    for arrival in arrivals(int(rate * seconds * 2), rate, stream_share=_STREAMED, seed=seed):
        await asyncio.sleep(max(0.0, began + arrival.due - time.monotonic()))
        if arrival.due >= seconds or (until is not None and until.is_set()):
            break
        under_way.append(asyncio.create_task(one(arrival.due, arrival.stream)))
    await asyncio.gather(*under_way)


async def _case(side: _Side, faults: dict[str, Any], *, everybody: bool, killed: bool, rate: float) -> None:
    """Send requests through one case."""
    side.late, side.samples = [], []
    for upstream in side.upstreams:
        upstream.reset()
    broken = side.upstreams if everybody else side.upstreams[:1]
    began = time.monotonic()
    over = asyncio.Event()

    async def watch() -> None:
        while True:
            now = time.monotonic() - began
            side.samples.append((now, [u.records.requests for u in side.upstreams]))
            if now > _BEFORE + _FAULTY + _AFTER_ALL and not math.isnan(_back(side)):
                over.set()
            await asyncio.sleep(_SAMPLE)

    async def switch(at: float, work: Callable[[Upstream], Any]) -> None:
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        for upstream in broken:
            await asyncio.to_thread(work, upstream)

    watching = asyncio.create_task(watch())
    await asyncio.gather(
        switch(_BEFORE, Upstream.stop if killed else lambda u: u.order(**faults)),
        switch(_BEFORE + _FAULTY, Upstream.start if killed else lambda u: u.order(**_HEALTHY)),
        _send(side, rate, _BEFORE + _FAULTY + _AFTER, 3, over),
    )
    watching.cancel()


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan


def _count(samples: list[tuple[float, list[int]]], at: float) -> list[int]:
    return [counts for when, counts in samples if when <= at][-1]


def _back(side: _Side) -> float:
    """Give the seconds from the fault's end to that of the first second with a fair share, NaN if there is none."""
    end = _BEFORE + _FAULTY
    for when, counts in side.samples:
        later = next((c for w, c in side.samples if w >= when + 1.0), None)
        if when < end or later is None:
            continue
        gained = [b - a for a, b in zip(counts, later, strict=True)]
        if sum(gained) and gained[0] >= 0.75 * sum(gained) / len(gained):
            return when + 1.0 - end
    return math.nan


def _figures(side: _Side, *, everybody: bool) -> dict[str, Any]:
    fault = (_BEFORE, _BEFORE + _FAULTY)
    during = [(d, s, f) for d, s, f in side.late if fault[0] <= d < fault[1]]
    begin, end = _count(side.samples, fault[0]), _count(side.samples, fault[1])
    wasted = end[0] - begin[0]
    # Left when nine in ten of the requests that it got while broken had come: the rest are probes.
    # Nothing but probes reached one that was gone: there was nothing to leave.
    left = (
        math.nan
        if not wasted
        else next(
            (w - fault[0] for w, counts in side.samples if w >= fault[0] and counts[0] - begin[0] >= 0.9 * wasted),
            math.nan,
        )
    )
    requests = len(side.late)
    return {
        "errors": sum(f for _, _, f in side.late),
        "p99 s": _percentile([s for _, s, f in during if not f], 0.99),
        "left after s": math.nan if everybody else left,
        "back after s": _back(side),
        "wasted": wasted,
        "attempts a request": sum(side.samples[-1][1]) / max(1, requests),
    }


async def _run(cases: list[str], rate: float) -> None:
    sides = [
        _side("LiteLLM", plugin=False),
        _side("fast_router", plugin=True),
        _side("hedging, waiting", plugin=True, options={"hedge_percent": 10, "max_wait": 10}),
    ]
    columns = ["case", "router", "errors", "p99 s", "p99 to fault-free", "left after s", "back after s", "wasted"]
    columns += ["attempts a request"]
    report = Report(
        "chaos",
        f"One of three upstreams fails for {_FAULTY:g} s behind the real proxy ({rate:g} requests/s a router)",
        columns,
        [
            f"num_retries is LiteLLM's default, cooldown_time {_COOLDOWN:g} s, timeout {_TIMEOUT:g} s. All at once.",
            "p99: of requests that came during the fault. Until its timeout a hang looks slow; hedging bounds it.",
            "Hedging, waiting: FAST_ROUTER_HEDGE_PERCENT=10 and FAST_ROUTER_MAX_WAIT=10; all else is the default.",
            "Back: the first second in which it gets at least three quarters of a fair share.",
        ],
    )
    try:
        for side in sides:
            side.proxy.start()
        await asyncio.gather(*(side.proxy.ready() for side in sides))
        usual = await asyncio.gather(*(_usual(side, rate) for side in sides))
        for case in cases:
            await asyncio.gather(
                *(
                    _case(side, CASES[case], everybody=case.startswith("all"), killed=case == "killed", rate=rate)
                    for side in sides
                )
            )
            for side, fault_free in zip(sides, usual, strict=True):
                figures = _figures(side, everybody=case.startswith("all"))
                figures["p99 to fault-free"] = figures["p99 s"] / fault_free
                first = case if side is sides[0] else ""
                report.add(first, side.proxy.name, *(_round(figures[c]) for c in columns[2:]))
    finally:
        for side in sides:
            await side.proxy.close()
            for upstream in side.upstreams:
                upstream.stop()
    report.finish(rate=rate)


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 3)
    return value


async def _usual(side: _Side, rate: float) -> float:
    """Give the fault-free p99, after a warm-up."""
    for number in range(20):
        await side.proxy.chat(stream=number % 2 == 0)
    await _send(side, rate, _USUAL, 5)
    return _percentile([seconds for _, seconds, _ in side.late], 0.99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=[], help=", ".join(CASES))
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second for each router")
    arguments = parser.parse_args()
    if unknown := [case for case in arguments.cases if case not in CASES]:
        parser.error(f"no case is called {unknown[0]!r}; there are: {', '.join(CASES)}")
    asyncio.run(_run(arguments.cases or list(CASES), arguments.rate))


if __name__ == "__main__":
    main()
