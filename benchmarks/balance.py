"""How evenly, and how fast: shares of four upstreams and latencies, LiteLLM's strategies beside ours.

Every router is a process of its own with four HTTP upstreams of its own; each case starts it afresh. `--proxy` asks
LiteLLM's real proxy instead, with one worker and with two. Run with `python -m benchmarks.balance [--proxy]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

from benchmarks.proxies import ProxySide
from benchmarks.report import Report
from fast_router.testing import Upstream
from fast_router.testing.load import arrivals

_LATENCY = 0.05
_COLUMNS = ["case", "router", "shares %", "furthest from 25", "p50 ms", "p99 ms", "failed"]


@dataclass(frozen=True)
class _Case:
    """What is asked.

    Attributes:
        requests: How many.
        rate: Requests a second; 0 sends them all at once.
        slow: How many times slower the last upstream is.
        slots: Requests that an upstream works on at a time; more wait in line there. None: any number.
        cancel: Share of requests whose caller goes away half-way.
        abandon: Share of streams of which only the first chunk is read.
        cached: Share answered from LiteLLM's response cache.
    """

    requests: int
    rate: float
    slow: float = 1.0
    slots: int | None = None
    cancel: float = 0.0
    abandon: float = 0.0
    cached: float = 0.0


CASES = {
    "low load": _Case(100, 10),
    "high load": _Case(240, 60),
    "burst of 40": _Case(40, 0),
    "half cancelled": _Case(120, 20, cancel=0.5),
    "half abandoned streams": _Case(120, 20, abandon=0.5),
    "half from the cache": _Case(1200, 80, cached=0.5),
    "one ten times slower": _Case(600, 25, slow=10),
    "the same, busy": _Case(2400, 120, slow=10, slots=4),
}
_EVERYBODY = ("LiteLLM simple-shuffle", "LiteLLM least-busy", "LiteLLM latency-based-routing")
_OURS = ("fast_router least-busy", "fast_router power_of_two", "fast_router peak_ewma")


def _upstreams(case: _Case) -> list[Upstream]:
    return [
        Upstream(
            name=f"u{n}",
            seed=n,
            latency=_LATENCY * (case.slow if n == 3 else 1),
            jitter=0.01,
            tokens=4,
            slots=case.slots,
        ).start()
        for n in range(4)
    ]


def _model_list(upstreams: list[Upstream]) -> list[dict[str, Any]]:
    return [
        {
            "model_name": "m",
            "litellm_params": {"model": "hosted_vllm/test-model", "api_base": u.api_base, "api_key": "k"},
            "model_info": {"id": u.name},
        }
        for u in upstreams
    ]


async def _drive(ask: Any, case: _Case, taken: list[float]) -> int:
    """Send a case's requests; returns how many failed that nobody had cancelled."""
    failed = 0
    began = time.monotonic()

    async def one(number: int, due: float) -> None:
        nonlocal failed
        await asyncio.sleep(max(0.0, began + due - time.monotonic()))
        asked = time.monotonic()
        place = (number * 7919 % 1000) / 1000  # spread evenly, the same for everybody
        try:
            if place < case.cancel:
                with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                    await asyncio.wait_for(ask(number), _LATENCY / 2)
                return
            await ask(number, abandon=place < case.abandon, stream=case.abandon > 0, cached=place < case.cached)
        except Exception:
            failed += 1
        else:
            taken.append(time.monotonic() - asked)

    coming = arrivals(case.requests, case.rate or 1.0, seed=9)
    await asyncio.gather(*(one(a.number, a.due if case.rate else 0.0) for a in coming))
    return failed


async def _router_case(strategy: str, case: _Case) -> dict[str, Any]:
    import litellm  # noqa: PLC0415
    from litellm.caching.caching import Cache  # noqa: PLC0415

    upstreams = _upstreams(case)
    litellm.cache = Cache(type="local") if case.cached else None  # type: ignore[arg-type]
    router = litellm.Router(model_list=_model_list(upstreams), routing_strategy=strategy, num_retries=0)

    async def ask(
        number: int, *, abandon: bool = False, stream: bool = False, cached: bool = False, warm: bool = False
    ) -> None:
        text = "the same" if cached or warm else f"request {number}"
        messages = [{"role": "user", "content": text}]
        answer = await router.acompletion(model="m", messages=messages, stream=stream, caching=bool(case.cached))
        if stream:
            async for _ in answer:
                if abandon:
                    break

    for _ in range(4):
        await ask(0, warm=True)
    for upstream in upstreams:
        upstream.reset()
    # A full collection of LiteLLM's heap stops the process for 0.3 s, the upstreams in it too.
    gc.collect()
    gc.freeze()
    taken: list[float] = []
    failed = await _drive(ask, case, taken)
    figures = _figures(upstreams, taken, failed)
    for upstream in upstreams:
        upstream.stop()
    return figures


