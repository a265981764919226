"""Every endpoint of a Router: what fails at one server is answered by one that the request has not tried."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pytest

from fast_router.testing import Fleet, Spec
from tests.support.plugin import MESSAGES, calm, entry, refused, router
from tests.support.waiting import until_sync

pytestmark = pytest.mark.usefixtures("plugin")

LITELLM = tuple(map(int, version("litellm").split(".")[:2]))
WAV = ("a.wav", b"RIFF")
SCAN = {"type": "document_url", "document_url": "http://127.0.0.1:9/a.pdf"}
TURNS = [{"role": "user", "parts": [{"text": "hello"}]}]


@dataclass(frozen=True)
class Endpoint:
    """One of a Router's endpoints.

    Attributes:
        name: LiteLLM's for the asynchronous one; the synchronous one lacks the leading "a".
        asks: What it is asked.
        kind: The shape of the servers.
        provider: LiteLLM's word for them.
        sync: Whether there is a synchronous one.
        stream: Whether the answer comes in pieces, which must be read.
    """

    name: str
    asks: dict[str, Any]
    kind: str = "openai"
    provider: str = "openai"
    sync: bool = False
    stream: bool = False

    def __str__(self) -> str:
        return self.name + ("-stream" if self.stream else "")


CHAT = {"messages": MESSAGES}
ENDPOINTS = [
    Endpoint("acompletion", CHAT, sync=True),
    Endpoint("acompletion", {**CHAT, "stream": True}, sync=True, stream=True),
    Endpoint("atext_completion", {"prompt": "hello"}, provider="text-completion-openai"),
    Endpoint("aembedding", {"input": ["hello"]}, sync=True),
    Endpoint("aresponses", {"input": "hello"}, sync=True),
    Endpoint("aresponses", {"input": "hello", "stream": True}, sync=True, stream=True),
    Endpoint("aanthropic_messages", {**CHAT, "max_tokens": 9}, provider="hosted_vllm"),
    Endpoint("agenerate_content", {"contents": TURNS}, provider="hosted_vllm", sync=True),
    Endpoint("aimage_generation", {"prompt": "a cat"}, sync=True),
    Endpoint("aimage_edit", {"prompt": "a cat", "image": "PNG"}),
    Endpoint("aspeech", {"input": "hello", "voice": "alloy"}),
    Endpoint("atranscription", {"file": WAV}),
    Endpoint("amoderation", {"input": "hello"}),
    Endpoint("arerank", {"query": "a", "documents": ["a", "b"]}, kind="vllm", provider="hosted_vllm"),
    Endpoint("aocr", {"document": SCAN}, kind="mistral", provider="mistral", sync=True),
]
CALLS = [(one, False) for one in ENDPOINTS] + [(one, True) for one in ENDPOINTS if one.sync]
LITELLM_TRIES_ONCE = ("amoderation", "aresponses", "aocr", "agenerate_content")
IDS = [f"{one}-{'sync' if sync else 'async'}" for one, sync in CALLS]


@pytest.fixture(scope="module")
def fleets():
    with Fleet(
        [Spec(name=f"{kind}-{name}", kind=kind) for kind in ("openai", "vllm", "mistral") for name in ("bad", "good")]
    ) as fleet:
        yield fleet


def arguments(endpoint):
    # Files are read by each call.
    return {key: io.BytesIO(b"\x89PNG") if value == "PNG" else value for key, value in endpoint.asks.items()}


def asked(made, endpoint, sync, **more):
    """The whole answer of one call."""
    if sync:
        answer = getattr(made, endpoint.name[1:])(model="m", **arguments(endpoint), **more)
        return list(answer) if endpoint.stream else answer

    async def call():
        answer = await getattr(made, endpoint.name)(model="m", **arguments(endpoint), **more)
        return [chunk async for chunk in answer] if endpoint.stream else answer

    return asyncio.run(call())


@pytest.mark.parametrize("fault", ["500", "refused"])
@pytest.mark.parametrize(("endpoint", "sync"), CALLS, ids=IDS)
def test_a_retry_goes_to_a_server_that_was_not_tried(fleets, endpoint, sync, fault):
    if endpoint.name == "aspeech" and LITELLM < (1, 91):
        pytest.skip("this LiteLLM does not retry it")
    bad, good = calm(fleets[f"{endpoint.kind}-{name}"] for name in ("bad", "good"))
    bad.order(error_rate=1.0)
    model = f"{endpoint.provider}/test-model"
    # Whoever forgets what was tried takes the heavy one again, but for once in a million.
    made = router(
        entry("bad", bad.api_base if fault == "500" else refused(), model=model, weight=10**6),
        entry("good", good.api_base, model=model, weight=1),
        num_retries=1,
        disable_cooldowns=True,
    )
    assert asked(made, endpoint, sync)
    until_sync(lambda: good.records.served == 1)
    assert bool(bad.records.requests) is (fault == "500")


@pytest.mark.parametrize(("endpoint", "sync"), [call for call in CALLS if str(call[0]) in LITELLM_TRIES_ONCE], ids=str)
def test_what_litellm_tries_once_falls_back(fleets, endpoint, sync):
    bad, good = calm(fleets[f"{endpoint.kind}-{name}"] for name in ("bad", "good"))
    bad.order(error_rate=1.0)
    model = f"{endpoint.provider}/test-model"
    made = router(
        entry("bad", bad.api_base, model=model),
        entry("good", good.api_base, model=model, name="spare"),
        fallbacks=[{"m": ["spare"]}],
    )
    assert asked(made, endpoint, sync)
    until_sync(lambda: good.records.served == 1)


def test_a_synchronous_call_falls_back_with_what_an_asynchronous_one_sends(fleets):
    bad, good = calm(fleets[f"openai-{name}"] for name in ("bad", "good"))
    bad.order(error_rate=1.0)
    made = router(entry("bad", bad.api_base), entry("good", good.api_base, name="spare"), fallbacks=[{"m": ["spare"]}])
    endpoint = next(one for one in ENDPOINTS if one.name == "aresponses")
    for sync in (False, True):
        asked(made, endpoint, sync)
    first, second = (seen.body for seen in good.records.seen)
    assert first == second


@pytest.mark.parametrize(("endpoint", "sync"), [call for call in CALLS if str(call[0]) in LITELLM_TRIES_ONCE], ids=str)
def test_where_no_retry_is_wanted_one_server_is_asked(fleets, endpoint, sync):
    servers = [fleets[f"{endpoint.kind}-{name}"] for name in ("bad", "good")]
    for server in calm(servers):
        server.order(error_rate=1.0)
    model = f"{endpoint.provider}/test-model"
    made = router(*(entry(s.name, s.api_base, model=model) for s in servers), disable_cooldowns=True)
    with pytest.raises(Exception, match="Error"):
        asked(made, endpoint, sync)
    assert len([server for server in servers if server.records.requests]) == 1


def test_a_model_that_is_not_listed_is_litellms(fleets):
    good = fleets["openai-good"]
    calm([good])
    made = router(entry("good", good.api_base))
    base = {"model": "openai/omni-moderation", "api_base": good.api_base, "api_key": "k"}
    assert asyncio.run(made.amoderation(input="x", **base)).results


@pytest.mark.parametrize("name", ["text_completion", "avector_store_create"])
def test_what_is_said_to_stay_at_one_attempt(fleets, name):
    (good,) = calm([fleets["openai-good"]])
    model = "text-completion-openai/test-model"
    made = router(
        entry("bad", refused(), name=model, model=model, weight=10**6),
        entry("good", good.api_base, name=model, model=model, weight=1),
        num_retries=2,
    )

    def call():
        if name == "text_completion":
            return made.text_completion(model=model, prompt="hello")
        return asyncio.run(made.avector_store_create(model=model, name="shelf"))

    with pytest.raises(Exception, match=r"[Cc]onnection"):
        call()
    assert good.records.requests == 0
