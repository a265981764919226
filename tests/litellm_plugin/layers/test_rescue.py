"""A server that hangs: whoever waits on it is asked elsewhere as well, and long calls elsewhere are left alone."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

import fast_router
from fast_router import settings
from fast_router.engine.failover.breaker import BreakerState
from fast_router.engine.failover.failures import FailureKind
from fast_router.litellm_plugin.rests.policy import policy_of
from fast_router.litellm_plugin.switch import switch
from fast_router.testing import Fleet, Spec
from tests.support.plugin import MESSAGES, core_of, discard, entry, in_flight, router, until

logging.getLogger("LiteLLM Router").setLevel(logging.CRITICAL)
CALM = {"error_rate": 0.0, "hold": False, "script": (), "latency": 0.0}
NAMES = "pqr"


@pytest.fixture(scope="module")
def fleet():
    with Fleet([Spec(name=name) for name in NAMES]) as running:
        yield running


@pytest.fixture(autouse=True)
def plugin(fleet):
    assert fast_router.enable()
    for name in NAMES:
        fleet[name].order(**CALM)
        fleet[name].reset()
    errors = fast_router.status()["errors"]["count"]
    yield
    for name in NAMES:
        fleet[name].order(**CALM)
    settings.reset()
    discard()
    assert fast_router.status()["errors"]["count"] == errors, fast_router.status()["errors"]


class World:
    """A Router over three servers whose clock goes on as the tests say: real answers take no time."""

    def __init__(self, fleet, **options):
        self.fleet = fleet
        given = {"num_retries": 2, "timeout": 600, "routing_strategy": "least-busy", "cooldown_time": 30, **options}
        self.made = router(*(entry(name, fleet[name].api_base) for name in NAMES), **given)
        self.engine = fast_router.advanced_router(self.made).engine
        self.now = self.engine.clock()
        self.engine.clock = lambda: self.now
        self.waiting = []

    @property
    def policy(self):
        return policy_of(core_of(self.made), switch.band).policy

    def state(self, name="p"):
        return self.policy.state(name)

    async def chat(self, **request):
        answer = await self.made.acompletion(model="m", messages=MESSAGES, **request)
        return [chunk async for chunk in answer] if request.get("stream") else answer.choices

    async def known(self):
        for _ in range(24):
            await self.chat()
        for name in NAMES:
            self.fleet[name].reset()
        return self

    async def hang(self, calls=2, make=None, *, on="p", **request):
        """Have a server hang, and so many calls wait on it."""
        for name in NAMES:
            self.fleet[name].order(hold=True)
        # The fewest in flight go first: every server gets as many.
        under_way = [asyncio.ensure_future((make or self.chat)(**request)) for _ in range(calls * len(NAMES))]
        await until(lambda: all(self.fleet[name].records.in_flight == calls for name in NAMES), 60)
        for name in NAMES:
            self.fleet[name].order(hold=name == on)
        await until(lambda: sum(not task.done() for task in under_way) == calls, 60)
        self.waiting = [task for task in under_way if not task.done()]
        return list(self.waiting)

    async def probe(self):
        """Have one call probe the server that hangs."""
        deployment = self.engine.deployments["p"]
        # LiteLLM's own cooldown goes by the real clock.
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline, (self.state(), deployment.held, self.policy.describe("p"))
            self.now += 1.0  # a rest that came twice is longer
            task = asyncio.ensure_future(self.chat())
            await until(lambda task=task: task.done() or deployment.in_flight > 0)
            if not task.done():
                self.waiting = [task]
                return [task]

    async def others_answer(self, seconds):
        """Let time pass in which the others answer, twice a second."""
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            await self.chat()

    async def late(self):
        """Let nearly as much time pass as silence lasts."""
        await self.others_answer(4)
        for name in NAMES:
            self.fleet[name].reset()

    async def silence(self):
        """Have the silence of a server noticed by nobody's answer."""
        deployment = self.engine.deployments["p"]
        self.policy._fell_silent(deployment, "a test")

    def counts(self):
        return {name: self.fleet[name].records.requests for name in NAMES}

    async def over(self):
        for name in NAMES:
            self.fleet[name].order(hold=False)
        await asyncio.gather(*self.waiting, return_exceptions=True)
        assert in_flight(self.made) == 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_those_that_wait_on_a_silent_server_are_answered_elsewhere(fleet, stream):
    world = await World(fleet).known()
    waiting = await world.hang(3, stream=stream)
    await world.others_answer(4)
    assert not any(task.done() for task in waiting)
    await world.others_answer(3)
    assert all(await asyncio.wait_for(asyncio.gather(*waiting), 60))
    assert world.state() is BreakerState.OPEN
    # The losers are cancelled, and count as timeouts of their server.
    await until(lambda: fleet["p"].records.in_flight == 0)
    assert world.policy.breaker(world.engine.deployments["p"]).last_failure is FailureKind.TIMEOUT
    await world.over()


