"""From models to LiteLLM: bases, prefixes, prices, limits, aliases and keys."""

from __future__ import annotations

import json

import pytest
from fast_router_albert import AlbertConfigError, load_config

from tests.albert.conftest import EXAMPLES, KEY


def one(kind: str, model_type: str = "text-generation", **more: object) -> dict:
    provider = {"type": kind, "url": "http://host:1", "model_name": "served", **more}
    config = load_config({"models": [{"name": "m", "type": model_type, "providers": [provider]}]})
    (entry,) = config.model_list
    return entry


@pytest.mark.parametrize(
    ("kind", "model_type", "model", "base", "mode"),
    [
        ("openai", "text-generation", "openai/served", "http://host:1/v1", "chat"),
        ("albert", "image-text-to-text", "openai/served", "http://host:1/v1", "chat"),
        ("vllm", "text-generation", "hosted_vllm/served", "http://host:1/v1", "chat"),
        ("mistral", "text-generation", "mistral/served", "http://host:1/v1", "chat"),
        ("tei", "text-embeddings-inference", "openai/served", "http://host:1/v1", "embedding"),
        ("tei", "text-classification", "huggingface/served", "http://host:1", "rerank"),
        ("albert", "text-classification", "hosted_vllm/served", "http://host:1/v1", "rerank"),
        ("vllm", "text-classification", "hosted_vllm/served", "http://host:1/v1", "rerank"),
        ("vllm", "automatic-speech-recognition", "hosted_vllm/served", "http://host:1/v1", "audio_transcription"),
        ("mistral", "image-to-text", "mistral/served", "http://host:1/v1", "ocr"),
    ],
)
def test_routes(kind, model_type, model, base, mode) -> None:
    entry = one(kind, model_type)
    params = entry["litellm_params"]
    assert (params["model"], params["api_base"], entry["model_info"]["mode"]) == (model, base, mode)
    assert params["api_key"] == "EMPTY"


@pytest.mark.parametrize(
    "url", ["http://host:1", "http://host:1/", "http://host:1/v1", "http://host:1/v1/", "http://host:1/v1/v1"]
)
def test_exactly_one_v1(url: str) -> None:
    assert one("vllm", url=url)["litellm_params"]["api_base"] == "http://host:1/v1"
    assert one("vllm", url="http://host:1/sub/v1")["litellm_params"]["api_base"] == "http://host:1/sub/v1"


def test_prices_per_million_become_prices_per_token() -> None:
    params = one("vllm", model_cost_prompt_tokens=0.5, model_cost_completion_tokens=2)["litellm_params"]
    assert (params["input_cost_per_token"], params["output_cost_per_token"]) == (0.5e-6, 2e-6)
    assert "input_cost_per_token" not in one("vllm")["litellm_params"]
    free = one("vllm", model_cost_prompt_tokens=0)["litellm_params"]
    assert (free["input_cost_per_token"], free["output_cost_per_token"]) == (0, 0)


def test_limits() -> None:
    entry = one("vllm", qos_metric="inflight", qos_limit=4)
    assert entry["litellm_params"]["max_parallel_requests"] == 4
    assert entry["model_info"]["fast_router"]["qos_limit"] == 4
    slow = one("vllm", qos_metric="ttft", qos_limit=500)
    assert "max_parallel_requests" not in slow["litellm_params"]
    said = slow["model_info"]["fast_router"]
    assert (said["qos_metric"], said["qos_limit"], said["retries"]) == ("ttft", 0.5, 0)
    closed = one("vllm", qos_metric="inflight", qos_limit=0)["model_info"]
    assert closed["blocked"] is True
    assert closed["fast_router"]["qos_limit"] == 0
    assert "qos_limit" not in one("vllm", qos_metric="inflight", qos_limit=None)["model_info"]["fast_router"]
    logged = one("vllm", qos_policy="warning-log", max_parallel_requests=3)
    assert "max_parallel_requests" not in logged["litellm_params"]
    assert "qos_limit" not in logged["model_info"]["fast_router"]


def test_model_info_carries_the_rest(environ) -> None:
    entry = load_config(EXAMPLES / "d5.yml", environ=environ).model_list[0]
    albert = entry["model_info"]["albert"]
    assert albert == {
        "type": "text-generation",
        "owned_by": "Ministry",
        "aliases": ["chat"],
        "provider_type": "vllm",
        "hosting_zone": "FRA",
        "total_params": 8,
        "active_params": 8,
    }
    assert entry["litellm_params"]["timeout"] == 60
    assert one("vllm", max_context_length=4096)["model_info"]["max_input_tokens"] == 4096


def test_ids_are_unique_and_stay_the_same_when_other_entries_change(environ) -> None:
    config = load_config(EXAMPLES / "d4.yml", environ=environ)
    ids = [entry["model_info"]["id"] for entry in config.model_list]
    assert len(set(ids)) == len(ids)
    twins = [{"type": "vllm", "url": "http://a", "model_name": "s"}] * 2
    more = {"models": [{"name": "x", "type": "text-generation", "providers": twins}]}
    first, second = load_config(more).model_list
    assert first["model_info"]["id"] != second["model_info"]["id"]
    more["models"].insert(0, {"name": "y", "type": "text-generation", "providers": twins[:1]})
    assert load_config(more).model_list[1]["model_info"]["id"] == first["model_info"]["id"]


