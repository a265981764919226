"""One pick through litellm.Router: LiteLLM's own code against ours, on the same Router, in one process.

The plugin is switched off and on between the two sides of each round (`fast_router.disable`, `enable`), so both see
the same Router, the same deployments and the same minute of the machine. Four figures of ours: the asynchronous pick
alone, the pick with its lease (what an attempt makes; LiteLLM counts calls in callbacks, which are not timed), a whole
attempt that begins, picks, leases and releases, and the synchronous pick.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common import model_list, per_await, per_call
from benchmarks.report import Report

STRATEGIES = (
    "simple-shuffle",
    "least-busy",
    "latency-based-routing",
    "cost-based-routing",
    "usage-based-routing",
    "usage-based-routing-v2",
)
SHAPES = ((1, 2), (1, 10), (1, 100), (1, 1000), (1, 10_000), (100, 10))
MESSAGES = [{"role": "user", "content": "Where does this go?"}]
_OUR_CALLS = 5000
_COLUMNS = [
    "strategy",
    "deployments",
    "LiteLLM async",
    "async",
    "with lease",
    "+ release",
    "times faster",
    "LiteLLM sync",
    "sync",
    "sync times faster",
    "fast lane",
]


@dataclass
class _Times:
    """Seconds of one pick, one entry a round."""

    litellm: list[float] = field(default_factory=list)
    litellm_sync: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    leased: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    ours_sync: list[float] = field(default_factory=list)


def _router(strategy: str, groups: int, size: int) -> Any:
    import litellm  # noqa: PLC0415 - after the environment is set

    return litellm.Router(model_list=model_list(groups, size), routing_strategy=strategy, num_retries=0)


def _calls(size: int) -> int:
    """How many of LiteLLM's picks a round: its pick grows with the group, and a round should not."""
    return {2: 200, 10: 200, 100: 60, 1000: 12, 10_000: 3}[size]


def _cases(groups: int) -> list[str]:
    # A prime step walks over all groups without a pattern that a cache could like.
    return [f"group-{number * 37 % groups}" for number in range(groups)]


def _give_history(router: Any, groups: int, size: int) -> None:
    """Let both sides know every deployment's latency: an empty history is not what a router lives with."""
    import fast_router  # noqa: PLC0415

    for group in range(groups):
        known = {f"{group}-{number}": {"latency": [0.5 + number / size] * 10} for number in range(size)}
        router.cache.set_cache(key=f"group-{group}_map", value=known)
    ours = fast_router.advanced_router(router)
    for group in range(groups):
        for _ in range(size):  # each unknown deployment is probed once
            with ours.lease(f"group-{group}"):
                pass


async def _rounds(strategy: str, groups: int, size: int, rounds: int) -> tuple[_Times, float]:
    import fast_router  # noqa: PLC0415 - installs its hook
    from fast_router.litellm_plugin.request import Attempt, Context, here  # noqa: PLC0415

    # Built under the running loop: some strategies start a background task, which then ends with the loop.
    router = _router(strategy, groups, size)
    fast_router.enable()
    if strategy == "latency-based-routing":
        _give_history(router, groups, size)
    names = _cases(groups)
    place = 0
    outside = here.get()

    def within(attempt: Attempt | None) -> Context:
        return Context(attempt, None, None, outside.aside)

    def name() -> str:
        nonlocal place
        place = (place + 1) % len(names)
        return names[place]

    def pick() -> Any:
        return router.async_get_available_deployment(model=name(), request_kwargs={}, messages=MESSAGES)

    held: list[Any] = []

    def leased() -> Any:
        # Each pick as an attempt's first: the former lease goes on, and is released after the round.
        held.append(attempt.lease)
        attempt.lease = None
        attempt.fresh = True
        return pick()

    async def whole() -> None:
        mine = Attempt(None, None)
        here.set(within(mine))
        await pick()
        mine.end(observe=False)

    synchronous = strategy != "cost-based-routing"  # LiteLLM has no synchronous one

    def pick_sync() -> Any:
        return router.get_available_deployment(model=name(), request_kwargs={}, messages=MESSAGES)

    times = _Times()
    calls = _calls(size)
    fast = total = 0
    for _ in range(rounds):
        fast_router.disable()
        await pick()
        times.litellm.append(await per_await(pick, calls))
        if synchronous:
            times.litellm_sync.append(per_call(pick_sync, calls))
        fast_router.enable()
        for _ in range(2 * len(names)):  # plans are compiled at the first pick of each group
            await pick()
        before = _fast_picks()
        times.ours.append(await per_await(pick, _OUR_CALLS))
        attempt = Attempt(None, None)
        here.set(within(attempt))
        times.leased.append(await per_await(leased, _OUR_CALLS))
        for lease in (*held, attempt.lease):
            if lease is not None:
                lease.release(cancelled=True)
        held.clear()
        times.whole.append(await per_await(whole, _OUR_CALLS))
        here.set(within(None))
        if synchronous:
            times.ours_sync.append(per_call(pick_sync, _OUR_CALLS))
        fast += _fast_picks() - before
        total += (4 if synchronous else 3) * _OUR_CALLS
    router.discard()
    return times, fast / total


