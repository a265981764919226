"""cache_aware corrected by the servers' own events: real servers, real sockets, a real tokenizer."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from tests.support.waiting import until_sync

pytest.importorskip("zmq")
pytest.importorskip("msgspec")

from fast_router import AdvancedRouter
from fast_router.errors import ConfigurationError
from fast_router.kv_events import follow
from fast_router.testing import Fleet, Spec
from fast_router.testing.behaviour import Behaviour
from tests.support.tokenizer import model_folder

ORDERS = Behaviour(prefill_rate=1e7, block_size=16, cache_blocks=2000, tokens=1)
MODEL = "m"


@pytest.fixture
def fleet():
    specs = [
        Spec("vllm", name=f"gpu-{n}", behaviour=ORDERS, kv_events="maps", tokenizer=model_folder()) for n in range(3)
    ]
    with Fleet(specs) as one:
        yield one


def router_of(fleet, **more):
    return AdvancedRouter(
        "cache_aware",
        model_list=[
            {
                "model_name": MODEL,
                "litellm_params": {"model": "hosted_vllm/m", "api_base": server.api_base},
                "model_info": {
                    "id": name,
                    "fast_router": {"kv_events": server.kv_events[0], "kv_replay": server.kv_events[1], **more},
                },
            }
            for name, server in fleet.items()
        ],
    )


def work_of(router, name):
    return router.deployments[name].work


def followed(router, fleet):
    """Wait until each server is followed: a first event has come through."""
    with httpx.Client(trust_env=False) as client:

        def all_heard():
            for name, server in fleet.items():
                body = {"model": "m", "prompt": f"{time.monotonic()} {name} " * 20, "max_tokens": 1}
                client.post(server.api_base + "/completions", json=body).raise_for_status()
            states = [follow.state(work_of(router, name)) for name in fleet]
            return all(state and state["batches"] for state in states)

        until_sync(all_heard)


def complete(client, router, fleet, text):
    """One completion through a lease, as a program would send it; returns where it went and what was cached there."""
    lease = router.acquire(MODEL, key=text, stream=False)
    body = {"model": "m", "prompt": text, "max_tokens": 1}
    usage = client.post(fleet[lease.id].api_base + "/completions", json=body).json()["usage"]
    lease.release()
    return lease.id, usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]


@pytest.fixture
def client():
    with httpx.Client(timeout=20, trust_env=False) as one:
        yield one


TEXT = "Whoever had this beginning before need not compute it again. " * 40


def expected(router, name, text):
    from fast_router.engine.prefix_cache.prompt import Prompt

    prompt = Prompt(text)
    work = work_of(router, name)
    return work.expected(prompt, router.engine.clock(), 0)[1], len(prompt.hashes)


def test_what_another_router_sent_is_known_by_its_tokens(fleet, client):
    """Nobody told us of the text: the server's events and a tokenizer do."""
    router = router_of(fleet, tokenizer=model_folder())
    followed(router, fleet)
    # Our own prompt ties the text to its tokens; it went to `here`, and another router's copy of it to `there`.
    here, cached, _ = complete(client, router, fleet, TEXT)
    assert cached == 0
    there = next(name for name in fleet if name != here)
    until_sync(lambda: expected(router, here, TEXT)[0] == expected(router, here, TEXT)[1])
    assert expected(router, there, TEXT)[0] == 0
    client.post(fleet[there].api_base + "/completions", json={"model": "m", "prompt": TEXT, "max_tokens": 1})
    until_sync(lambda: expected(router, there, TEXT)[0] == expected(router, there, TEXT)[1])


def test_what_a_server_dropped_is_no_longer_expected_there(fleet, client):
    router = router_of(fleet, tokenizer=model_folder())
    followed(router, fleet)
    here, _, _ = complete(client, router, fleet, TEXT)
    until_sync(lambda: expected(router, here, TEXT)[0])
    fleet[here].order(cache_blocks=30)  # the rest of it goes
    # A few uses later nothing of it can be on its way any more.
    for number in range(4):
        lease = router.acquire(MODEL, key=f"{number} something short", exclude=[n for n in fleet if n != here])
        lease.release()
    followed(router, fleet)
    until_sync(lambda: follow.state(work_of(router, here))["blocks"] <= 30)  # all of it has been heard
    until_sync(lambda: expected(router, here, TEXT)[0] < expected(router, here, TEXT)[1])
    # What it says then is what we expect, to a block of either.
    found, _ = expected(router, here, TEXT)
    from fast_router.engine.prefix_cache.prompt import Prompt

    ends = Prompt(TEXT).ends
    usage = client.post(fleet[here].api_base + "/completions", json={"model": "m", "prompt": TEXT, "max_tokens": 1})
    usage = usage.json()["usage"]
    share = usage["prompt_tokens_details"]["cached_tokens"] / usage["prompt_tokens"]
    known = ends[found - 1] / len(TEXT) if found else 0.0
    block = 16 / usage["prompt_tokens"]  # what begins within a block of theirs ends within one of ours
    assert known <= share + block + 0.01
    assert share - known <= 256 / len(TEXT) + block + 0.01


