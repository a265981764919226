"""Servers that publish over real sockets, and what is known of their caches: sizes, keys, gaps, restarts."""

from __future__ import annotations

import itertools
import threading

import httpx
import pytest

from tests.support.waiting import until_sync

pytest.importorskip("zmq")
pytest.importorskip("msgspec")

from fast_router.kv_events.server_cache import ServerCache, keys
from fast_router.kv_events.source import Endpoint
from fast_router.kv_events.subscriber import Subscriber
from fast_router.testing import Fleet, Spec, Upstream
from fast_router.testing.behaviour import Behaviour
from fast_router.testing.prompts import rendered, tokenizer
from tests.support.tokenizer import model_folder

ORDERS = {"prefill_rate": 1e7, "block_size": 16, "cache_blocks": 400, "tokens": 1}


@pytest.fixture
def client():
    with httpx.Client(timeout=20, trust_env=False) as one:
        yield one


@pytest.fixture
def subscriber():
    before = threading.active_count()
    one = Subscriber(exact=True)
    yield one
    one.close()
    assert threading.active_count() <= before


@pytest.fixture(params=["arrays", "maps"])
def upstream(request):
    with Upstream("vllm", kv_events=request.param, tokenizer=model_folder(), **ORDERS) as one:
        yield one


def follow(subscriber, upstream, *, replay=True):
    """Follow, and wait until the subscription holds: a PUB socket drops what is sent before."""
    changes = []
    events, missed = upstream.kv_events
    subscriber.follow("one", Endpoint(events, missed if replay else None), lambda change, cache: changes.append(change))
    until_sync(lambda: subscriber.sources().get("one"), told=lambda: "not followed")
    return changes


def chat(client, upstream, text, **body):
    messages = [{"role": "user", "content": text}]
    answer = client.post(upstream.api_base + "/chat/completions", json={"model": "m", "messages": messages, **body})
    return answer.raise_for_status().json()["usage"]


def keys_of(text):
    """Keys by this test's own way: the server's tokenizer and template, then the documented chain."""
    return keys(tokenizer(model_folder())(rendered({"messages": [{"role": "user", "content": text}]})), 16)


def poke(client, upstream, subscriber, cache_has):
    """Send small different prompts until what was sent before is known to have arrived."""
    numbers = itertools.count()

    def arrived():
        if cache_has(subscriber.sources()["one"]):
            return True
        chat(client, upstream, f"poke {next(numbers)} " + "word " * 40)
        return False

    until_sync(arrived, every=0.02, told=lambda: vars_of(subscriber))


def vars_of(subscriber):
    source = subscriber.sources()["one"]
    return source.state, len(source.cache), source.cache.tokens


def test_a_prompts_blocks_are_known_by_their_tokens(client, upstream, subscriber):
    text = "It depends on what was computed before. " * 40
    chat(client, upstream, text)  # before anybody follows: the replay has it
    follow(subscriber, upstream)
    wanted = keys_of(text)
    poke(client, upstream, subscriber, lambda source: all(key in source.cache for key in wanted))
    source = subscriber.sources()["one"]
    assert source.cache.size == 16
    assert source.state.replayed >= 1
    assert source.state.lost == source.state.gaps == source.state.malformed == 0
    # A prompt that shares the beginning only.
    other = keys_of(text[:800] + "Something else altogether. " * 20)
    known = [key in source.cache for key in other]
    assert known[0]
    assert not known[-1]
    assert known == sorted(known, reverse=True)


def test_what_the_server_says_it_reused_is_what_we_know(client, upstream, subscriber):
    """Closed form: cached_tokens of an answer are 16 × the blocks known before it, but for the last token's."""
    follow(subscriber, upstream)
    text = "The same beginning for each of them. " * 30
    for number in range(6):
        prompt = text + f"{number} is the number. " * (5 + number)
        expected = keys_of(prompt)
        cache = subscriber.sources()["one"].cache
        known = next((place for place, key in enumerate(expected) if key not in cache), len(expected))
        assert chat(client, upstream, prompt)["prompt_tokens_details"]["cached_tokens"] == 16 * known
        last = expected[-1]
        poke(client, upstream, subscriber, lambda source, last=last: last in source.cache)


def test_drops_are_followed_and_the_size_is_learnt(client, upstream, subscriber):
    upstream.order(cache_blocks=60)
    follow(subscriber, upstream)
    first = "The first prompt that was sent. " * 30
    chat(client, upstream, first)
    poke(client, upstream, subscriber, lambda source: keys_of(first)[0] in source.cache)
    poke(client, upstream, subscriber, lambda source: keys_of(first)[-1] not in source.cache)
    poke(client, upstream, subscriber, lambda source: keys_of(first)[0] not in source.cache)
    cache = subscriber.sources()["one"].cache
    assert cache.capacity == 60 * 16
    assert len(cache) <= 60


def test_a_gap_is_filled_by_the_replay(client, upstream, subscriber):
    changes = follow(subscriber, upstream)
    poke(client, upstream, subscriber, lambda source: source.state.batches)
    lost = "What the network lost. " * 40
    upstream.order(kv_silent=True)
    chat(client, upstream, lost)
    upstream.order(kv_silent=False)
    poke(client, upstream, subscriber, lambda source: all(key in source.cache for key in keys_of(lost)))
    state = subscriber.sources()["one"].state
    assert state.gaps == 1
    assert state.lost == 0
    assert not any(change.cleared or change.unsure for change in changes)


