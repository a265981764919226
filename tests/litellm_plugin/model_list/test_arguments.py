"""`litellm.model_list`: an argument that is None is one that was not given, for every function and every caller."""

from __future__ import annotations

import asyncio
import inspect
import io

import litellm
import pytest

from fast_router import settings
from fast_router.litellm_plugin import hook
from fast_router.litellm_plugin.model_list import calls as model_list
from fast_router.litellm_plugin.patching import PatchSet
from fast_router.testing import Upstream

KEY = "sk-of-the-deployment"
HELLO = [{"role": "user", "content": "hello"}]
OPTIONAL = (
    "api_base",
    "api_key",
    "api_version",
    "base_url",
    "custom_llm_provider",
    "deployment_id",
    "extra_body",
    "extra_headers",
    "fallbacks",
    "headers",
    "max_retries",
    "metadata",
    "model_list",
    "num_retries",
    "organization",
    "timeout",
)
"""What wrappers hand on as None, whatever the function."""

# Function, what it is asked, path, provider and model.
CALLS = [
    ("completion", {"messages": HELLO}, "/v1/chat/completions", "openai/test-model"),
    ("text_completion", {"prompt": "hello"}, "/v1/completions", "text-completion-openai/test-model"),
    ("embedding", {"input": ["hello"]}, "/v1/embeddings", "openai/test-model"),
    ("responses", {"input": "hello"}, "/v1/responses", "openai/test-model"),
    ("image_generation", {"prompt": "a cat"}, "/v1/images/generations", "openai/test-model"),
    ("image_edit", {"prompt": "a cat", "image": "PNG"}, "/v1/images/edits", "openai/test-model"),
    ("speech", {"input": "hello", "voice": "alloy"}, "/v1/audio/speech", "openai/test-model"),
    ("transcription", {"file": ("a.wav", b"RIFF")}, "/v1/audio/transcriptions", "openai/test-model"),
    ("moderation", {"input": "hello"}, "/v1/moderations", "openai/test-model"),
    ("rerank", {"query": "a", "documents": ["a", "b"]}, "/v1/rerank", "hosted_vllm/test-model"),
]
IDS = [call[0] for call in CALLS]


@pytest.fixture(scope="module")
def openai():
    with Upstream(name="openai") as own, Upstream(name="elsewhere") as elsewhere:
        yield own, elsewhere


@pytest.fixture(scope="module")
def vllm():
    with Upstream(name="vllm", kind="vllm") as own:
        yield own


@pytest.fixture
def servers(openai, vllm, monkeypatch):
    """The deployment's own server, one for rerank, and the one that LiteLLM's environment names."""
    own, elsewhere = openai
    for server in (own, vllm, elsewhere):
        server.reset()
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "HOSTED_VLLM_API_BASE"):
        monkeypatch.setenv(name, elsewhere.api_base)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return own, vllm, elsewhere


@pytest.fixture(autouse=True)
def routed():
    """LiteLLM with this feature alone on, and its own model list put back afterwards."""
    hook.disable()
    names = litellm.model_list
    patches = PatchSet()
    assert model_list.install(patches, None) == ["model_list"]
    try:
        yield
    finally:
        patches.restore()
        litellm.model_list = names
        settings.reset()


def deployment(server, name="group", model="openai/test-model", **params):
    return {
        "model_name": name,
        "litellm_params": {"model": model, "api_base": server.api_base, "api_key": KEY, **params},
    }


def arguments_of(given):
    # Files are read by each call.
    return {key: io.BytesIO(b"PNG") if value == "PNG" else value for key, value in given.items()}


def signed(server):
    return {seen.headers.get("authorization") for seen in server.records.seen}


@pytest.mark.parametrize(("name", "given", "path", "model"), CALLS, ids=IDS)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_none_is_not_given(servers, name, given, path, model, asynchronous):
    own = servers[1] if name == "rerank" else servers[0]
    litellm.model_list = [deployment(own, model=model)]
    function = getattr(litellm, "a" + name if asynchronous else name)

    def call(**more):
        answer = function(model="group", **arguments_of(given), **more)
        assert asyncio.run(answer) if asynchronous else answer

    for one in OPTIONAL:
        call(**{one: None})
    call(**dict.fromkeys(OPTIONAL))
    parameters = inspect.signature(getattr(litellm, name)).parameters.values()
    named = {one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD and one.default is None}
    call(**dict.fromkeys(named - set(given) - {"model"}))
    assert dict(own.records.paths) == {path: len(OPTIONAL) + 2}
    assert signed(own) == {f"Bearer {KEY}"}
    assert servers[2].records.requests == 0


