"""`litellm.model_list = [deployments]`: calls by model_name over real HTTP, and plain LiteLLM for everything else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import litellm
import pytest

import fast_router
from fast_router import settings
from fast_router.errors import ConfigurationError
from fast_router.litellm_plugin import hook
from fast_router.litellm_plugin.model_list import calls
from fast_router.litellm_plugin.patching import PatchSet
from fast_router.testing import Upstream

KEY = "sk-secret-of-the-test"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def upstreams():
    with Upstream(name="one", kind="vllm") as one, Upstream(name="two", kind="vllm") as two:
        yield one, two


@pytest.fixture(scope="module")
def openai_upstream():
    with Upstream(name="openai") as server:
        yield server


@pytest.fixture
def servers(upstreams):
    for server in upstreams:
        server.order(error_rate=0.0, script=())
        server.reset()
    return upstreams


@pytest.fixture
def stock():
    """LiteLLM with this feature alone on, and its own model list put back afterwards."""
    hook.disable()
    names = litellm.model_list
    patches = PatchSet()
    assert calls.install(patches, None) == ["model_list"]
    try:
        yield names
    finally:
        patches.restore()
        litellm.model_list = names
        settings.reset()


def deployment(server, name="group", model="openai/test-model", **params):
    return {
        "model_name": name,
        "litellm_params": {"model": model, "api_base": server.api_base, "api_key": KEY, **params},
    }


def total(servers):
    return sum(server.records.requests for server in servers)


async def test_both_deployments_of_a_group_answer_async_calls(servers, stock):
    litellm.model_list = [deployment(server) for server in servers]
    for _ in range(30):
        answer = await litellm.acompletion(model="group", messages=HELLO)
        assert answer.choices[0].message.content
    assert all(server.records.requests for server in servers)
    assert total(servers) == 30


def test_sync_calls_route_too(servers, stock):
    litellm.model_list = [deployment(server) for server in servers]
    for _ in range(20):
        assert litellm.completion("group", HELLO).choices[0].message.content
    assert all(server.records.requests for server in servers)


async def test_sync_calls_route_under_a_running_loop(servers, stock):
    litellm.model_list = [deployment(servers[0])]
    assert litellm.completion(model="group", messages=HELLO).choices[0].message.content
    assert litellm.embedding(model="group", input=["a"]).data
    assert total(servers) == 2


async def test_streams_route_async_and_sync(servers, stock):
    litellm.model_list = [deployment(servers[0])]
    chunks = [chunk async for chunk in await litellm.acompletion(model="group", messages=HELLO, stream=True)]
    assert len(chunks) > 2
    chunks = list(litellm.completion(model="group", messages=HELLO, stream=True))
    assert len(chunks) > 2
    assert [seen.stream for seen in servers[0].records.seen] == [True, True]


ASYNC_CALLS = [
    ("atext_completion", {"prompt": "hello"}, "/v1/completions", "text-completion-openai/test-model"),
    ("aembedding", {"input": ["hello"]}, "/v1/embeddings", "openai/test-model"),
    ("aresponses", {"input": "hello"}, "/v1/responses", "openai/test-model"),
    ("aimage_generation", {"prompt": "a cat"}, "/v1/images/generations", "openai/test-model"),
    ("aspeech", {"input": "hello", "voice": "alloy"}, "/v1/audio/speech", "openai/test-model"),
    ("atranscription", {"file": ("a.wav", b"RIFF")}, "/v1/audio/transcriptions", "openai/test-model"),
]


@pytest.mark.parametrize(("name", "arguments", "path", "model"), ASYNC_CALLS, ids=[call[0] for call in ASYNC_CALLS])
async def test_other_endpoints_route_async(openai_upstream, stock, name, arguments, path, model):
    openai_upstream.reset()
    litellm.model_list = [deployment(openai_upstream, model=model)]
    assert await getattr(litellm, name)(model="group", **arguments)
    assert dict(openai_upstream.records.paths) == {path: 1}


@pytest.mark.parametrize(("name", "arguments", "path", "model"), ASYNC_CALLS, ids=[call[0][1:] for call in ASYNC_CALLS])
def test_other_endpoints_route_sync_with_retries(openai_upstream, stock, name, arguments, path, model):
    openai_upstream.reset()
    openai_upstream.order(script=("error",))
    litellm.model_list = [deployment(openai_upstream, model=model)]
    assert getattr(litellm, name[1:])(model="group", **arguments)
    assert dict(openai_upstream.records.paths) == {path: 2}


def rerank_deployment(server):
    return deployment(server, model="hosted_vllm/test-model")


async def test_rerank_routes(servers, stock):
    litellm.model_list = [rerank_deployment(servers[0])]
    arguments = {"model": "group", "query": "a", "documents": ["a", "b"]}
    assert (await litellm.arerank(**arguments)).results
    assert litellm.rerank(**arguments).results
    assert total(servers) == 2


async def test_a_failing_deployment_is_retried_on_another(servers, stock):
    servers[0].order(error_rate=1.0)
    litellm.model_list = [deployment(server) for server in servers]
    answers = [await litellm.acompletion(model="group", messages=HELLO, num_retries=8) for _ in range(10)]
    assert len(answers) == 10
    assert servers[1].records.served == 10


async def test_fallbacks_in_the_list_and_outside_of_it(servers, stock):
    servers[0].order(error_rate=1.0)
    litellm.model_list = [deployment(servers[0], name="bad"), deployment(servers[1], name="good")]
    answer = await litellm.acompletion(model="bad", messages=HELLO, fallbacks=["good"], num_retries=0)
    assert answer.choices[0].message.content
    other = {"model": "openai/other", "api_base": servers[1].api_base, "api_key": KEY}
    answer = await litellm.acompletion(model="bad", messages=HELLO, fallbacks=[other], num_retries=0)
    assert answer.choices[0].message.content
    answer = litellm.completion(model="bad", messages=HELLO, fallbacks=[other], num_retries=0)
    assert answer.choices[0].message.content
    assert [seen.model for seen in servers[1].records.seen] == ["test-model", "other", "other"]
    assert servers[0].records.requests == 3


@pytest.mark.parametrize("model", ["openai/test-model", "test-model"])
async def test_a_group_named_like_its_model_does_not_recurse(servers, stock, model):
    params = {"custom_llm_provider": "openai"} if "/" not in model else {}
    litellm.model_list = [deployment(servers[0], name=model, model=model, **params)]
    assert (await litellm.acompletion(model=model, messages=HELLO)).choices
    assert litellm.completion(model=model, messages=HELLO).choices
    assert (await litellm.aembedding(model=model, input=["a"])).data
    assert litellm.embedding(model=model, input=["a"]).data
    assert await litellm.aresponses(model=model, input="hello")
    assert litellm.responses(model=model, input="hello")
    assert total(servers) == 6


async def test_a_bridged_responses_call_does_not_recurse(servers, stock):
    # LiteLLM answers `responses` for this provider through its own chat function, which is ours to look at as well.
    name = "lm_studio/test-model"
    litellm.model_list = [deployment(servers[0], name=name, model=name)]
    assert await litellm.aresponses(model=name, input="hello")
    assert litellm.responses(model=name, input="hello")
    assert dict(servers[0].records.paths) == {"/v1/chat/completions": 2}


async def test_calls_that_say_where_they_go_are_left_alone(servers, stock):
    litellm.model_list = [deployment(servers[0], name="openai/test-model")]
    direct = {"api_base": servers[1].api_base, "api_key": KEY}
    await litellm.acompletion(model="openai/test-model", messages=HELLO, **direct)
    litellm.completion(model="openai/test-model", messages=HELLO, base_url=servers[1].api_base, api_key=KEY)
    assert servers[0].records.requests == 0
    assert servers[1].records.requests == 2


def test_unknown_names_go_to_plain_litellm(servers, stock):
    litellm.model_list = [deployment(servers[0])]
    with pytest.raises(litellm.BadRequestError, match="LLM Provider NOT provided"):
        litellm.completion(model="nobody-knows-this", messages=HELLO)
    assert total(servers) == 0


async def test_changes_of_the_list_are_seen_at_the_next_call(servers, stock):
    one, two = servers
    litellm.model_list = [deployment(one, name="a")]
    await litellm.acompletion(model="a", messages=HELLO)
    router = calls.implicit_router()
    litellm.model_list.append(deployment(two, name="b"))
    await litellm.acompletion(model="b", messages=HELLO)
    assert two.records.requests == 1
    assert calls.implicit_router() is router
    litellm.model_list.pop(0)
    with pytest.raises(litellm.BadRequestError):
        await litellm.acompletion(model="a", messages=HELLO)
    litellm.model_list[0] = deployment(one, name="b")
    await litellm.acompletion(model="b", messages=HELLO)
    assert one.records.requests == 2
    litellm.model_list = [deployment(two, name="c")]
    await litellm.acompletion(model="c", messages=HELLO)
    assert two.records.requests == 2
    litellm.model_list = []
    litellm.model_list.append(deployment(one, name="d"))
    await litellm.acompletion(model="d", messages=HELLO)
    assert one.records.requests == 3


async def test_the_same_list_loaded_again_keeps_the_router_and_its_deployments(servers, stock):
    litellm.model_list = [deployment(server) for server in servers]
    await litellm.acompletion(model="group", messages=HELLO)
    router = calls.implicit_router()
    ids = router.get_model_ids()
    litellm.model_list = [deployment(server, rpm=1000) for server in servers]
    await litellm.acompletion(model="group", messages=HELLO)
    assert set(router.get_model_ids()).isdisjoint(ids)
    litellm.model_list = [deployment(server, rpm=1000) for server in servers]
    now = router.get_model_ids()
    await litellm.acompletion(model="group", messages=HELLO)
    assert calls.implicit_router() is router
    assert router.get_model_ids() == now


async def test_ids_are_those_that_a_router_gives(servers, stock, monkeypatch):
    monkeypatch.setenv("TEST_MODEL_LIST_KEY", KEY)
    entries = [deployment(server) for server in servers]
    entries[0]["litellm_params"]["api_key"] = "os.environ/TEST_MODEL_LIST_KEY"
    expected = litellm.Router(model_list=entries).get_model_ids()
    litellm.model_list = entries[:1]
    await litellm.acompletion(model="group", messages=HELLO)
    litellm.model_list.append(entries[1])
    await litellm.acompletion(model="group", messages=HELLO)
    assert calls.implicit_router().get_model_ids() == expected
    assert {seen.headers["authorization"] for server in servers for seen in server.records.seen} == {f"Bearer {KEY}"}


async def test_the_stock_list_gives_plain_litellm_back(servers, stock):
    before = list(litellm.callbacks), list(litellm._async_success_callback), litellm.suppress_debug_info
    litellm.model_list = [deployment(servers[0])]
    await litellm.acompletion(model="group", messages=HELLO)
    litellm.model_list = stock
    with pytest.raises(litellm.BadRequestError, match="LLM Provider NOT provided"):
        await litellm.acompletion(model="group", messages=HELLO)
    assert calls.implicit_router() is None
    assert (list(litellm.callbacks), list(litellm._async_success_callback), litellm.suppress_debug_info) == before


async def test_one_metadata_dict_for_many_calls(servers, stock):
    litellm.model_list = [deployment(servers[0])]
    metadata = {"tags": ["mine"]}
    for _ in range(3):
        await litellm.acompletion(model="group", messages=HELLO, metadata=metadata)
    assert metadata == {"tags": ["mine"]}
    assert total(servers) == 3


async def test_aliases_in_the_list_itself(servers, stock):
    def called(alias):
        info = {"fast_router": {"aliases": [alias]}}
        return [{**deployment(server), "model_info": info} for server in servers]

    litellm.model_list = called("chat")
    await litellm.acompletion(model="chat", messages=HELLO)
    litellm.model_list = called("talk")
    await litellm.acompletion(model="talk", messages=HELLO)
    assert total(servers) == 2
    with pytest.raises(litellm.BadRequestError):
        await litellm.acompletion(model="chat", messages=HELLO)


async def test_wildcards_and_aliases(servers, stock):
    fast_router.configure(router_settings={"model_group_alias": {"alias": "group"}})
    litellm.model_list = [deployment(servers[0]), deployment(servers[1], name="wild/*", model="openai/*")]
    await litellm.acompletion(model="alias", messages=HELLO)
    await litellm.acompletion(model="wild/thing", messages=HELLO)
    assert [seen.model for seen in servers[0].records.seen] == ["test-model"]
    assert [seen.model for seen in servers[1].records.seen] == ["thing"]


@pytest.mark.parametrize("name", ["least_busy", "latency-based-routing", "usage_based"])
async def test_configure_sets_the_strategy(servers, stock, name):
    fast_router.configure(strategy=name)
    litellm.model_list = [deployment(servers[0])]
    await litellm.acompletion(model="group", messages=HELLO)
    fast_router.configure(strategy=None)
    first = calls.implicit_router()
    await litellm.acompletion(model="group", messages=HELLO)
    assert calls.implicit_router() is not first
    assert total(servers) == 2


MALFORMED = [
    (["a", {"model_name": "b"}], r"model_list\[0\]: expected a deployment, found str"),
    ([{"litellm_params": {"model": "openai/x"}}], r"model_list\[0\]: model_name is missing"),
    (
        [{"model_name": "m", "endpoint": "http://x"}],
        r"model_list\[0\] \('m'\): litellm_params is missing; an `endpoint`",
    ),
    ([{"model_name": "m", "litellm_params": {}}], r"litellm_params.model is missing"),
    ([{"model_name": "m", "litellm_params": {"model": "openai/x", "rpm": -1}}], r"rpm is -1"),
    (
        [{"model_name": "m", "litellm_params": {"model": "no-such-provider-model"}}],
        r"model_list\[0\] \('m'\): .*PROVIDER",
    ),
    (
        [{"model_name": "m", "litellm_params": {"model": "openai/x", "api_key": KEY, "rpm": [KEY]}}],
        r"model_list\[0\] \('m'\): .*rpm",
    ),
    (
        [{"model_name": "m", "litellm_params": {"model": "openai/x"}, "model_info": {"id": "1"}}] * 2,
        r"\[1\].*of entry 0",
    ),
    ({"model_list": []}, r"must be a list of deployments, not dict"),
]


@pytest.mark.parametrize(("wrong", "complaint"), MALFORMED, ids=range(len(MALFORMED)))
async def test_a_malformed_list_is_one_clear_error(servers, stock, wrong, complaint):
    litellm.model_list = [deployment(servers[0])]
    await litellm.acompletion(model="group", messages=HELLO)
    litellm.model_list = wrong
    with pytest.raises(ConfigurationError, match=f"(?i){complaint}") as caught:
        await litellm.acompletion(model="group", messages=HELLO)
    assert KEY not in str(caught.value)
    with pytest.raises(ConfigurationError):
        litellm.completion(model="group", messages=HELLO)
    litellm.model_list = [deployment(servers[0])]
    await litellm.acompletion(model="group", messages=HELLO)
    assert total(servers) == 2


async def test_an_error_of_ours_never_fails_a_call(servers, stock, monkeypatch):
    def broken(*_):
        raise RuntimeError("ours")

    monkeypatch.setattr(calls._implicit, "serves", broken)
    litellm.model_list = [deployment(servers[0])]
    with pytest.raises(litellm.BadRequestError, match="LLM Provider NOT provided"):
        await litellm.acompletion(model="group", messages=HELLO)


def test_restore_puts_the_identical_functions_back():
    hook.disable()
    holders = {(owner.__name__, name): vars(owner)[name] for owner, name in _all_holders()}
    patches = PatchSet()
    calls.install(patches, None)
    changed = {(owner.__name__, name): vars(owner)[name] for owner, name in _all_holders()}
    assert all(changed[key] is not holders[key] for key in holders)
    assert patches.restore() == []
    assert {(owner.__name__, name): vars(owner)[name] for owner, name in _all_holders()} == holders


def _all_holders():
    calls._litellm = vars(litellm)
    return [holder for name, _ in calls._FUNCTIONS for holder in calls._holders(name)]


async def test_concurrent_calls_share_one_router(servers, stock):
    litellm.model_list = [deployment(server) for server in servers]
    await asyncio.gather(*(litellm.acompletion(model="group", messages=HELLO) for _ in range(40)))
    assert total(servers) == 40
    assert all(server.records.requests for server in servers)


IMPORT_ORDER = """
    import os, sys
    {first}
    from litellm import completion, embedding
    {second}
    import litellm
    litellm.model_list = [{{
        "model_name": "group",
        "litellm_params": {{"model": "openai/m", "api_base": sys.argv[1], "api_key": "k"}},
    }}]
    print(completion(model="group", messages=[{{"role": "user", "content": "x"}}]).choices[0].finish_reason)
    print(len(embedding(model="group", input=["x"]).data))
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", ["before", "after"])
def test_names_imported_before_and_after_route(servers, order):
    first, second = ("import fast_router", "") if order == "before" else ("", "import fast_router")
    if order == "after" and "litellm.chat_completions.dispatch" not in sys.modules:
        pytest.skip("this LiteLLM binds functions at import: documented")
    script = textwrap.dedent(IMPORT_ORDER.format(first=first, second=second))
    done = subprocess.run(
        [sys.executable, "-c", script, servers[0].api_base], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.stdout.split() == ["stop", "1"], done.stderr
    assert servers[0].records.requests == 2