def test_router_kwargs() -> None:
    provider = [{"type": "openai", "model_name": "s"}]

    def kwargs(*strategies: str) -> dict:
        models = [
            {
                "name": f"m{i}",
                "type": "text-generation",
                "aliases": [f"a{i}"],
                "routing_strategy": s,
                "providers": provider,
            }
            for i, s in enumerate(strategies)
        ]
        return load_config({"models": models}).router_kwargs()

    assert kwargs("shuffle", "shuffle")["routing_strategy"] == "simple-shuffle"
    assert kwargs("least_busy")["routing_strategy"] == "least-busy"
    assert kwargs("round_robin")["routing_strategy"] == "simple-shuffle"
    mixed = kwargs("least_busy", "peak_ewma")
    assert mixed["routing_strategy"] == "simple-shuffle"
    assert mixed["model_group_alias"] == {"a0": "m0", "a1": "m1"}
    said = [entry["model_info"]["fast_router"]["strategy"] for entry in mixed["model_list"]]
    assert said == ["least_busy", "peak_ewma"]


def test_keys_stay_references(environ) -> None:
    config = load_config(EXAMPLES / "d3.yml", environ=environ)
    written = json.dumps(config.proxy_config())
    assert KEY not in written
    assert "os.environ/VLLM_KEY" in written
    assert KEY in json.dumps(config.proxy_config(references=False))
    assert config.model_list[0]["litellm_params"]["api_key"] == KEY


def test_a_key_that_is_only_partly_a_variable_is_not_written() -> None:
    provider = {"type": "openai", "model_name": "s", "key": "pre-${PART}"}
    config = load_config(
        {"models": [{"name": "m", "type": "text-generation", "providers": [provider]}]},
        environ={"PART": "hidden-part"},
    )
    with pytest.raises(AlbertConfigError, match="text and variables") as caught:
        config.proxy_config()
    assert "hidden-part" not in str(caught.value)
    assert config.model_list[0]["litellm_params"]["api_key"] == "pre-hidden-part"


def test_basic_auth_becomes_a_header() -> None:
    params = one("openai", basic_auth={"username": "user", "password": "pass"})["litellm_params"]
    assert params["extra_headers"] == {"Authorization": "Basic dXNlcjpwYXNz"}


@pytest.mark.parametrize("environ", [{}, {"VLLM_KEY": ""}, {"VLLM_KEY": "sk-of-here"}])
def test_a_variable_with_a_default_stays_a_variable(environ) -> None:
    text = "models:\n  - name: m\n    type: text-generation\n    providers:\n"
    text += "      - {type: vllm, url: 'http://h:1', model_name: s, key: '${VLLM_KEY:-EMPTY}'}\n"
    config = load_config(text, environ=environ)
    (entry,) = config.proxy_config(references=True)["model_list"]
    assert entry["litellm_params"]["api_key"] == "os.environ/VLLM_KEY"
    # In this process the default counts.
    (entry,) = config.model_list
    assert entry["litellm_params"]["api_key"] == (environ.get("VLLM_KEY") or "EMPTY")


def test_basic_auth_stands_where_no_one_header_of_a_callers_can_replace_it() -> None:
    auth = {"username": "bob", "password": "of-the-test"}
    params = one("vllm", basic_auth=auth)["litellm_params"]
    assert params["headers"] == params["extra_headers"]
    assert params["headers"]["Authorization"].startswith("Basic ")
    assert "extra_headers" not in one("vllm", "text-classification", basic_auth=auth)["litellm_params"]


@pytest.mark.parametrize("function", ["completion", "embedding"])
@pytest.mark.parametrize("more", [{}, {"extra_headers": {"X-Mine": "1"}}, {"headers": {"X-Mine": "1"}}], ids=str)
def test_basic_auth_survives_a_callers_headers(function, more) -> None:
    import litellm

    from fast_router.testing import Upstream

    kind = "text-generation" if function == "completion" else "text-embeddings-inference"
    with Upstream(name="behind-basic-auth", kind="vllm") as server:
        provider = {
            "type": "vllm" if function == "completion" else "tei",
            "url": server.url,
            "model_name": "test-model",
        }
        provider["basic_auth"] = {"username": "bob", "password": "of-the-test"}
        config = load_config({"models": [{"name": "m", "type": kind, "providers": [provider]}]})
        router = litellm.Router(model_list=config.model_list, num_retries=0)
        asked = {"messages": [{"role": "user", "content": "x"}]} if function == "completion" else {"input": ["x"]}
        getattr(router, function)(model="m", **asked, **more)
        (seen,) = server.records.seen
        assert seen.headers["authorization"].startswith("Basic ")
        assert seen.headers.get("x-mine") == ("1" if more else None)


def test_a_file_without_models_says_where_they_may_be() -> None:
    with pytest.raises(AlbertConfigError, match="in the database"):
        load_config({"dependencies": {"postgres": {"url": "postgresql://db"}}})
    with pytest.raises(AlbertConfigError, match="List at least one model"):
        load_config({"models": []})


def test_services_among_the_models_are_explained() -> None:
    with pytest.raises(AlbertConfigError, match=r"models\[0\].type: 'qdrant' is a database or a service"):
        load_config({"models": [{"type": "qdrant", "args": {"url": "http://h:1"}}]})
