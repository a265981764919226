"""The Router's own share of a request on LiteLLM 1.110: its walk, and the request lane.

LiteLLM's function is replaced by a stub that answers at once; the share is what a request through the Router costs
more than the stub called directly: CPU time of the whole process. Blocks of LiteLLM's Router without us, of one with us
and of the stub take turns in one process; of each kind the median block counts.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import litellm
from litellm import Router

import fast_router
from benchmarks.report import Report

MESSAGES = [{"role": "user", "content": "Where does this go?"}]
_SHUFFLE, _BUSY = "simple-shuffle", "least-busy"
_LATENCY, _COST, _USAGE = "latency-based-routing", "cost-based-routing", "usage-based-routing-v2"
_LITELLMS = frozenset({_SHUFFLE, _BUSY, _LATENCY, _COST, _USAGE})
_LIMITS = {"rpm": 10**6, "tpm": 10**9, "max_parallel_requests": 10**4}
_PRICES = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
_ASKED: dict[str, dict[str, Any]] = {
    "acompletion": {"messages": MESSAGES},
    "completion": {"messages": MESSAGES},
    "atext_completion": {"prompt": "?"},
    "aembedding": {"input": "?"},
    "embedding": {"input": "?"},
    "aresponses": {"input": "?"},
    "aanthropic_messages": {"messages": MESSAGES, "max_tokens": 5},
    "select": {},
}
# What a Router's method calls, where that has another name.
_CALLED = {"aanthropic_messages": "anthropic_messages"}


@dataclass
class Case:
    """One line of the table.

    Attributes:
        op: The Router's method.
        strategy: The strategy of both Routers; LiteLLM's shuffles for one of ours.
        size: Deployments of the group.
        reach: Largest ratio that may be left.
        label: What is special.
        params: Further litellm_params of every deployment.
        fails: Whether every first attempt of a request fails.
        stream: Whether a stream of ten chunks is asked for, and read to its end.
    """

    op: str
    strategy: str
    size: int
    reach: float | None
    label: str = "plain"
    params: dict[str, Any] = field(default_factory=dict)
    fails: bool = False
    stream: bool = False


_REACH = {2: 0.08, 10: 0.08, 100: 0.05, 1000: 0.015}
CASES = [
    *(Case("acompletion", s, n, _REACH[n]) for s in (_SHUFFLE, _BUSY) for n in _REACH),
    *(
        Case("acompletion", s, n, 0.01 if n == 1000 else _REACH[n])
        for s in (_LATENCY, _COST, _USAGE, "power_of_two", "peak_ewma")
        for n in (2, 100, 1000)
    ),
    *(Case("acompletion", _SHUFFLE, n, 0.15, "limits", _LIMITS) for n in (2, 100, 1000)),
    *(Case("acompletion", _SHUFFLE, n, 0.15, "prices of their own", _PRICES) for n in (2, 100)),
    *(
        Case(op, _SHUFFLE, n, 0.12)
        for op in ("aembedding", "atext_completion", "aresponses", "aanthropic_messages", "completion", "embedding")
        for n in (2, 100)
    ),
    *(Case("select", _SHUFFLE, n, 0.06) for n in (2, 100, 1000)),
    Case("acompletion", _SHUFFLE, 2, 0.25, "stream", stream=True),
    Case("acompletion", _SHUFFLE, 2, 1.05, "first attempt fails", fails=True),
    Case("acompletion", _SHUFFLE, 1000, 0.15, "first attempt fails", fails=True),
]


class _Ready(litellm.CustomStreamWrapper):
    """A stream of LiteLLM's whose chunks are there at once."""

    ready: list[Any]

    async def __anext__(self) -> Any:
        if not self.ready:
            raise StopAsyncIteration
        return self.ready.pop()


def _ready(stream: Any, chunks: list[Any]) -> Any:
    stream.__class__ = _Ready
    stream.ready = chunks[::-1]
    return stream


class _Stub:
    """LiteLLM's function, which answers at once."""

    def __init__(self, litellm: Any, *, fails: bool, stream: bool) -> None:
        self._litellm = litellm
        self._fails = fails
        self._stream = litellm.acompletion if stream else None
        self._failed = False
        self._made: list[Any] = []
        self._chunks: list[Any] = []

    async def prepare(self, count: int) -> None:
        """Make the answers beforehand: LiteLLM writes into each."""
        if self._stream is not None:
            asked = {
                "model": "openai/m",
                "messages": MESSAGES,
                "stream": True,
                "mock_response": "x" * 30,
                "api_key": "k",
            }
            if not self._chunks:
                self._chunks = [chunk async for chunk in await self._stream(**asked)]
            self._made = [_ready(await self._stream(**asked), self._chunks) for _ in range(count)]
            return
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        choices = [{"message": {"content": "x"}, "finish_reason": "stop"}]
        make = self._litellm.ModelResponse
        self._made = [make(choices=choices, usage=usage) for _ in range(count * (2 if self._fails else 1))]

    def _answer(self, routed: bool) -> Any:
        if self._fails and routed and not self._failed:
            self._failed = True
            raise self._litellm.InternalServerError(message="told to fail", llm_provider="openai", model="m")
        self._failed = False
        return self._made.pop()

    async def asynchronous(self, **kwargs: Any) -> Any:
        return self._answer("model_info" in kwargs)

    def synchronous(self, **kwargs: Any) -> Any:
        return self._answer("model_info" in kwargs)


