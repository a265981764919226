"""Generated workloads: agents, tenants, chat, prompts that share nothing, and chat traffic as in published traces."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import accumulate

from fast_router.cache_world.requests import BLOCK_TOKENS, CHARACTERS, TRACE_TOKENS, Request, Workload

__all__ = ["WORKLOADS", "agents", "chat", "conversations", "mixed", "tenants", "traffic"]


class _Ids:
    """New block ids."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self, count: int) -> tuple[int, ...]:
        first = self._last
        self._last += count
        return tuple(range(first, self._last))


def _blocks(rng: random.Random, characters: float, spread: float = 0.5) -> int:
    """Blocks of a text of so many characters in the median."""
    return max(1, round(rng.lognormvariate(math.log(characters), spread) / (BLOCK_TOKENS * CHARACTERS)))


def _output(rng: random.Random, tokens: float = 150) -> int:
    return max(1, round(rng.lognormvariate(math.log(tokens), 0.6)))


def conversations(
    name: str,
    *,
    seed: int,
    rate: float,
    seconds: float,
    systems: int,
    system: int,
    turns: float,
    said: float,
    pause: float,
    cache_blocks: int,
) -> Workload:
    """Sessions that share beginnings and grow with every turn.

    Args:
        name: What to call it.
        seed: The same seed gives the same requests.
        rate: Requests per second, all sessions together.
        seconds: How long sessions begin.
        systems: Different beginnings.
        system: Characters of a beginning.
        turns: Turns per session, on average (geometric).
        said: Characters that a turn adds, in the median.
        pause: Seconds between an answer and the next turn, on average.
        cache_blocks: Blocks that a server's cache holds.
    """
    rng, ids = random.Random(f"{name} {seed}"), _Ids()
    beginnings = [ids(max(1, round(system / (BLOCK_TOKENS * CHARACTERS)))) for _ in range(systems)]
    popularity = list(accumulate(1 / (1 + place) ** 0.7 for place in range(systems)))
    requests: list[Request] = []
    begins = 0.0
    while True:
        begins += rng.expovariate(rate / turns)
        if begins >= seconds:
            break
        blocks = rng.choices(beginnings, cum_weights=popularity)[0]
        at = begins
        while True:
            blocks += ids(_blocks(rng, said))
            output = _output(rng)
            if at < seconds:
                requests.append(Request(at, blocks, len(blocks) * BLOCK_TOKENS, output))
            if rng.random() < 1 / turns:
                break
            at += 0.3 + output * 0.02 + rng.expovariate(1 / pause)
    requests.sort(key=lambda request: request.at)
    return Workload(name, requests, BLOCK_TOKENS, cache_blocks)


def agents(seed: int = 1, rate: float = 14.0, seconds: float = 300.0) -> Workload:
    """Agents: one system prompt of 24,000 characters with their tools, sessions that grow quickly."""
    return conversations(
        "agents", seed=seed, rate=rate, seconds=seconds, systems=1, system=24_000, turns=8, said=1200, pause=4,
        cache_blocks=6000,
    )  # fmt: skip


def tenants(seed: int = 1, rate: float = 40.0, seconds: float = 300.0) -> Workload:
    """40 tenants with a long prompt each and single turns."""
    return conversations(
        "tenants", seed=seed, rate=rate, seconds=seconds, systems=40, system=6000, turns=1, said=500, pause=1,
        cache_blocks=3000,
    )  # fmt: skip


def chat(seed: int = 1, rate: float = 20.0, seconds: float = 300.0) -> Workload:
    """Conversations under one short system prompt."""
    return conversations(
        "chat", seed=seed, rate=rate, seconds=seconds, systems=1, system=1000, turns=6, said=1500, pause=15,
        cache_blocks=6000,
    )  # fmt: skip


def mixed(seed: int = 1, rate: float = 10.0, seconds: float = 300.0, spread: float = 1.2) -> Workload:
    """Prompts without any sharing, of log-normal lengths: 2,000 tokens in the median."""
    rng, ids = random.Random(f"mixed {seed}"), _Ids()
    requests: list[Request] = []
    at = 0.0
    while (at := at + rng.expovariate(rate)) < seconds:
        blocks = ids(min(4000, _blocks(rng, 8000, spread)))
        requests.append(Request(at, blocks, len(blocks) * BLOCK_TOKENS, _output(rng)))
    return Workload("mixed", requests, BLOCK_TOKENS, 6000)


def traffic(seed: int = 1, rate: float = 3.4, seconds: float = 1800.0) -> Workload:
    """Chat traffic of the kind of the published traces, in their blocks: long prompts, of which a third go on.

    Prompts have 7,000 tokens in the median with a heavy tail, one block is common to all, and conversations come back
    after minutes.
    """
    rng, ids = random.Random(f"traffic {seed}"), _Ids()
    common = ids(1)
    requests: list[Request] = []
    begins = 0.0
    while (begins := begins + rng.expovariate(rate * 0.6)) < seconds:
        at, tokens, blocks = begins, 0.0, common
        while at < seconds:
            tokens += (
                min(60_000.0, rng.lognormvariate(math.log(6000), 1.0)) if not tokens else rng.expovariate(1 / 2500)
            )
            tokens = min(tokens, 120_000.0)
            blocks += ids(max(0, math.ceil(tokens / TRACE_TOKENS) - len(blocks)))
            requests.append(Request(at, blocks, int(tokens), _output(rng, 250)))
            if rng.random() < 0.6:
                break
            at += rng.expovariate(1 / 120)
    requests.sort(key=lambda request: request.at)
    return Workload("traffic", requests, TRACE_TOKENS, 3000)


WORKLOADS: dict[str, Callable[..., Workload]] = {"agents": agents, "tenants": tenants, "chat": chat, "mixed": mixed}
"""The generated workloads by name; each takes `seed`, `rate` and `seconds`."""
