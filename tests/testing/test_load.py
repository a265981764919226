"""Load that can be repeated, and what is counted of it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from fast_router.testing.load import arrivals, drive, percentile


def test_the_same_seed_gives_the_same_arrivals():
    first = arrivals(500, 100, stream_share=0.25, seed=3)
    assert first == arrivals(500, 100, stream_share=0.25, seed=3)
    assert first != arrivals(500, 100, stream_share=0.25, seed=4)
    assert first[0].due == 0
    assert all(a.due < b.due for a, b in itertools.pairwise(first))
    # 499 exponential gaps of mean 1/100 s: the sum's standard deviation is sqrt(499)/100 = 0.22 s around 4.99 s.
    assert 4.99 - 5 * 0.22 < first[-1].due < 4.99 + 5 * 0.22
    # Binomial(500, 0.25): standard deviation 9.7 around 125.
    assert 125 - 5 * 9.7 < sum(one.stream for one in first) < 125 + 5 * 9.7


async def test_arrivals_do_not_wait_for_answers():
    gate = asyncio.Event()
    here = 0

    async def call(_):
        nonlocal here
        here += 1
        if here == 5:  # only an open loop ever gets here
            gate.set()
        await gate.wait()

    outcome = await drive(call, arrivals(5, 10_000))
    assert len(outcome.latencies) == 5


async def test_streams_are_read_and_failures_counted_by_kind():
    async def words():
        yield "a"
        yield "b"

    async def broken():
        yield "a"
        raise OSError

    async def call(arrival):
        if arrival.number == 1:
            raise KeyError
        if arrival.stream:
            return broken() if arrival.number == 2 else words()
        return "whole"

    coming = list(arrivals(40, 10_000, stream_share=0.5, seed=1))
    assert coming[2].stream
    assert not coming[1].stream
    seen = []
    outcome = await drive(call, coming, seen.append)
    assert seen == list(range(1, 41))
    assert outcome.failures == {"KeyError": 1, "OSError": 1}
    assert (outcome.failed, len(outcome.latencies)) == (2, 38)
    assert len(outcome.first_tokens) == sum(one.stream for one in coming) - 1
    assert outcome.as_dict()["answered"] == 38


@pytest.mark.parametrize(("share", "value"), [(50, 5), (90, 9), (95, 10), (99, 10), (100, 10), (1, 1)])
def test_percentiles_are_values_that_occurred(share, value):
    assert percentile([10, 3, 2, 1, 4, 5, 6, 8, 7, 9], share) == value


def test_no_values_have_no_percentile():
    assert percentile([], 50) is None