async def _block(function: Callable[..., Any], calls: int, asked: dict[str, Any]) -> float:
    gc.collect()
    gc.disable()
    try:
        began = time.process_time()
        for _ in range(calls):
            answer = function(**asked)
            if isinstance(answer, Awaitable):
                answer = await answer
            if "stream" in asked:
                async for _chunk in answer:
                    pass
                # What a stream tells at its end, it tells in the background.
                for _turn in range(5):
                    await asyncio.sleep(0)
        await asyncio.sleep(0)
        return (time.process_time() - began) / calls
    finally:
        gc.enable()


def _router(case: Case, strategy: str) -> Any:
    entries = [
        {
            "model_name": "m",
            "litellm_params": {
                "model": "openai/gpt-4o", "api_key": "k", "api_base": f"http://h{at}/v1", **case.params,
            },
            "model_info": {"id": f"{case.op}-{case.label}-{at}"},
        }
        for at in range(case.size)
    ]  # fmt: skip
    options = {"num_retries": 1, "disable_cooldowns": True} if case.fails else {"num_retries": 0}
    return Router(model_list=entries, routing_strategy=strategy, **options)


def measure(case: Case, rounds: int) -> dict[str, float]:
    """Seconds per request: of LiteLLM's Router, of ours, of the stub."""
    lists = ("callbacks", "input_callback", "success_callback", "failure_callback")
    before = {name: list(getattr(litellm, name)) for name in lists}
    stub = _Stub(litellm, fails=case.fails, stream=case.stream)
    called = _CALLED.get(case.op, case.op)
    real = getattr(litellm, called, None)
    asked = {"model": "m", **_ASKED[case.op], **({"stream": True} if case.stream else {})}
    taken: dict[str, list[float]] = {"stock": [], "ours": [], "stub": []}
    stubbed = stub.asynchronous if case.op.startswith("a") or case.op == "select" else stub.synchronous
    calls = 8 if case.size >= 1000 or case.fails else 40

    async def rounds_of() -> None:
        for round_ in range(rounds + 1):
            fast_router.disable()
            await stub.prepare(calls)
            taken["stock"].append(await _block(getattr(stock, case.op), calls, asked))
            fast_router.enable()
            # At first so many that nearly every deployment has had one: its template is made then.
            warm = case.size * 8 if round_ == 0 else 4
            many = calls if case.fails else calls * (2 if case.stream else 10)
            await stub.prepare(warm + many)
            await _block(getattr(ours, case.op), warm, asked)
            taken["ours"].append(await _block(getattr(ours, case.op), many, asked))
            await stub.prepare(many)
            taken["stub"].append(0.0 if case.op == "select" else await _block(stubbed, many, asked))

    try:
        # Every request of that case is retried: no budget shall stand in its way.
        fast_router.configure(retry_budget_per_second=1e6)
        fast_router.disable()
        stock = _router(case, case.strategy if case.strategy in _LITELLMS else _SHUFFLE)
        fast_router.enable()
        ours = _router(case, case.strategy)
        if real is not None:
            setattr(litellm, called, stubbed)
        asyncio.run(rounds_of())
        stock.retire()
        ours.retire()
    finally:
        if real is not None:
            setattr(litellm, called, real)
        for name, value in before.items():
            getattr(litellm, name)[:] = value
    return {side: statistics.median(times[1:]) for side, times in taken.items()}


def main() -> None:
    """Measure every case and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="blocks of each kind; their median counts")
    parser.add_argument("--only", default="", help="only cases whose method, strategy, size or label contains this")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if "lane" not in fast_router.status()["features"]:
        print(f"no request lane on LiteLLM {fast_router.status()['litellm']}: nothing to measure", file=sys.stderr)
        return
    report = Report(
        "lane",
        "The Router's own share of a request on LiteLLM 1.110, µs",
        ["method", "strategy", "deployments", "case", "LiteLLM", "fast_router", "left", "reach"],
        ["CPU of the process above a stub in the place of LiteLLM's function; medians of interleaved blocks."],
    )
    for case in CASES:
        if options.only not in f"{case.op} {case.strategy} {case.size} {case.label}":
            continue
        one = measure(case, max(3, options.rounds // 2) if case.size >= 1000 else options.rounds)
        stock, ours = one["stock"] - one["stub"], one["ours"] - one["stub"]
        left = round(ours / stock, 4)
        report.add(case.op, case.strategy, case.size, case.label, stock * 1e6, ours * 1e6, left, case.reach)
        print(f"   {case.op} {case.strategy} {case.size} {case.label}: {left:.2%} left", flush=True)
    report.finish(lane=fast_router.status()["lane"])


if __name__ == "__main__":
    main()
