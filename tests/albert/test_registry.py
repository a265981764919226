"""Albert's own objects: registry, router and clients, against real servers."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest
from fast_router_albert import (
    AlbertModelClient,
    EndpointNotServedError,
    MistralModelClient,
    ModelBusyError,
    ModelClient,
    ModelNotFoundError,
    ModelProvider,
    ModelRegistry,
    OpenAIModelClient,
    ProviderAnswerError,
    ProviderNotReachableError,
    ProviderTimeoutError,
    RequestFormatError,
    TeiModelClient,
    VllmModelClient,
    VllmModelProvider,
    WrongModelTypeError,
    load_config,
)

from tests.albert.conftest import EXAMPLES, KEY

MESSAGES = [{"role": "user", "content": "Who answers?"}]


@pytest.fixture
async def registry(environ):
    made = ModelRegistry.from_config(load_config(EXAMPLES / "d3.yml", environ=environ))
    yield made
    await made.aclose()


def small(servers, kinds=("vllm",), model_type="text-generation", **more) -> ModelRegistry:
    providers = [
        {"type": kind, "url": servers[kind].url, "key": KEY, "model_name": "served-model", **more.pop(kind, {})}
        for kind in kinds
    ]
    model = {"name": "m", "type": model_type, "routing_strategy": "round_robin", "providers": providers}
    return ModelRegistry.from_config({"models": [{**model, **more}]})


def in_flight(registry: ModelRegistry) -> list[int]:
    registry.router.engine.settle()
    return [deployment.in_flight for deployment in registry.router.deployments.values()]


def test_a_mapping_by_id_and_alias(registry) -> None:
    assert list(registry) == ["language", "embeddings", "speech"]
    assert len(registry) == 3
    assert registry["chat"] is registry["language"]
    assert registry("chat").id == "language"
    assert "chat" in registry
    assert "nobody" not in registry
    assert registry.get("nobody") is None
    assert registry.aliases == {"chat": "language"}
    with pytest.raises(ModelNotFoundError, match="Model not found") as caught:
        registry["nobody"]
    assert caught.value.status_code == 404
    assert not isinstance(caught.value, KeyError)


def test_the_list_says_what_the_api_says(registry) -> None:
    card = registry.list()[0]
    said = json.loads(card.model_dump_json())
    created = said.pop("created")
    assert created > 1_700_000_000
    assert said == {
        "id": "language",
        "object": "model",
        "type": "text-generation",
        "aliases": ["chat"],
        "owned_by": "Ministry",
        "max_context_length": None,
        "costs": {"prompt_tokens": 0.1, "completion_tokens": 0.3},
    }
    assert card["id"] == card.id
    assert [one.id for one in registry.list(model="chat")] == ["language"]
    with pytest.raises(ModelNotFoundError):
        registry.list(model="nobody")


async def test_probe_learns_context_lengths_and_vector_sizes(registry, servers) -> None:
    found = await registry.probe()
    assert {name: [probe.reachable for probe in probes] for name, probes in found.items()} == {
        "language": [True, True],
        "embeddings": [True],
        "speech": [True],
    }
    assert registry["language"].max_context_length == 32_768
    assert registry["embeddings"].vector_size == 8
    assert registry["embeddings"].max_context_length
    assert registry.list()[0].max_context_length == 32_768


async def test_an_unreachable_server_is_reported_and_fatal_only_if_asked() -> None:
    provider = {"type": "vllm", "url": "http://127.0.0.1:1", "model_name": "s"}
    registry = ModelRegistry.from_config(
        {"models": [{"name": "m", "type": "text-generation", "providers": [provider]}]}
    )
    (probe,) = (await registry.probe())["m"]
    assert not probe.reachable
    assert probe.problem
    with pytest.raises(ProviderNotReachableError, match="not reachable") as caught:
        await registry.probe(strict=True)
    assert caught.value.status_code == 424


async def test_the_smallest_context_of_all_providers_counts(servers) -> None:
    registry = small(servers, ("vllm", "albert"), vllm={"max_context_length": 4096})
    await registry.probe()
    assert registry["m"].max_context_length == 4096


@pytest.mark.parametrize(
    "endpoint", ["chat/completions", "/chat/completions", "/v1/chat/completions", "v1/chat/completions/"]
)
def test_endpoint_spellings(registry, endpoint) -> None:
    client = registry["language"].get_client(endpoint=endpoint)
    assert isinstance(client, (VllmModelClient, AlbertModelClient))
    assert registry["language"].get_provider(endpoint=endpoint) is not None
    with pytest.raises(ValueError, match="unknown endpoint"):
        registry["language"].get_client("nonsense")


def test_wrong_type(registry, environ) -> None:
    with pytest.raises(WrongModelTypeError, match="Wrong model type") as caught:
        registry["embeddings"].get_client("chat/completions")
    assert caught.value.status_code == 422
    newest = ModelRegistry.from_config(load_config(EXAMPLES / "d6.yml", environ=environ))
    with pytest.raises(WrongModelTypeError) as caught:
        newest["embeddings"].get_client("rerank")
    assert caught.value.status_code == 400


def test_the_tables() -> None:
    assert TeiModelClient.ENDPOINT_TABLE["chat/completions"] is None
    assert TeiModelClient.ENDPOINT_TABLE["rerank"] == "/rerank"
    assert TeiModelClient.ENDPOINT_TABLE["models"] == "/info"
    assert OpenAIModelClient.ENDPOINT_TABLE["rerank"] is None
    assert AlbertModelClient.ENDPOINT_TABLE["rerank"] == "/v1/rerank"
    assert MistralModelClient.ENDPOINT_TABLE["ocr"] == "/v1/ocr"
    assert (ModelProvider, VllmModelProvider) == (ModelClient, VllmModelClient)


async def test_round_robin_takes_turns_and_leases_end(servers) -> None:
    registry = small(servers, ("vllm", "openai"))
    for _ in range(6):
        client = registry["m"].get_client()
        answer = await client.chat.completions.create(model=client.model, messages=MESSAGES)
        assert answer.choices[0].message.content
    assert [servers[kind].records.requests for kind in ("vllm", "openai")] == [3, 3]
    assert in_flight(registry) == [0, 0]
    rows = registry.router.stats()["models"]["m"]["deployments"]
    assert [(row["picks"], row["successes"], row["failures"]) for row in rows] == [(3, 3, 0), (3, 3, 0)]


async def test_streams_hold_their_lease_until_they_end(servers) -> None:
    registry = small(servers)
    client = registry["m"].get_client()
    stream = await client.chat.completions.create(model=client.model, messages=MESSAGES, stream=True)
    assert in_flight(registry) == [1]
    assert len([chunk async for chunk in stream]) > 2
    assert in_flight(registry) == [0]
    response = await registry["m"].forward("chat/completions", json={"messages": MESSAGES, "stream": True}, stream=True)
    assert in_flight(registry) == [1]
    lines = [line async for line in response.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert in_flight(registry) == [0]
    (deployment,) = registry.router.deployments.values()
    assert deployment.successes == 2
    assert deployment.first_token is not None


async def test_streams_closed_early_or_dropped_give_back_their_lease(servers) -> None:
    registry = small(servers)
    body = {"messages": MESSAGES, "stream": True}
    response = await registry["m"].forward("chat/completions", json=body, stream=True)
    await response.aclose()
    assert in_flight(registry) == [0]
    client = registry["m"].get_client()
    stream = await client.chat.completions.create(model=client.model, messages=MESSAGES, stream=True)
    async for _ in stream:
        break
    await stream.close()
    assert in_flight(registry) == [0]
    dropped = registry["m"].get_client()
    assert in_flight(registry) == [1]
    del dropped
    gc.collect()
    assert in_flight(registry) == [0]


async def test_a_client_may_be_used_again(servers) -> None:
    registry = small(servers)
    client = registry["m"].get_client()
    await asyncio.gather(*(client.forward("chat/completions", json={"messages": MESSAGES}) for _ in range(5)))
    assert in_flight(registry) == [0]
    (row,) = registry.router.stats()["models"]["m"]["deployments"]
    assert (row["picks"], row["successes"]) == (5, 5)


async def test_calls_under_way_are_counted_exactly(servers) -> None:
    registry = small(servers)
    with servers["vllm"].held():
        tasks = [
            asyncio.create_task(registry["m"].forward("chat/completions", json={"messages": MESSAGES}))
            for _ in range(7)
        ]
        await asyncio.to_thread(servers["vllm"].wait_for, lambda seen: seen.in_flight == 7)
        assert in_flight(registry) == [7]
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        assert in_flight(registry) == [6]
    await asyncio.gather(*tasks[1:])
    assert in_flight(registry) == [0]


async def test_the_limit_holds_and_then_the_model_is_busy(servers) -> None:
    limit = {"qos_metric": "inflight", "qos_limit": 2}
    registry = small(servers, ("vllm", "openai"), vllm=limit, openai=limit)
    taken = [registry["m"].get_client() for _ in range(4)]
    assert in_flight(registry) == [2, 2]
    with pytest.raises(ModelBusyError, match="Model is too busy, please try again later") as caught:
        registry["m"].get_client()
    assert caught.value.status_code == 503
    assert caught.value.retry_after == 10
    taken.pop().release()
    assert registry["m"].get_client().api_url
    del taken


async def test_waiting_as_configured_for_room(servers) -> None:
    limit = {"qos_metric": "inflight", "qos_limit": 1}
    config = load_config(
        {
            "models": [
                {
                    "name": "m",
                    "type": "text-generation",
                    "qos_retries_before_reject": 20,
                    "providers": [{"type": "vllm", "url": servers["vllm"].url, "model_name": "served-model", **limit}],
                }
            ]
        }
    )
    registry = ModelRegistry.from_config(config)
    first = registry["m"].get_client()
    waiting = asyncio.create_task(registry["m"].acquire_client())
    await asyncio.sleep(0)
    assert not waiting.done()
    first.release()
    second = await waiting
    assert in_flight(registry) == [1]
    second.release()


def test_a_closed_provider_takes_nothing(servers) -> None:
    registry = small(servers, ("vllm", "openai"), vllm={"qos_metric": "inflight", "qos_limit": 0})
    assert {registry["m"].get_client().api_url for _ in range(5)} == {servers["openai"].url}


async def test_slow_answers_close_a_provider_with_a_latency_limit(servers) -> None:
    servers["vllm"].order(latency=0.15)
    registry = small(servers, ("vllm", "openai"), vllm={"qos_metric": "ttft", "qos_limit": 100})
    for _ in range(2):
        response = await registry["m"].forward(
            "chat/completions", json={"messages": MESSAGES, "stream": True}, stream=True
        )
        await response.aread()
    before = servers["vllm"].records.requests
    assert before == 1
    for _ in range(4):
        await registry["m"].forward("chat/completions", json={"messages": MESSAGES})
    assert servers["vllm"].records.requests == before


async def test_rerank_both_ways(servers) -> None:
    tei = small(servers, ("tei",), "text-classification")["m"]
    documents = ["zero", "the one", "two"]
    answer = (await tei.forward("/v1/rerank", json={"query": "one", "documents": documents, "top_n": 2})).json()
    assert [sorted(row) for row in answer["results"]] == [["index", "relevance_score"]] * 2
    assert servers["tei"].records.seen[-1].body["texts"] == documents
    albert_words = (await tei.forward("rerank", json={"prompt": "one", "input": documents})).json()
    assert {row["object"] for row in albert_words["data"]} == {"rerank"}
    own = (await tei.forward("rerank", json={"query": "one", "texts": documents})).json()
    assert sorted(row["index"] for row in own) == [0, 1, 2]
    with_text = (
        await tei.forward("rerank", json={"query": "one", "documents": documents, "return_documents": True})
    ).json()
    assert all(row["document"]["text"] == documents[row["index"]] for row in with_text["results"])
    for kind in ("albert", "vllm"):
        other = small(servers, (kind,), "text-classification")["m"]
        answer = (await other.forward("rerank", json={"prompt": "one", "input": documents})).json()
        assert len(answer["data"]) == 3
        assert servers[kind].records.seen[-1].body["documents"] == documents
    with pytest.raises(RequestFormatError, match="Request formatting failed") as caught:
        await tei.forward("rerank", json={"query": "one"})
    assert caught.value.status_code == 500


async def test_files_and_forms(servers) -> None:
    speech = small(servers, ("albert",), "automatic-speech-recognition")["m"]
    files = {"file": ("a.wav", b"RIFF0000", "audio/wav")}
    answer = await speech.forward("audio/transcriptions", data={"language": "fr", "model": "m"}, files=files)
    assert answer.json()["text"]
    assert servers["albert"].records.seen[-1].model == "served-model"


async def test_errors_as_documented(servers) -> None:
    registry = small(servers, ("vllm",), vllm={"timeout": 0.2})
    model = registry["m"]
    body = {"messages": MESSAGES}
    servers["vllm"].order(hang_rate=1.0)
    with pytest.raises(ProviderTimeoutError) as timeout:
        await model.forward("chat/completions", json=body)
    assert timeout.value.status_code == 504
    servers["vllm"].order(hang_rate=0.0, error_rate=1.0, error_status=418)
    with pytest.raises(ProviderAnswerError) as answer:
        await model.forward("chat/completions", json=body)
    assert answer.value.status_code == 418
    servers["vllm"].order(error_rate=0.0)
    assert in_flight(registry) == [0]
    client = OpenAIModelClient(model="m", api_url="http://127.0.0.1:1", api_key=KEY)
    with pytest.raises(ProviderNotReachableError) as gone:
        await client.forward("chat/completions", json=body)
    assert KEY not in str(gone.value)
    assert KEY not in repr(client)
    with pytest.raises(EndpointNotServedError):
        await client.forward("rerank", json=body)


def test_failures_count_like_any_other(servers) -> None:
    async def run() -> None:
        registry = small(servers)
        servers["vllm"].order(error_rate=1.0, error_status=500)
        with pytest.raises(ProviderAnswerError):
            await registry["m"].forward("chat/completions", json={"messages": MESSAGES})
        (deployment,) = registry.router.deployments.values()
        assert (deployment.failures, deployment.in_flight) == (1, 0)

    asyncio.run(run())


async def test_reload_keeps_what_is_known(servers) -> None:
    registry = small(servers, ("vllm", "openai"))
    held = registry["m"].get_client()
    config = load_config(
        {
            "models": [
                {
                    "name": "m",
                    "type": "text-generation",
                    "aliases": ["new"],
                    "providers": [
                        {"type": "vllm", "url": servers["vllm"].url, "key": KEY, "model_name": "served-model"},
                        {"type": "openai", "url": servers["openai"].url, "key": KEY, "model_name": "served-model"},
                    ],
                }
            ]
        }
    )
    registry.reload(config)
    assert sum(in_flight(registry)) == 1
    assert registry["new"].strategy == "simple_shuffle"
    held.release()
    assert sum(in_flight(registry)) == 0


async def test_get_client_may_be_awaited(servers) -> None:
    client = await small(servers)["m"].get_client()
    assert isinstance(client, VllmModelClient)
