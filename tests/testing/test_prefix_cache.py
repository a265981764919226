"""A server's prefix cache: what it keeps, what it drops, what it costs and what it says, as data and over HTTP."""

from __future__ import annotations

import asyncio
import json
import re

import httpx
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fast_router.testing import Fleet, Spec, Upstream
from fast_router.testing.behaviour import Behaviour
from fast_router.testing.prefill import Prefill
from fast_router.testing.prefix_cache import PrefixCache
from fast_router.testing.prompts import rendered, tokenizer
from fast_router.testing.records import Records


class AgainstAModel(RuleBasedStateMachine):
    """Sizes, holds and events against plain sets of prefixes."""

    def __init__(self):
        super().__init__()
        self.cache = PrefixCache(6, 2)
        self.running = []
        self.known = {}  # what the events say: name -> all tokens up to the end of the block

    def hear(self, change):
        for name in change.removed:
            del self.known[name]
        for block in change.stored:
            before = () if block.parent is None else self.known[block.parent]
            assert block.name not in self.known
            self.known[block.name] = (*before, *block.tokens)

    @rule(tokens=st.lists(st.integers(0, 1), max_size=14))
    def begin(self, tokens):
        hold = self.cache.begin(tokens)
        have = set(self.known.values())
        longest = 0
        while longest + 2 < len(tokens) and tuple(tokens[: longest + 2]) in have:
            longest += 2
        assert hold.cached == longest
        self.running.append(hold)
        # The prompt is stored in two steps, as a server does: what it evicts first may not be its own beginning.
        change = self.cache.computed(hold)
        for name in change.removed:
            del self.known[name]
        self.hear(type(change)(stored=change.stored))

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 100))
    def end(self, which):
        for name in self.cache.end(self.running.pop(which % len(self.running))):
            del self.known[name]

    @rule()
    def clear(self):
        self.cache.clear()
        self.known.clear()

    @rule(capacity=st.integers(1, 8))
    def resize(self, capacity):
        for name in self.cache.resize(capacity):
            del self.known[name]

    @invariant()
    def the_events_are_the_cache(self):
        assert len(self.known) == len(self.cache)
        if not self.running:
            assert len(self.cache) <= self.cache.capacity
            assert self.cache.usage == 0


AgainstAModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAgainstAModel = AgainstAModel.TestCase


def test_of_one_request_the_end_goes_before_the_beginning():
    cache = PrefixCache(4, 1)
    for tokens in ([1, 2, 3, 4], [9, 9]):
        hold = cache.begin(tokens)
        cache.computed(hold)
        cache.end(hold)
    assert cache.begin([1, 2, 3, 4]).cached == 2  # [9] and [9, 9] took the places of the two last


async def test_prefill_is_serial_and_spares_what_is_cached():
    """Closed form: with a rate of 1,000 tokens/s, what three prompts wait for is what stands before them."""
    loop = asyncio.get_running_loop()
    orders = Behaviour(prefill_rate=4000, prefill_latency=0.02, block_size=16)
    prefill, records = Prefill(orders, None), Records()
    ends = {}

    async def one(name, text):
        async with prefill.computed({"prompt": text}, "", orders, records) as prompt:
            ends[name] = loop.time()
            return prompt

    began = loop.time()
    first, second, third = await asyncio.gather(one("a", "a" * 6400), one("b", "b" * 6400), one("c", "a" * 6400))
    # 1,600 tokens at 4,000/s are 0.4 s; the last token of a prompt is computed anew, so its last block is.
    assert [first.cached, second.cached, third.cached] == [0, 0, 1584]
    expected = {"a": 0.42, "b": 0.84, "c": 0.84 + 0.02 + 16 / 4000}
    for name, seconds in expected.items():
        assert ends[name] - began >= seconds - 0.001, name
    assert (records.prompt_tokens, records.cached_tokens) == (4800, 1584)


async def test_a_client_that_leaves_frees_its_turn_and_its_blocks():
    orders = Behaviour(prefill_rate=10, block_size=1, cache_blocks=100)
    prefill, records = Prefill(orders, None), Records()

    async def one(text):
        async with prefill.computed({"prompt": text}, "", orders, records):
            return True

    slow = asyncio.create_task(one("abcd" * 10_000))
    waiting = asyncio.create_task(one("efgh"))
    while not records.waiting:
        await asyncio.sleep(0)
    slow.cancel()
    assert await asyncio.wait_for(waiting, 20)  # not the 1,000 s of the one before
    assert prefill.cache.usage == 0
    assert records.waiting == 0


def sample(text, name):
    found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    return float(found[0])


SYSTEM = {"role": "system", "content": "You are careful. " * 60}