def test_without_a_tokenizer_a_restart_is_noticed_and_the_size_learnt(fleet, client):
    router = router_of(fleet)
    followed(router, fleet)
    here, _, _ = complete(client, router, fleet, TEXT)
    assert expected(router, here, TEXT)[0]
    fleet[here].restart()
    followed(router, fleet)

    def asked():
        client.post(fleet[here].api_base + "/completions", json={"prompt": f"{time.monotonic()} " * 40})
        return expected(router, here, TEXT)[0]

    until_sync(lambda: asked() == 0)
    fleet[here].order(cache_blocks=40)
    until_sync(lambda: (asked(), work_of(router, here).capacity == 40 * 16)[1])


def test_picks_go_on_when_the_events_server_is_gone(fleet, client):
    router = router_of(fleet, tokenizer=model_folder())
    followed(router, fleet)
    for server in fleet.values():
        server.stop()
    for number in range(20):
        with router.lease(MODEL, key=f"{number} {TEXT}"):
            pass
    assert sum(d.in_flight for d in router.deployments.values()) == 0


def test_a_router_that_goes_is_no_longer_followed(fleet):
    import gc

    router = router_of(fleet)
    followed(router, fleet)
    subscriber = follow._followers[None].subscriber
    names = {str(id(work_of(router, name))) for name in fleet}
    assert names <= set(subscriber.sources())
    del router
    gc.collect()
    until_sync(lambda: not names & set(subscriber.sources()))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"kv_events": 5557}, "'kv_events' must be a text, not 5557"),
        ({"kv_events": "10.0.0.1:5557"}, "give an address such as tcp://"),
        ({"kv_replay": "tcp://10.0.0.1:5558"}, "kv_replay is of no use without kv_events"),
        ({"kv_events": "tcp://127.0.0.1:1", "tokenizer": "/nowhere"}, "tokenizer: no "),
    ],
)
def test_a_wrong_entry_is_one_clear_error(said, why):
    entry = {"model_name": MODEL, "litellm_params": {"model": "x"}, "model_info": {"id": "one", "fast_router": said}}
    with pytest.raises(ConfigurationError, match=why):
        AdvancedRouter("cache_aware", model_list=[entry])


def test_the_event_loop_never_waits_for_the_tokenizer(fleet, client):
    """A prompt of a million characters takes the tokenizer a second; picks meanwhile take what they always take."""
    router = router_of(fleet, tokenizer=model_folder())
    followed(router, fleet)

    async def picks():
        loop = asyncio.get_running_loop()
        with router.lease(MODEL, key=TEXT * 400):
            pass
        began = loop.time()
        for number in range(50):
            with router.lease(MODEL, key=f"{number} {TEXT}"):
                await asyncio.sleep(0)
        return loop.time() - began

    # Not a timing: it must only be over before the tokenizer is.
    asyncio.run(picks())
    follower = follow._followers[model_folder()]
    assert follower._prompts or follower._asked


def test_a_template_that_is_not_the_servers_does_no_harm(fleet, client):
    """Blocks that no server ever tells say nothing: what was sent there counts as cached, as without events."""
    router = router_of(fleet, tokenizer=model_folder())
    said = "Nobody computes this text as we spell it. " * 40
    followed(router, fleet)
    lease = router.acquire(MODEL, key=said)
    # The server computes something else than the text that we think it does.
    body = {"model": "m", "prompt": f"<another template>{said}", "max_tokens": 1}
    client.post(fleet[lease.id].api_base + "/completions", json=body).raise_for_status()
    lease.release()
    followed(router, fleet)
    follower = follow._followers[model_folder()]
    until_sync(lambda: not follower._prompts and not follower._asked)
    found, blocks = expected(router, lease.id, said)
    assert found == blocks
