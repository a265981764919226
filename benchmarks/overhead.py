"""What litellm.Router costs above a direct call of litellm.acompletion: as it is, and with fast_router.

CPU time of the whole process (threads and background logging included) for a request that LiteLLM itself answers
(``mock_response``), so that nothing but LiteLLM's and our code is in it. Three kinds of blocks take turns: direct
calls, the Router with the plugin off, the same Router with the plugin on. Of each kind the fastest block counts:
what disturbs a block on a shared machine only ever makes it slower.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common import model_list
from benchmarks.report import Report

MESSAGES = [{"role": "user", "content": "Where does this go?"}]
LONG = [{"role": "user", "content": "word " * 50_000}]
_CALLBACKS = (
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "_async_success_callback",
    "_async_failure_callback",
)
_BLOCKS = 3
_SHUFFLE, _BUSY = "simple-shuffle", "least-busy"
_LATENCY, _COST, _USAGE = "latency-based-routing", "cost-based-routing", "usage-based-routing-v2"


@dataclass
class Case:
    """One line of the table.

    Attributes:
        label: What is special about it.
        strategy: LiteLLM's name of the strategy.
        size: Deployments of the one model group.
        calls: Requests in a block.
        params: Further litellm_params of every deployment.
        prices: Whether the deployments have prices of their own, which LiteLLM registers on every request.
        reach: Largest share of LiteLLM's overhead that may be left, None if there is no such figure.
        mode: ``async``, ``sync`` (Router.completion) or ``gather`` (all requests of a block at once).
        messages: The prompt.
        options: Options of fast_router; its side only.
    """

    label: str
    strategy: str
    size: int
    calls: int = 60
    params: dict[str, Any] = field(default_factory=dict)
    prices: bool = False
    reach: float | None = None
    mode: str = "async"
    messages: Any = field(default_factory=lambda: MESSAGES)
    options: dict[str, Any] = field(default_factory=dict)


CASES = [
    *(Case("plain", s, n, 20, reach=0.35) for s in (_SHUFFLE, _BUSY) for n in (3, 10)),
    *(Case("plain", s, 10, 20, reach=0.30) for s in (_LATENCY, _COST, _USAGE)),
    *(Case("plain", s, 100, 40, reach=0.25) for s in (_SHUFFLE, _BUSY)),
    *(Case("plain", s, 1000, 20, reach=0.10) for s in (_SHUFFLE, _BUSY, _USAGE)),
    *(Case("plain", s, 1000, 4, reach=0.10) for s in (_LATENCY, _COST)),
    Case("prices of their own", _SHUFFLE, 3, 40, prices=True, reach=0.45),
    Case("rpm and tpm limits", _SHUFFLE, 10, 60, {"rpm": 10**6, "tpm": 10**9}),
    Case("rpm and tpm limits", _SHUFFLE, 1000, 20, {"rpm": 10**6, "tpm": 10**9}, reach=0.10),
    Case("Router.completion", _SHUFFLE, 1000, 20, mode="sync", reach=0.20),
    Case("50,000 words", _LATENCY, 10, 4, messages=LONG),
    Case("1,000 at once", _SHUFFLE, 100, 1000, mode="gather"),
    Case("1,000 at once, freeze_heap", _SHUFFLE, 100, 1000, mode="gather", options={"freeze_heap": True}),
]


def _deployments(case: Case) -> list[dict[str, Any]]:
    entries = model_list(1, case.size)
    for entry in entries:
        params = entry["litellm_params"]
        if not case.prices:
            del params["input_cost_per_token"], params["output_cost_per_token"]
        params.update(case.params)
    return entries


async def _drain() -> None:
    """Wait for LiteLLM's background logging: it belongs to the requests."""
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER  # noqa: PLC0415

    await asyncio.sleep(0)
    await GLOBAL_LOGGING_WORKER.flush()
    await asyncio.sleep(0.002)


def _caller(case: Case, target: Callable[..., Awaitable[Any]], **fixed: Any) -> Callable[[int], Awaitable[None]]:
    async def run(calls: int) -> None:
        if case.mode == "gather":
            await asyncio.gather(*(target(messages=case.messages, mock_response="here", **fixed) for _ in range(calls)))
        else:
            for _ in range(calls):
                await target(messages=case.messages, mock_response="here", **fixed)
        await _drain()

    return run