def chat(client, upstream, user, **body):
    messages = [SYSTEM, {"role": "user", "content": user}]
    answer = client.post(upstream.api_base + "/chat/completions", json={"model": "m", "messages": messages, **body})
    return answer.raise_for_status()


@pytest.fixture
def client():
    with httpx.Client(timeout=20, trust_env=False) as one:
        yield one


@pytest.fixture(params=[False, True], ids=["thread", "process"])
def upstream(request):
    spec = Spec("vllm", name="one", behaviour=Behaviour(prefill_rate=1e6, cache_blocks=500, block_size=16))
    with Fleet([spec], subprocess=request.param) as fleet:
        yield fleet["one"]


def test_usage_and_metrics_say_what_was_cached(client, upstream):
    usages = [chat(client, upstream, user).json()["usage"] for user in ("one", "two")]
    cold, warm = (usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    tokens = len(tokenizer(None)(rendered({"messages": [SYSTEM, {"role": "user", "content": "two"}]})))
    assert usages[1]["prompt_tokens"] == tokens
    assert cold == 0
    assert warm % 16 == 0
    assert tokens - 32 < warm < tokens
    page = client.get(upstream.url + "/metrics").text
    assert sample(page, "vllm:prefix_cache_hits_total") == warm == upstream.records.cached_tokens
    assert sample(page, "vllm:prefix_cache_queries_total") == upstream.records.prompt_tokens
    assert 'num_gpu_blocks="500"' in page
    assert 'block_size="16"' in page
    assert sample(page, "vllm:kv_cache_usage_perc") == sample(page, "vllm:gpu_cache_usage_perc") == 0


def test_a_stream_says_so_in_its_last_chunk(client, upstream):
    for expected in (False, True):
        answer = chat(client, upstream, "hello", stream=True, stream_options={"include_usage": True})
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        usage = json.loads(lines[-2])["usage"]
        assert (usage["prompt_tokens_details"]["cached_tokens"] > 0) is expected


def test_the_answer_is_cached_behind_its_prompt(client, upstream):
    upstream.order(tokens=64)
    said = chat(client, upstream, "first").json()["choices"][0]["message"]
    turn = [SYSTEM, {"role": "user", "content": "first"}, said, {"role": "user", "content": "second"}]
    body = {"model": "m", "messages": turn}
    usage = client.post(upstream.api_base + "/chat/completions", json=body).json()["usage"]
    until = rendered({"messages": turn[:2]}) + said["content"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == len(until) // 4 // 16 * 16


def test_a_restart_empties_it_at_the_same_address(client, upstream):
    chat(client, upstream, "a")
    url = upstream.url
    upstream.restart()
    assert upstream.url == url
    assert chat(client, upstream, "a").json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert sample(client.get(url + "/metrics").text, "vllm:prefix_cache_hits_total") == 0  # a new process counts anew
    assert upstream.records.requests == 2  # but the test's own records go on


def test_what_a_server_may_leave_out(client):
    with Upstream("vllm", prefill_rate=1e6, report_cached=False) as quiet:
        chat(client, quiet, "a")
        assert "prompt_tokens_details" not in chat(client, quiet, "a").json()["usage"]
        assert quiet.records.cached_tokens > 0
        client.post(quiet.url + "/reset_prefix_cache").raise_for_status()
        before = quiet.records.cached_tokens
        chat(client, quiet, "a")
        assert quiet.records.cached_tokens == before


def test_a_smaller_cache_drops_what_does_not_fit(client):
    with Upstream("vllm", prefill_rate=1e6) as upstream:
        chat(client, upstream, "a")
        upstream.order(cache_blocks=2)
        assert chat(client, upstream, "a").json()["usage"]["prompt_tokens_details"]["cached_tokens"] <= 32


def test_tools_come_first_and_any_content_is_rendered():
    with_tools = rendered({"messages": [SYSTEM], "tools": [{"type": "function"}]})
    assert with_tools.startswith("<|im_start|>tools\n")
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    one, other = (
        rendered({"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, part]}]})
        for part in (image, {**image, "image_url": {"url": "data:image/png;base64,BBBB"}})
    )
    assert one != other
    assert rendered({"prompt": [1, 2, 3]}) == [1, 2, 3]
    assert "be short" in rendered({"instructions": "be short", "input": "hi"})
    for odd in ({"messages": None}, {"messages": [None, 3, {"content": None}]}, {"prompt": None}, {}):
        assert isinstance(rendered(odd), str)


def test_a_tokenizer_that_is_not_there_is_named(tmp_path):
    from fast_router.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="no tokenizer at"):
        Upstream("vllm", tokenizer=str(tmp_path))