def _figures(upstreams: list[Upstream], taken: list[float], failed: int) -> dict[str, Any]:
    counts = [u.records.requests for u in upstreams]
    shares = [100 * count / max(1, sum(counts)) for count in counts]
    return {
        "shares": shares,
        "p50": 1000 * _percentile(taken, 0.5),
        "p99": 1000 * _percentile(taken, 0.99),
        "failed": failed,
    }


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan


def _row(report: Report, case: str, router: str, figures: dict[str, Any]) -> None:
    shares = figures["shares"]
    report.add(
        case,
        router,
        "/".join(f"{share:.0f}" for share in shares),
        round(max(abs(share - 25) for share in shares), 1),
        round(figures["p50"], 1),
        round(figures["p99"], 1),
        figures["failed"],
    )


def _child(name: str, case: str) -> dict[str, Any]:
    """Run one router through one case in a process of its own."""
    side, strategy = name.split(" ", 1)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FAST_ROUTER_")}
    environment["FAST_ROUTER_ENABLED"] = "1" if side == "fast_router" else "0"
    words = [sys.executable, "-m", "benchmarks.balance", "--child", strategy, case]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}, {case}: {done.stderr[-1500:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


_PROXIED = ("low load", "high load", "burst of 40")


async def _proxy_rows(report: Report) -> None:
    """Ask the real proxy, one worker and two, LiteLLM's least-busy and ours: started together, asked in turn."""
    for workers in (1, 2):
        sides = []
        for name in ("LiteLLM least-busy", "fast_router least-busy"):
            side, strategy = name.split(" ", 1)
            upstreams = _upstreams(CASES[_PROXIED[0]])
            settings = {"routing_strategy": strategy, "num_retries": 0}
            plugin = side == "fast_router"
            sides.append((ProxySide(name, _model_list(upstreams), settings, plugin=plugin, workers=workers), upstreams))
        try:
            for proxy, _ in sides:
                proxy.start()
            await asyncio.gather(*(proxy.ready() for proxy, _ in sides))
            for title in _PROXIED:
                for proxy, upstreams in sides:
                    figures = await _proxy_case(proxy, upstreams, CASES[title])
                    first = f"{workers} worker{'s' * (workers > 1)}: {title}" if proxy is sides[0][0] else ""
                    _row(report, first, proxy.name, figures)
        finally:
            for proxy, upstreams in sides:
                await proxy.close()
                for upstream in upstreams:
                    upstream.stop()


async def _proxy_case(proxy: ProxySide, upstreams: list[Upstream], case: _Case) -> dict[str, Any]:
    for _ in range(3):
        # Together, so that each worker gets some: its first request takes half a second.
        await asyncio.gather(*(proxy.chat() for _ in range(16)))
    for upstream in upstreams:
        upstream.reset()
    taken: list[float] = []

    async def ask(_number: int, **_: Any) -> None:
        await proxy.chat()

    failed = await _drive(ask, case, taken)
    return _figures(upstreams, taken, failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proxy", action="store_true", help="ask the real proxy, with one worker and with two")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        import fast_router  # noqa: F401, PLC0415 - its hook, unless the environment forbids it

        logging.disable(logging.CRITICAL)
        print(json.dumps(asyncio.run(_router_case(arguments.child[0], CASES[arguments.child[1]]))))
        return
    report = Report(
        "balance-proxy" if arguments.proxy else "balance",
        f"Shares of four upstreams ({1000 * _LATENCY:g} ms an answer)",
        _COLUMNS,
        [
            "Shares count requests that reached an upstream. Latencies leave out what the caller cancelled.",
            f"Slower: one of four takes {10 * 1000 * _LATENCY:g} ms. Busy: each works on 4 requests at a time.",
        ]
        + ["Full garbage collections stop a proxy for 0.4 s, under fast_router only once."] * arguments.proxy
        + ["What LiteLLM keeps is frozen (gc.freeze), for everybody: its full collections take 0.3 s."]
        * (not arguments.proxy),
    )
    if arguments.proxy:
        asyncio.run(_proxy_rows(report))
    else:
        for case in arguments.cases:
            slow = CASES[case].slow > 1
            sides = (*_EVERYBODY, *_OURS) if slow else ("LiteLLM least-busy", "fast_router least-busy")
            for place, name in enumerate(sides):
                _row(report, case if not place else "", name, _child(name, case))
    report.finish()


if __name__ == "__main__":
    main()