async def test_a_control_without_rescue(fleet):
    settings.configure(rescue=False)
    world = await World(fleet).known()
    waiting = await world.hang()
    await world.others_answer(8)
    assert world.state() is BreakerState.OPEN
    assert not any(task.done() for task in waiting)
    await world.over()


@pytest.mark.parametrize("where", ["request", "router"])
async def test_who_is_not_retried_is_not_rescued(fleet, where):
    world = await World(fleet, **({"num_retries": 0} if where == "router" else {})).known()
    waiting = await world.hang(**({"num_retries": 0} if where == "request" else {}))
    await world.others_answer(8)
    assert world.state() is BreakerState.OPEN
    assert not any(task.done() for task in waiting)
    await world.over()


@pytest.mark.parametrize("kept", [{"store": True}, {"background": True}, {}], ids=str)
async def test_responses_that_the_provider_keeps_are_asked_once(fleet, kept):
    world = await World(fleet).known()

    async def respond(**request):
        return await world.made.aresponses(model="m", input="hello", **request)

    waiting = await world.hang(make=respond, **kept)
    await world.others_answer(8)
    if kept:
        assert world.state() is BreakerState.OPEN
        assert not any(task.done() for task in waiting)
    else:
        assert await asyncio.wait_for(asyncio.gather(*waiting), 60)
    await world.over()


async def test_embeddings_are_rescued(fleet):
    world = await World(fleet).known()

    async def embed(**request):
        return await world.made.aembedding(model="m", input=["x"], **request)

    waiting = await world.hang(make=embed)
    await world.others_answer(8)
    assert await asyncio.wait_for(asyncio.gather(*waiting), 60)
    await world.over()


async def test_rescues_come_out_of_the_retry_budget(fleet):
    settings.configure(retry_budget_ratio=0.0, retry_budget_per_second=0.1)
    world = await World(fleet).known()
    waiting = await world.hang(3)
    await world.others_answer(7)
    await until(lambda: any(task.done() for task in waiting))
    assert sum(task.done() for task in waiting) == 1
    await world.over()


async def test_a_call_of_a_minute_on_a_healthy_server_is_never_doubled(fleet):
    world = await World(fleet).known()
    waiting = await world.hang(1)
    before = world.counts()
    await world.others_answer(60)
    assert not waiting[0].done()
    assert world.state() is BreakerState.CLOSED
    after = world.counts()
    assert sum(after.values()) - sum(before.values()) == 120
    await world.over()
    assert waiting[0].result()


async def test_a_silent_probe_is_rescued_too_and_has_failed(fleet):
    world = await World(fleet, cooldown_time=10).known()
    waiting = await world.hang(2)
    await world.others_answer(7)
    await asyncio.wait_for(asyncio.gather(*waiting), 60)
    world.now += 30
    (probe,) = await world.probe()
    assert world.state() is BreakerState.HALF_OPEN
    await world.others_answer(7)
    assert await asyncio.wait_for(probe, 60)
    assert world.state() is BreakerState.OPEN
    await world.over()


async def test_a_caller_that_goes_away_takes_both_attempts_along(fleet):
    world = await World(fleet).known()
    waiting = await world.hang(2)
    await world.late()
    for name in "qr":
        fleet[name].order(hold=True)
    await world.silence()
    await until(lambda: fleet["q"].records.in_flight + fleet["r"].records.in_flight == 2)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert all(task.cancelled() for task in waiting)
    await until(lambda: sum(fleet[name].records.in_flight for name in NAMES) == 0)
    assert in_flight(world.made) == 0


async def test_where_the_second_attempt_fails_the_first_goes_on(fleet):
    world = await World(fleet).known()
    waiting = await world.hang(2)
    await world.late()
    for name in "qr":
        fleet[name].order(error_rate=1.0)
    await world.silence()
    await until(lambda: fleet["q"].records.requests + fleet["r"].records.requests >= 2)
    for name in "qr":
        fleet[name].order(error_rate=0.0)
    assert not any(task.done() for task in waiting)
    await world.over()
    assert all(task.result() for task in waiting)
