"""Each provider and endpoint through real LiteLLM calls, against a real server of that kind."""

from __future__ import annotations

import litellm
import pytest
from fast_router_albert import load_config
from fast_router_albert.endpoints import SERVING_PROVIDERS, ModelType

from fast_router.testing import Upstream
from tests.albert.conftest import KEY, SERVED

MESSAGES = [{"role": "user", "content": "Who answers?"}]
CASES = [(kind.value, provider.value) for kind in ModelType for provider in sorted(SERVING_PROVIDERS[kind], key=str)]
PATHS = {
    "text-generation": "/v1/chat/completions",
    "image-text-to-text": "/v1/chat/completions",
    "text-embeddings-inference": "/v1/embeddings",
    "text-classification": "/v1/rerank",
    "automatic-speech-recognition": "/v1/audio/transcriptions",
    "image-to-text": "/v1/ocr",
}


def router_of(model_type: str, kind: str, upstream: Upstream, **provider: object) -> litellm.Router:
    provider = {
        "type": kind,
        "url": upstream.url,
        "key": KEY,
        "model_name": SERVED.get(kind, "served-model"),
        **provider,
    }
    config = load_config(
        {"models": [{"name": "m", "type": model_type, "aliases": ["a"], "providers": [provider]}]}, environ={}
    )
    return litellm.Router(num_retries=0, **config.router_kwargs())


async def call(router: litellm.Router, model_type: str, model: str) -> None:
    """One call of the kind that the type serves; it fails if the answer does not hold what was asked for."""
    if model_type in {"text-generation", "image-text-to-text"}:
        answer = await router.acompletion(model=model, messages=MESSAGES)
        assert answer.choices[0].message.content
        stream = await router.acompletion(model=model, messages=MESSAGES, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        assert "".join(pieces) == answer.choices[0].message.content
        assert len(pieces) > 2
    elif model_type == "text-embeddings-inference":
        answer = await router.aembedding(model=model, input=["one", "two"])
        assert [len(row["embedding"]) for row in answer.data] == [8, 8]
    elif model_type == "text-classification":
        answer = await router.arerank(model=model, query="one", documents=["zero", "one", "two"])
        assert sorted(row["index"] for row in answer.results) == [0, 1, 2]
        assert answer.results[0]["index"] == 1
    elif model_type == "automatic-speech-recognition":
        assert (await router.atranscription(model=model, file=("a.wav", b"RIFF0000"))).text
    else:
        document = {"type": "document_url", "document_url": "https://example.org/a.pdf"}
        assert len((await router.aocr(model=model, document=document)).pages) == 1


@pytest.mark.parametrize(("model_type", "kind"), CASES)
@pytest.mark.parametrize("name", ["m", "a"])
async def test_served(model_type, kind, name, servers) -> None:
    upstream = servers[kind]
    await call(router_of(model_type, kind, upstream), model_type, name)
    path = "/rerank" if (model_type, kind) == ("text-classification", "tei") else PATHS[model_type]
    seen = upstream.records.seen
    assert {(one.path, one.status) for one in seen} == {(path, 200)}
    assert {one.headers["authorization"] for one in seen} == {f"Bearer {KEY}"}
    if path != "/rerank":
        assert {one.model for one in seen} == {SERVED.get(kind, "served-model")}


async def test_basic_auth_is_what_the_server_gets(servers) -> None:
    auth = {"basic_auth": {"username": "user", "password": "pass"}, "key": None}
    for kind, model_type in [
        ("openai", "text-generation"),
        ("vllm", "text-generation"),
        ("mistral", "text-generation"),
        ("tei", "text-classification"),
        ("vllm", "text-classification"),
        ("tei", "text-embeddings-inference"),
        ("mistral", "image-to-text"),
        ("albert", "text-classification"),
    ]:
        servers[kind].reset()
        await call(router_of(model_type, kind, servers[kind], **auth), model_type, "m")
        sent = {one.headers["authorization"] for one in servers[kind].records.seen}
        assert sent == {"Basic dXNlcjpwYXNz"}, (kind, model_type)


async def test_timeouts_hold(servers) -> None:
    servers["vllm"].order(hang_rate=1.0)
    router = router_of("text-generation", "vllm", servers["vllm"], timeout=0.2)
    with pytest.raises(litellm.Timeout):
        await router.acompletion(model="m", messages=MESSAGES)


async def test_one_liner(servers) -> None:
    provider = {"type": "vllm", "url": servers["vllm"].url, "model_name": "served-model"}
    config = load_config({"models": [{"name": "m", "type": "text-generation", "providers": [provider] * 2}]})
    router = litellm.Router(model_list=config.model_list)
    assert (await router.acompletion(model="m", messages=MESSAGES)).choices[0].message.content