def test_a_gap_without_a_replay_makes_what_was_known_unsure(client, upstream, subscriber):
    changes = follow(subscriber, upstream, replay=False)
    before = "What was known before. " * 40
    poke(client, upstream, subscriber, lambda source: source.state.batches)
    chat(client, upstream, before)
    poke(client, upstream, subscriber, lambda source: keys_of(before)[-1] in source.cache)
    upstream.order(kv_silent=True)
    chat(client, upstream, "What the network lost. " * 40)
    upstream.order(kv_silent=False)
    poke(client, upstream, subscriber, lambda source: any(change.unsure for change in changes))
    assert subscriber.sources()["one"].state.gaps == 1
    assert subscriber.sources()["one"].cache.unsure
    assert keys_of(before)[-1] not in subscriber.sources()["one"].cache


def test_a_restart_is_seen_and_what_came_before_is_forgotten(client, upstream, subscriber):
    changes = follow(subscriber, upstream)
    before = "What was known before. " * 40
    chat(client, upstream, before)
    poke(client, upstream, subscriber, lambda source: keys_of(before)[-1] in source.cache)
    upstream.restart()
    client.get(upstream.url + "/health")
    poke(client, upstream, subscriber, lambda source: source.state.restarts)
    source = subscriber.sources()["one"]
    assert source.state.restarts == 1
    assert keys_of(before)[-1] not in source.cache
    assert sum(change.cleared for change in changes) == 1
    after = "What came after. " * 40
    chat(client, upstream, after)
    poke(client, upstream, subscriber, lambda source: keys_of(after)[-1] in source.cache)


def test_an_emptied_cache_is_seen(client, upstream, subscriber):
    follow(subscriber, upstream)
    text = "What was known before. " * 40
    chat(client, upstream, text)
    poke(client, upstream, subscriber, lambda source: keys_of(text)[-1] in source.cache)
    client.post(upstream.url + "/reset_prefix_cache").raise_for_status()
    until_sync(lambda: keys_of(text)[0] not in subscriber.sources()["one"].cache, told=lambda: vars_of(subscriber))


def test_salted_prompts_are_counted_and_never_matched(client, upstream, subscriber):
    follow(subscriber, upstream)
    poke(client, upstream, subscriber, lambda source: source.state.batches)
    salted = "What only one tenant may reuse. " * 40
    chat(client, upstream, salted, cache_salt="tenant-1")
    poke(client, upstream, subscriber, lambda source: len(source.cache) >= len(keys_of(salted)))
    assert keys_of(salted)[0] not in subscriber.sources()["one"].cache
    assert chat(client, upstream, salted)["prompt_tokens_details"]["cached_tokens"] == 0  # the server agrees


def test_many_servers_in_a_process_of_their_own(client, subscriber):
    specs = [
        Spec("vllm", name=f"gpu-{n}", behaviour=Behaviour(**ORDERS), kv_events="maps", tokenizer=model_folder())
        for n in range(3)
    ]
    with Fleet(specs, subprocess=True) as fleet:
        for name, server in fleet.items():
            subscriber.follow(name, Endpoint(*server.kv_events), lambda change, cache: None)
        texts = {name: f"Only {name} computes this. " * 30 for name in fleet}
        for name, text in texts.items():
            chat(client, fleet[name], text)

        def each_knows_its_own():
            for name in fleet:
                chat(client, fleet[name], "poke " * 60)
            caches = {name: source.cache for name, source in subscriber.sources().items()}
            return all(keys_of(text)[-1] in caches[name] for name, text in texts.items())

        until_sync(each_knows_its_own, told=subscriber.sources)
        caches = {name: source.cache for name, source in subscriber.sources().items()}
        assert keys_of(texts["gpu-0"])[-1] not in caches["gpu-1"]
        subscriber.leave("gpu-0")
        until_sync(lambda: "gpu-0" not in subscriber.sources(), told=lambda: "still there")


def test_garbage_on_the_socket_is_counted_and_passed_over(subscriber):
    import zmq

    context = zmq.Context()
    pub = context.socket(zmq.XPUB)
    pub.setsockopt(zmq.LINGER, 0)
    pub.bind("tcp://127.0.0.1:*")
    subscriber.follow("one", Endpoint(pub.getsockopt_string(zmq.LAST_ENDPOINT)), lambda change, cache: None)
    assert pub.poll(10_000)
    pub.recv()  # the subscription has arrived
    pub.send_multipart([b"", b"short", b""])
    pub.send_multipart([b"", (0).to_bytes(8, "big"), b"\xc1"])
    pub.send_multipart([b"only one"])
    until_sync(lambda: subscriber.sources()["one"].state.malformed == 3, told=lambda: vars_of(subscriber))
    pub.close()
    context.term()


def test_a_block_that_two_ranks_hold_is_there_until_both_dropped_it():
    from fast_router.kv_events.messages import Batch, Removed, Stored

    cache = ServerCache(exact=True)
    (key,) = keys([1, 2], 2)
    stored = Stored([7], None, [1, 2], 2, plain=True)
    assert cache.apply([Batch([stored], 0), Batch([stored], 1)]).appeared == [key]
    assert cache.apply([Batch([Removed([7])], 0)]).gone == []
    assert key in cache
    assert cache.apply([Batch([Removed([7])], 1)]).gone == [key]
    assert key not in cache
    # Left and came back within one reading: it is there.
    cache.apply([Batch([stored], 0)])
    change = cache.apply([Batch([Removed([7]), stored], 0)])
    assert (change.appeared, change.gone) == ([key], [])
