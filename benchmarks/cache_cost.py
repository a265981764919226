"""What cache_aware costs per request: hashing the prompt, and a pick where every server holds it.

Fleets take turns within each round, so that what else the machine does meets all of them; figures are medians over the
rounds, and the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from statistics import median

from benchmarks.report import Report
from fast_router import AdvancedRouter
from fast_router.engine import Ask
from fast_router.engine.prefix_cache.prompt import Prompt

LENGTHS = (2_000, 24_000, 100_000)
FLEETS = (8, 64, 1000)
# µs per hashed prompt, and times the pick at 8 servers: what is asked for.
REACH = {24_000: 20.0, 100_000: 80.0}


def per_call(function: Callable[[], object], calls: int) -> float:
    """Seconds of this thread per call, whatever else the machine does."""
    began = time.thread_time()
    for _ in range(calls):
        function()
    return (time.thread_time() - began) / calls


def text(length: int) -> str:
    """Words that do not repeat."""
    chance = random.Random(length)
    return "".join(chance.choices("abcdefghij ", k=length))


class Fleet:
    """A router whose servers all hold one prompt.

    Args:
        size: Servers.
        prompt: The text.
    """

    def __init__(self, size: int, prompt: str) -> None:
        self.router = AdvancedRouter(
            "cache_aware", model_list=[{"model_name": "m", "id": f"d{number}"} for number in range(size)]
        )
        self.group = self.router.group("m")
        self.ask = Ask((), 0, True, None, None, None, Prompt(prompt))
        for deployment in self.group.members:
            lease = self.router.engine.acquire_deployment(deployment, self.ask)
            lease.first_token()
            lease.release(completion_tokens=1)

    def pick(self) -> None:
        """The pick alone."""
        self.router.engine.peek(self.group, self.ask)

    def call(self) -> None:
        """A whole call: picked, answered, released."""
        lease = self.router.engine.acquire(self.group, self.ask)
        assert lease is not None
        lease.first_token()
        lease.release(completion_tokens=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=41)
    arguments = parser.parse_args()
    report = Report(
        "cache_cost",
        "cache_aware: µs per request",
        ["what", "µs", "least µs", "× 8 servers", "reach"],
        ["least: of all rounds, what remains when the machine does nothing else."],
    )
    prompts = {length: text(length) for length in LENGTHS}
    taken: dict[int, list[float]] = {length: [] for length in LENGTHS}
    for _ in range(arguments.rounds):
        for length, prompt in prompts.items():
            taken[length].append(1e6 * per_call(lambda prompt=prompt: Prompt(prompt), 200))
    for length, times in taken.items():
        reach = f"≤ {REACH[length]:g} µs" if length in REACH else ""
        report.add(f"hashing {length:,} characters", median(times), min(times), None, reach)
    fleets = {size: Fleet(size, prompts[24_000]) for size in FLEETS}
    for what in ("pick", "call"):
        figures: dict[int, list[float]] = {size: [] for size in FLEETS}
        for _ in range(arguments.rounds):
            for size, fleet in fleets.items():
                figures[size].append(1e6 * per_call(getattr(fleet, what), 200))
        for size, times in figures.items():
            ratio = median(one / eight for one, eight in zip(times, figures[FLEETS[0]], strict=True))
            title = "a pick" if what == "pick" else "pick, first token and release"
            reach = "≤ 1.5" if what == "pick" and size == FLEETS[-1] else ""
            report.add(f"{title}, {size:,} servers that all hold it", median(times), min(times), ratio, reach)
    report.finish()


if __name__ == "__main__":
    main()