async def _block(run: Callable[[int], Awaitable[None]], calls: int) -> float:
    gc.collect()
    began = time.process_time()
    await run(calls)
    return (time.process_time() - began) / calls


def _sync_block(function: Callable[..., Any], calls: int, **fixed: Any) -> float:
    gc.collect()
    began = time.process_time()
    for _ in range(calls):
        function(messages=MESSAGES, mock_response="here", **fixed)
    asyncio.run(_drain())
    return (time.process_time() - began) / calls


def measure(case: Case, rounds: int) -> dict[str, float]:
    """Return seconds of CPU per request: ``direct``, ``off`` (LiteLLM's Router) and ``on`` (with fast_router)."""
    import litellm  # noqa: PLC0415 - after the environment is set

    import fast_router  # noqa: PLC0415

    fast_router.disable()
    fast_router.configure(**case.options)
    before = {name: list(getattr(litellm, name)) for name in _CALLBACKS}
    router = litellm.Router(model_list=_deployments(case), routing_strategy=case.strategy, num_retries=0)
    known = {"model": "openai/gpt-4o-mini", "api_key": "unused", "api_base": "http://127.0.0.1:9/0/0"}
    warm = min(case.calls, 5)
    taken: dict[str, list[float]] = {"direct": [], "off": [], "on": []}

    def switched(side: str) -> None:
        if side == "on":
            fast_router.enable()
        else:
            fast_router.disable()

    async def rounds_of_async() -> None:
        direct = _caller(case, litellm.acompletion, **known)
        routed = _caller(case, router.acompletion, model="group-0")
        # What is remembered about a deployment is remembered from its first request on; picks reach most of
        # them here, as they do within a second of a busy fleet.
        switched("on")
        await routed(max(warm, min(case.size, 1000) if case.mode == "async" else 0))
        for _ in range(rounds):
            for side, times in taken.items():
                switched(side)
                run = direct if side == "direct" else routed
                await run(warm)
                # To switch takes longer than a block: several of them a turn.
                for _ in range(1 if case.mode == "gather" else _BLOCKS):
                    times.append(await _block(run, case.calls))

    def rounds_of_sync() -> None:
        for _ in range(rounds):
            for side, times in taken.items():
                switched(side)
                function = litellm.completion if side == "direct" else router.completion
                fixed = known if side == "direct" else {"model": "group-0"}
                _sync_block(function, warm, **fixed)
                times.append(_sync_block(function, case.calls, **fixed))

    try:
        if case.mode == "sync":
            rounds_of_sync()
        else:
            asyncio.run(rounds_of_async())
    finally:
        fast_router.disable()
        fast_router.configure(**dict.fromkeys(case.options, None))
        router.discard()
        # The handlers of LiteLLM's strategies outlive their Router, and would serve the next case's requests, too.
        for name, callbacks in before.items():
            getattr(litellm, name)[:] = callbacks
    return {side: min(times) for side, times in taken.items()}


def main() -> None:
    """Measure every case and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="blocks of each kind; the fastest counts")
    parser.add_argument("--only", default="", help="only cases whose strategy, size or label contains this")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    report = Report(
        "overhead",
        "The Router's CPU above a direct call, µs per request",
        ["strategy", "deployments", "case", "direct", "LiteLLM above", "fast_router above", "left", "reach", "whole"],
        [
            "left: share of LiteLLM's overhead that remains; whole: CPU of a whole request, LiteLLM's over ours.",
            "CPU of the process, fastest of several interleaved blocks; LiteLLM answers itself (mock_response).",
        ],
    )
    for case in CASES:
        if options.only and options.only not in f"{case.strategy} {case.size} {case.label}":
            continue
        rounds = max(3, options.rounds // 3) if case.mode == "gather" else options.rounds
        one = measure(case, rounds)
        above, ours = one["off"] - one["direct"], one["on"] - one["direct"]
        report.add(
            case.strategy,
            case.size,
            case.label,
            one["direct"] * 1e6,
            above * 1e6,
            ours * 1e6,
            round(ours / above, 3),
            case.reach,
            round(one["off"] / one["on"], 2),
        )
        print(f"   {case.strategy} {case.size} {case.label}: {ours / above:.0%} left", flush=True)
    report.finish()


if __name__ == "__main__":
    main()
