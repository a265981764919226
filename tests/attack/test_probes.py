"""One deployment comes back after a rest, and one caller is the first to ask it: that caller's word is not the last."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

import fast_router
from tests.attack.doors import EVE, entries
from tests.attack.test_real_faults import broken
from tests.attack.upstreams import release
from tests.support.plugin import until


@contextlib.contextmanager
def stopped(engine):
    """Let no rest end by itself."""
    real = engine.clock
    now = real()
    engine.clock = lambda: now
    try:
        yield
    finally:
        engine.clock = real


@pytest.mark.parametrize("prompt", ["end-user-429", "answer-500", "answer-reset"])
async def test_a_probe_that_fails_for_its_caller_is_repeated_by_the_next_one(upstreams, door_to, prompt):
    door = door_to(entries(upstreams, "probed"), cooldown_time=0.2)
    ours = fast_router.advanced_router(door.router)
    b = ours.deployments["probed-b"]

    def state():
        return ours.failover.state("probed-b").value

    with broken(upstreams["b"], {"error_rate": 1.0}):
        for turn in range(60):
            assert (await door.chat("probed", by=("sk-second", "sk-third")[turn % 2])).error is None
            if state() == "open":
                break
        assert state() == "open"

    await until(lambda: ours.engine.settle() or not b.held)
    with stopped(ours.engine):
        picks = b.picks
        while b.picks == picks:
            await door.chat("probed", prompt, by=EVE, num_retries=0)
        for _ in range(60):
            assert (await door.chat("probed")).error is None
            if state() == "closed":
                break
    assert state() == "closed"


async def test_a_probe_that_fails_for_two_callers_is_enough(upstreams, door_to):
    door = door_to(entries(upstreams, "dead"), cooldown_time=0.2)
    ours = fast_router.advanced_router(door.router)
    b = ours.deployments["dead-b"]
    callers = ("sk-second", "sk-third", "sk-fourth")
    with broken(upstreams["b"], {"error_rate": 1.0}):
        for turn in range(60):
            assert (await door.chat("dead", by=callers[turn % 3])).error is None
            if ours.failover.state("dead-b").value == "open":
                break
        await until(lambda: ours.engine.settle() or not b.held)
        with stopped(ours.engine):
            picks = b.picks
            for turn in range(60):
                assert (await door.chat("dead", by=callers[turn % 3])).error is None
            assert b.held
            # Two, unless the same caller is the one that probes, which is a matter of chance.
            assert b.picks - picks <= 12


async def test_a_probe_that_a_caller_keeps_waiting_holds_up_nobody(upstreams, door_to):
    """The one call that a deployment gets after its rest never ends: the others are served, and it comes back."""
    door = door_to(entries(upstreams, "held"), cooldown_time=0.2)
    ours = fast_router.advanced_router(door.router)
    b = ours.deployments["held-b"]
    with broken(upstreams["b"], {"error_rate": 1.0}):
        for turn in range(60):
            assert (await door.chat("held", by=("sk-second", "sk-third")[turn % 2])).error is None
            if ours.failover.state("held-b").value == "open":
                break
    await until(lambda: ours.engine.settle() or not b.held)
    calls, picks = [], b.picks
    try:
        while b.picks == picks:
            calls.append(asyncio.create_task(door.chat("held", "wait-for-me", by=EVE)))
            await until(lambda: sum(d.in_flight for d in ours.deployments.values()) == len(calls))
        real = ours.engine.clock
        ahead = 0.0
        ours.engine.clock = lambda: real() + ahead
        for _ in range(200):
            answer = await door.chat("held")
            assert answer.error is None
            if answer.deployment == "held-b":
                break
            ahead += 5.0
        assert answer.deployment == "held-b"
    finally:
        ours.engine.clock = real
        release(upstreams)
    assert {answer.error for answer in await asyncio.gather(*calls)} == {None}