@pytest.mark.parametrize(("name", "given", "path", "model"), CALLS[:3], ids=IDS[:3])
async def test_positional_arguments_of_async_functions(servers, name, given, path, model):
    litellm.model_list = [deployment(servers[0], model=model)]
    names = [one for one in inspect.signature(getattr(litellm, name)).parameters if one in {"model", *given}]
    everything = {"model": "group", **given}
    assert await getattr(litellm, "a" + name)(*[everything[one] for one in names])
    assert dict(servers[0].records.paths) == {path: 1}


def test_a_deployments_own_parameters_stay(servers):
    litellm.model_list = [deployment(servers[0], temperature=0.25, organization="org-1")]
    litellm.completion(model="group", messages=HELLO, temperature=None, organization=None, max_tokens=None)
    (seen,) = servers[0].records.seen
    assert seen.body["temperature"] == 0.25
    assert seen.headers["openai-organization"] == "org-1"


def test_what_is_given_still_says_where_a_call_goes(servers):
    own, _, elsewhere = servers
    litellm.model_list = [deployment(own, name="openai/test-model")]
    litellm.completion(model="openai/test-model", messages=HELLO, api_base=elsewhere.api_base, api_key="k")
    assert (own.records.requests, elsewhere.records.requests) == (0, 1)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("where", [{}, {"api_base": "http://127.0.0.1:9/v1", "api_key": "k"}], ids=["none", "named"])
def test_fallbacks_of_an_unlisted_model_may_be_in_the_list(servers, asynchronous, where):
    own, _, elsewhere = servers
    litellm.model_list = [deployment(own)]
    arguments = {"model": "unknown", "messages": HELLO, "fallbacks": ["group"], "api_version": None, **where}
    answer = asyncio.run(litellm.acompletion(**arguments)) if asynchronous else litellm.completion(**arguments)
    assert answer.choices[0].message.content
    assert arguments["fallbacks"] == ["group"]
    assert (own.records.requests, elsewhere.records.requests) == (1, 0)
    assert signed(own) == {f"Bearer {KEY}"}


def test_a_fallback_that_says_where_it_goes_is_left_alone(servers):
    own, _, elsewhere = servers
    litellm.model_list = [deployment(own)]
    there = {"model": "openai/group", "api_base": elsewhere.api_base, "api_key": "k"}
    litellm.completion("openai/none", HELLO, api_base="http://127.0.0.1:9/v1", api_key="k", fallbacks=[there])
    assert (own.records.requests, elsewhere.records.requests) == (0, 1)


@pytest.mark.parametrize("fallbacks", ["group", 5, [None], [["group"]], [{"model": None}]], ids=repr)
def test_fallbacks_of_a_wrong_shape_are_litellms(servers, fallbacks):
    litellm.model_list = [deployment(servers[0])]
    with pytest.raises(Exception, match=r"\S") as caught:
        litellm.completion("openai/none", HELLO, api_base="http://127.0.0.1:9/v1", api_key="k", fallbacks=fallbacks)
    assert "fast_router" not in str(caught.value)


# -- litellm.anthropic.messages ----------------------------------------------------------------------------

MESSAGES = {"messages": HELLO, "max_tokens": 20}


async def test_anthropic_messages_acreate_routes(servers):
    own = servers[1]
    litellm.model_list = [deployment(own, model="hosted_vllm/test-model")]
    answer = await litellm.anthropic.messages.acreate(model="group", **MESSAGES)
    assert answer["content"][0]["text"]
    stream = await litellm.anthropic.messages.acreate(model="group", stream=True, **MESSAGES)
    assert "message_stop" in str([chunk async for chunk in stream])
    assert [seen.stream for seen in own.records.seen] == [False, True]
    assert servers[2].records.requests == 0


@pytest.mark.parametrize("under_a_loop", [False, True])
def test_anthropic_messages_create_routes(servers, under_a_loop):
    own = servers[1]
    litellm.model_list = [deployment(own, model="hosted_vllm/test-model")]

    def calls():
        assert litellm.anthropic.messages.create(model="group", **MESSAGES)["content"][0]["text"]
        stream = litellm.anthropic.messages.create(model="group", stream=True, **MESSAGES)
        assert "message_stop" in str(list(stream))

    async def inside():
        calls()

    asyncio.run(inside()) if under_a_loop else calls()
    assert [seen.stream for seen in own.records.seen] == [False, True]
    assert servers[2].records.requests == 0


def test_anthropic_messages_are_retried(servers):
    own = servers[1]
    own.order(script=("error",))
    litellm.model_list = [deployment(own, model="hosted_vllm/test-model")]
    assert litellm.anthropic.messages.create(model="group", **MESSAGES)["content"]
    own.order(script=("error",))
    assert asyncio.run(litellm.anthropic.messages.acreate(model="group", **MESSAGES))["content"]
    own.order(script=())
    assert own.records.requests == 4
