"""`rescue: threads`: synchronous calls that wait on a server that hangs are answered elsewhere as well."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import fast_router
from fast_router import settings
from fast_router.engine.failover.breaker import BreakerState
from fast_router.errors import ConfigurationError
from fast_router.litellm_plugin.layers import threads
from fast_router.litellm_plugin.rests.policy import policy_of
from fast_router.litellm_plugin.switch import switch
from tests.support.plugin import MESSAGES, core_of, entry, in_flight, router
from tests.support.waiting import until_sync

logging.getLogger("LiteLLM Router").setLevel(logging.CRITICAL)
pytestmark = pytest.mark.usefixtures("plugin")
CALLS = {
    "chat": lambda made: made.completion(model="m", messages=MESSAGES).choices[0].message.content,
    "stream": lambda made: list(made.completion(model="m", messages=MESSAGES, stream=True)),
    "embedding": lambda made: made.embedding(model="m", input=["hello"]).data,
    "responses": lambda made: made.responses(model="m", input="hello").output,
}


class World:
    """A Router over three servers, of which the first hangs, and callers in threads of their own."""

    def __init__(self, servers, call, **options):
        self.servers = servers
        self.call = call
        given = {"num_retries": 2, "timeout": 600, "routing_strategy": "least-busy", **options}
        self.made = router(*(entry(f"d{n}", server.api_base) for n, server in enumerate(servers)), **given)
        self.engine = fast_router.advanced_router(self.made).engine
        self.policy = policy_of(core_of(self.made), switch.band).policy
        self.pool = ThreadPoolExecutor(16)

    def hang(self):
        """Have one call wait on every server, then all but the first answer."""
        for server in self.servers:
            server.order(hold=True)
        under_way = [self.pool.submit(self.call, self.made) for _ in self.servers]
        until_sync(lambda: all(server.records.in_flight == 1 for server in self.servers))
        for server in self.servers[1:]:
            server.order(hold=False)
        until_sync(lambda: sum(one.done() for one in under_way) == 2)
        (waiting,) = (one for one in under_way if not one.done())
        return waiting

    def silence(self):
        """Have the first server found silent."""
        self.policy._fell_silent(self.engine.deployments["d0"], "a test")

    def over(self):
        self.servers[0].order(hold=False)
        self.pool.shutdown()
        # A thread that was left behind ends with its call, and its lease as well.
        until_sync(lambda: in_flight(self.made) == 0)
        until_sync(lambda: threads.room._value == threads.MOST)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_waits_on_a_silent_server_is_answered_elsewhere(servers, name):
    settings.configure(rescue="threads")
    world = World(servers, CALLS[name])
    waiting = world.hang()
    world.silence()
    assert waiting.result(60)
    assert world.policy.state("d0") is BreakerState.OPEN
    assert in_flight(world.made) == 1, "the call that was left behind is still with its server"
    assert servers[0].records.requests == 1
    world.over()
    assert servers[0].records.aborted == 0


def test_from_a_thread_that_runs_a_loop(servers):
    settings.configure(rescue="threads")

    async def within():
        return CALLS["chat"](world.made)

    world = World(servers, lambda _made: asyncio.run(within()))
    waiting = world.hang()
    world.silence()
    assert waiting.result(60)
    world.over()


@pytest.mark.parametrize("rescue", [True, False], ids=["on", "off"])
def test_without_threads_it_waits(servers, rescue):
    settings.configure(rescue=rescue)
    world = World(servers, CALLS["chat"])
    waiting = world.hang()
    world.silence()
    # Whoever would rescue it has been told: nobody has started anything.
    assert sum(server.records.requests for server in servers) == 3
    assert not [one for one in threading.enumerate() if one.name == "fast_router-rescue"]
    world.over()
    assert waiting.result(60)
    assert sum(server.records.requests for server in servers) == 3


def test_one_without_a_retry_left_waits(servers):
    settings.configure(rescue="threads")
    world = World(servers, CALLS["chat"], num_retries=0)
    waiting = world.hang()
    world.silence()
    world.over()
    assert waiting.result(60)
    assert sum(server.records.requests for server in servers) == 3


def test_where_there_is_no_room_for_a_thread_the_caller_makes_the_call(servers, monkeypatch):
    settings.configure(rescue="threads")
    monkeypatch.setattr(threads, "room", threading.BoundedSemaphore(1))
    assert threads.room.acquire(blocking=False)
    world = World(servers, CALLS["chat"])
    assert CALLS["chat"](world.made)
    assert not [one for one in threading.enumerate() if one.name == "fast_router-rescue"]


@pytest.mark.parametrize("name", CALLS)
def test_nothing_changes_while_all_is_well(servers, name):
    settings.configure(rescue="threads")
    world = World(servers, CALLS[name])
    for _ in range(6):
        assert CALLS[name](world.made)
    assert sum(server.records.requests for server in servers) == 6
    servers[0].order(error_rate=1.0)
    for _ in range(6):
        assert CALLS[name](world.made)
    world.over()


@pytest.mark.parametrize(
    ("given", "means"), [("threads", "threads"), ("Threads", "threads"), ("off", False), (1, True)]
)
def test_the_setting(given, means):
    settings.configure(rescue=given)
    assert settings.current().rescue == means


def test_a_setting_that_is_none():
    with pytest.raises(ConfigurationError, match="expected on, off, or threads"):
        settings.configure(rescue="sometimes")
