"""Repeatable load: the same seed gives the same arrivals, whoever answers them.

Arrivals are open-loop: a request comes when it is due, however long the earlier ones take, and its latency
counts from when it was due. A load that waits for answers would send less to a slow router and flatter it.
"""

from __future__ import annotations

import asyncio
import collections
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["Arrival", "Outcome", "arrivals", "drive", "percentile"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request to come.

    Attributes:
        number: Its position, from 0.
        due: Seconds after the start.
        stream: Whether it asks for a stream.
    """

    number: int
    due: float
    stream: bool


@dataclass(slots=True)
class Outcome:
    """What came of a load. All times are seconds.

    Attributes:
        latencies: From due to the last byte, of every request that was answered.
        first_tokens: From due to the first token, of every answered stream.
        failures: Requests that the caller saw fail, by the error's type.
        late: From due to the moment at which this process got to it, of every request.
        elapsed: From the first arrival to the last answer.
    """

    latencies: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    failures: collections.Counter[str] = field(default_factory=collections.Counter)
    late: list[float] = field(default_factory=list)
    elapsed: float = 0.0

    @property
    def failed(self) -> int:
        """Number of failed requests."""
        return sum(self.failures.values())

    def add(self, other: Outcome) -> None:
        """Take what came of another load into this one."""
        self.latencies += other.latencies
        self.first_tokens += other.first_tokens
        self.failures += other.failures
        self.late += other.late
        self.elapsed += other.elapsed

    def as_dict(self) -> dict[str, Any]:
        """Return counts and percentiles as plain data."""
        return {
            "answered": len(self.latencies),
            "failed": self.failed,
            "failures": dict(self.failures),
            "latency": {f"p{share}": percentile(self.latencies, share) for share in (50, 95, 99)},
            "first_token": {f"p{share}": percentile(self.first_tokens, share) for share in (50, 95, 99)},
            "late": {f"p{share}": percentile(self.late, share) for share in (50, 95, 99)},
            "elapsed": self.elapsed,
        }


def arrivals(count: int, rate: float, *, stream_share: float = 0.0, seed: int = 0) -> list[Arrival]:
    """Return `count` arrivals at `rate` a second on average, exponentially spaced (a Poisson process).

    Args:
        count: How many.
        rate: Requests a second.
        stream_share: Share that asks for a stream.
        seed: The same seed gives the same list.
    """
    rng = random.Random(seed)
    due = 0.0
    coming = []
    for number in range(count):
        coming.append(Arrival(number, due, rng.random() < stream_share))
        due += rng.expovariate(rate)
    return coming


async def drive(
    call: Callable[[Arrival], Awaitable[Any]],
    coming: Sequence[Arrival],
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Send the arrivals and wait for the last answer.

    Args:
        call: Makes one request; returns the whole answer, or an async iterator if the arrival asks for a stream.
        coming: From `arrivals`.
        progress: Called with the number of requests that are over.
    """
    outcome = Outcome()
    over = 0
    start = time.perf_counter()

    async def one(arrival: Arrival) -> None:
        nonlocal over
        due = start + arrival.due
        outcome.late.append(time.perf_counter() - due)
        try:
            answer = await call(arrival)
            if arrival.stream:
                first = None
                async for _ in answer:
                    if first is None:
                        first = time.perf_counter()
                if first is not None:
                    outcome.first_tokens.append(first - due)
        except Exception as error:  # noqa: BLE001 - a failed request is a result here
            outcome.failures[type(error).__name__] += 1
        else:
            outcome.latencies.append(time.perf_counter() - due)
        over += 1
        if progress is not None:
            progress(over)

    running = set()
    for arrival in coming:
        pause = start + arrival.due - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        task = asyncio.create_task(one(arrival))
        running.add(task)
        task.add_done_callback(running.discard)
    while running:
        await asyncio.wait(running)
    outcome.elapsed = time.perf_counter() - start
    return outcome


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that `share` percent of the values do not exceed; None if there are none."""
    if not values:
        return None
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 100)
    return ordered[max(0, int(rank) - 1)]
