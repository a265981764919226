"""What processes tell each other of calls: as it travels, over a real Redis, and from strangers."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from fast_router.cluster.shared_state import calls
from fast_router.cluster.shared_state.calls import Calls, pack, unpack
from fast_router.cluster.shared_state.calls_exchange import BYTES_PER_SECOND, CallsExchange
from fast_router.cluster.shared_state.engine_port import EnginePort
from fast_router.cluster.shared_state.message import PROTOCOL, Message, decode, encode, short_id
from fast_router.engine.prefix_cache.event import Event, What
from fast_router.engine.prefix_cache.prompt import Prompt
from fast_router.router import AdvancedRouter
from tests.cluster.shared import entries, member
from tests.support.waiting import until_sync

CHANCE = random.Random(3)


def text(length):
    return "".join(CHANCE.choices("abcdef ", k=length))


PROMPTS = [Prompt("x" * length, length * ratio) for length in (100, 256, 5000, 60_000) for ratio in (0, 0.25, 2)]
events = st.lists(
    st.builds(
        Event,
        st.sampled_from(What),
        st.sampled_from(["d0", "a-deployment-with-a-very-long-id-" * 3]),
        st.integers(0, 2**32 - 1),
        st.floats(91, 100),
        st.integers(0, 100_000),
        st.booleans(),
        st.sampled_from([None, *PROMPTS]),
    ),
    max_size=10,
)


@given(events)
def test_what_is_told_arrives(told):
    packed = pack(deque(told), 100.0, short_id)
    message = decode(encode(Message("calls", "me", 1, calls=packed)))
    assert message is not None
    heard = list(unpack(message.calls, 200.0))
    assert len(heard) == len(told)
    for one, other in zip(told, heard, strict=True):
        assert (other.what, other.server, other.number) == (one.what, short_id(one.server), one.number)
        assert other.at == pytest.approx(one.at + 100.0, abs=0.001)
        if one.what is What.SENT:
            assert (other.tokens, other.stream) == (one.tokens, one.stream)
            if one.prompt is None or not one.prompt.hashes:
                assert other.prompt is None
            else:
                assert (other.prompt.hashes, other.prompt.length) == (one.prompt.hashes, one.prompt.length)
                assert other.prompt.ends == one.prompt.ends
                assert other.prompt.counted == one.prompt.counted


@given(st.binary(max_size=300), st.lists(st.text(max_size=5), max_size=3))
def test_bytes_of_strangers_never_raise_and_give_no_wild_numbers(data, servers):
    for event in unpack(Calls(servers, base64.b64encode(data).decode()), 100.0):
        assert 0 <= event.tokens <= 4_000_000
        assert 90 <= event.at <= 100
        assert event.server in servers
    assert list(unpack(Calls(servers, data.decode("latin-1")), 100.0)) is not None


def test_message_is_bounded_and_the_rest_comes_next():
    prompt = Prompt(text(100_000))
    outbox = deque(Event(What.SENT, "d0", n, 1.0, 25_000, True, prompt) for n in range(2000))
    sizes = []
    heard = 0
    while outbox:
        packed = pack(outbox, 1.0, str)
        sizes.append(len(packed.data))
        heard += len(list(unpack(packed, 1.0)))
    assert max(sizes) < 1.4 * (calls.LARGEST + 4000)
    assert heard == 2000


def test_what_is_older_than_ten_seconds_is_not_told():
    outbox = deque([Event(What.SPOKE, "d0", 1, 5.0), Event(What.SPOKE, "d0", 2, 95.0)])
    assert [event.number for event in unpack(pack(outbox, 100.0, str), 100.0)] == [2]


def test_process_tells_so_many_bytes_per_second_and_nothing_to_nobody():
    router = AdvancedRouter("cache_aware", model_list=entries(1))
    exchange = CallsExchange(EnginePort(router.engine), 0.1)
    router.group("m")
    prompt = Prompt(text(100_000))
    now, said = 1000.0, 0
    for _ in range(100):
        for number in range(1000):
            exchange.outbox.append(Event(What.SENT, "d0", number, router.engine.clock(), 25_000, True, prompt))
        told = exchange.collect(now, alone=False)
        said += 0 if told is None else len(told.data)
        now += 0.1
    assert len(exchange.outbox) <= calls.MOST
    assert said < 11 * BYTES_PER_SECOND + 2 * calls.LARGEST
    assert exchange.collect(now, alone=True) is None
    assert not exchange.outbox


def test_numbers_of_a_prompt_are_the_same_in_every_process():
    code = (
        "from fast_router.engine.prefix_cache.prompt import Prompt;"
        "print(Prompt('hello äöü 🙂 ' * 500, 900, 'cache_salt=x').hashes)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{Prompt('hello äöü 🙂 ' * 500, 900, 'cache_salt=x').hashes}\n"}


# -- over a real Redis ------------------------------------------------------------------------------


def pair(url, **settings):
    return member(url, 4, "cache_aware", interval=0.02, **settings)


@pytest.mark.services
def test_two_workers_share_beginnings_and_queues(redis_url):
    with pair(redis_url) as (one, state), pair(redis_url) as (two, other):
        one.group("m"), two.group("m")
        assert until_sync(lambda: state.status()["instances"] and other.status()["instances"])
        works = [d.work for r in (one, two) for d in r.deployments.values()]
        assert until_sync(lambda: all(work.outbox is not None for work in works))
        prompt = text(24_000)
        first = one.acquire("m", key=prompt, tokens=6000, stream=True)
        there = two.deployments[first.id].work
        assert until_sync(lambda: len(there.mirror) > 0)
        assert there.backlog.tokens == 6000
        first.first_token()
        assert until_sync(lambda: there.backlog.tokens == 0)
        first.release()
        again = two.acquire("m", key=prompt + text(2000), tokens=6500, stream=True)
        assert again.id == first.id
        # A process that is no more leaves no queue behind.
        mirrored = one.deployments[again.id].work
        assert until_sync(lambda: mirrored.backlog.tokens == 6500)
        other.close()
        assert until_sync(lambda: mirrored.backlog.tokens == 0)
        assert two.deployments[again.id].work.outbox is None


@pytest.mark.services
def test_messages_of_strangers_change_nothing(redis_url):
    with pair(redis_url) as (one, state), pair(redis_url) as (two, _):
        one.group("m"), two.group("m")
        assert until_sync(lambda: all(d.work.outbox is not None for r in (one, two) for d in r.deployments.values()))
        client = Redis.from_url(redis_url)
        channel = state.exchange.channel
        whole = pack(deque([Event(What.SENT, "d0", 1, 1.0, 5000, True, Prompt(text(20_000)))]), 1.0, str)
        head = {"p": PROTOCOL, "k": "calls", "i": "stranger", "n": 1}
        for servers, data in (
            (["d0"], whole.data[:37]),
            (["d0"], "???"),
            (["nowhere"], whole.data),
            ([], whole.data),
            ("d0", whole.data),
            ([7], whole.data),
            (["d0"], 12),
            (None, None),
            (["d0"], base64.b64encode(b"\xff" * 40).decode()),
        ):
            client.publish(channel, json.dumps({**head, "s": servers, "c": data}))
        client.publish(channel, b"\xff\xfe not json")
        client.publish(channel, json.dumps({**head, "s": whole.servers, "c": whole.data}))
        work = one.deployments["d0"].work
        assert until_sync(lambda: work.backlog.tokens == 5000), "what is whole counts, after all that is not"
        assert all(len(d.work.mirror) == 0 for d in one.deployments.values() if d.id != "d0")
        assert state.connected
        one.acquire("m", key=text(1000), stream=True).release()