def _fast_picks() -> int:
    import fast_router  # noqa: PLC0415

    count: int = fast_router.status()["picks"]["fast"]
    return count


def measure(strategy: str, groups: int, size: int, rounds: int) -> list[Any]:
    """Return one row of the report."""
    times, lane = asyncio.run(_rounds(strategy, groups, size, rounds))
    litellm, ours, leased, whole = (_micro(taken) for taken in (times.litellm, times.ours, times.leased, times.whole))
    litellm_sync, ours_sync = (_micro(taken) for taken in (times.litellm_sync, times.ours_sync))
    shown = f"{groups} × {size}" if groups > 1 else str(size)
    first = [strategy, shown, litellm, ours, leased, whole, _ratio(times.litellm, times.leased)]
    return [*first, litellm_sync, ours_sync, _ratio(times.litellm_sync, times.ours_sync), f"{lane:.0%}"]


def _micro(taken: list[float]) -> float | None:
    return statistics.median(taken) * 1e6 if taken else None


def _ratio(litellm: list[float], ours: list[float]) -> float | None:
    """Return the median over the rounds: both sides of a round saw the same minute of the machine."""
    ratios = [theirs / mine for theirs, mine in zip(litellm, ours, strict=True)]
    return statistics.median(ratios) if ratios else None


def within_a_walk() -> bool:
    """Whether this LiteLLM has no pick of its own to measure, as from 1.110 on."""
    import litellm  # noqa: PLC0415 - after the environment is set

    import fast_router  # noqa: PLC0415 - installs its hook

    fast_router.enable()
    return hasattr(litellm, "Router") and "lane" in fast_router.status()["features"]


def main() -> None:
    """Measure every strategy at every size and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--least", type=int, default=2, help="smallest group to measure")
    parser.add_argument("--most", type=int, default=10_000, help="largest group to measure")
    parser.add_argument("--strategy", action="append", choices=STRATEGIES)
    options = parser.parse_args()
    if within_a_walk():
        print("This LiteLLM picks within its core's walk; what a request costs there: python -m benchmarks lane")
        return
    for name in ("LiteLLM", "LiteLLM Router"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    report = Report(
        "pick",
        "One pick through litellm.Router, µs",
        _COLUMNS,
        [
            "CPU time; one process, the same Router for both, the plugin off and on in turns; medians.",
            "'with lease': the pick and its lease. '+ release': a whole attempt, begun, picked, leased and released.",
            "'times faster' compares LiteLLM's asynchronous pick with ours with its lease, round by round.",
            "LiteLLM has no synchronous cost-based pick.",
            "'fast lane' is the share of our picks that were answered from a compiled plan.",
        ],
    )
    for groups, size in SHAPES:
        if options.least <= size <= options.most:
            for strategy in options.strategy or STRATEGIES:
                # LiteLLM takes a second for one pick among 10,000.
                rounds = options.rounds if size < 10_000 else min(2, options.rounds)
                report.add(*measure(strategy, groups, size, rounds))
                print(f"  {strategy}, {groups} × {size}: done", flush=True)
    report.finish()


if __name__ == "__main__":
    main()
