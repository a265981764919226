"""Each dialect's file says what it said to the API of its time."""

from __future__ import annotations

import pytest
from fast_router_albert import AlbertConfigError, load_config
from fast_router_albert.schema import Metric

from tests.albert.conftest import EXAMPLES


def load(name: str, environ: dict[str, str]):
    return load_config(EXAMPLES / f"{name}.yml", environ=environ)


@pytest.mark.parametrize(
    ("name", "dialects"),
    [
        ("d0", ("D0",)),
        ("d1", ("D1",)),
        ("d2", ("D2",)),
        ("d3", ("D3",)),
        ("d3b", ("D3b",)),
        ("d4", ("D4",)),
        ("d5", ("D5",)),
        ("d6", ("D6",)),
        ("mixed", ("D1", "D3b", "D5")),
    ],
)
def test_each_example_is_recognised_without_a_problem(name, dialects, environ) -> None:
    config = load(name, environ)
    assert config.dialects == dialects
    expected = {"d2": 1, "d6": 0}.get(name, 0)
    assert len(config.warnings) == expected, config.describe_warnings()


def test_d0_asks_the_servers(environ, servers) -> None:
    config = load("d0", environ)
    assert [(model.id, model.type.value) for model in config.models] == [
        ("served-model", "text-generation"),
        ("served-embeddings", "text-embeddings-inference"),
    ]
    kinds = [(model.providers[0].type.value, model.providers[0].url) for model in config.models]
    assert kinds == [("vllm", servers["vllm"].url), ("tei", servers["tei"].url)]


def test_d0_without_asking_says_what_is_missing(environ) -> None:
    with pytest.raises(AlbertConfigError) as caught:
        load_config(EXAMPLES / "d0.yml", environ=environ, discover=False)
    assert [problem.path for problem in caught.value.problems] == ["models[0]", "models[1]"]
    assert all("model_name" in problem.right for problem in caught.value.problems)


def test_d0_with_an_unreachable_server(servers) -> None:
    text = "models:\n  - {url: http://127.0.0.1:1/v1, type: text-generation}\n"
    with pytest.raises(AlbertConfigError, match="cannot be reached"):
        load_config(text)


def test_d0_two_servers_of_one_model_are_one_model(servers) -> None:
    text = "models:\n" + "".join(
        f"  - {{url: {servers[kind].url}/v1, type: text-generation}}\n" for kind in ("vllm", "openai")
    )
    config = load_config(text)
    assert [(model.id, len(model.providers)) for model in config.models] == [("served-model", 2)]
    with pytest.raises(AlbertConfigError, match="a text-generation model already"):
        load_config(text + f"  - {{url: {servers['mistral'].url}/v1, type: image-text-to-text}}\n")


def test_d1(environ, servers) -> None:
    language, embeddings = load("d1", environ).models
    assert (language.id, language.aliases, language.strategy) == (
        "language",
        ("language-latest", "chat"),
        "round_robin",
    )
    assert [(p.url, p.timeout) for p in language.providers] == [
        (servers["vllm"].url, 60),
        (servers["openai"].url, 60),
    ]
    assert (embeddings.strategy, embeddings.providers[0].timeout) == ("simple_shuffle", 300)


def test_d2_costs_carbon_and_the_params_of_the_shipped_example(environ) -> None:
    language = load("d2", environ).models[0]
    first, second = language.providers
    assert language.owned_by == "Ministry"
    assert language.costs(first) == (0.1, 0.3)
    assert (first.hosting_zone, first.total_params, first.active_params) == ("FRA", 8, 8)
    assert (second.hosting_zone, second.total_params, second.active_params) == ("WOR", 8, 8)
    assert language.costs(second) is None
    assert language.highest_costs == (0.1, 0.3)
    assert "never read" in load("d2", environ).describe_warnings()[0]


def test_d3(environ) -> None:
    language = load("d3", environ).models[0]
    first = language.providers[0]
    assert language.costs(first) == (0.1, 0.3)
    assert (first.hosting_zone, first.total_params, first.active_params, first.timeout) == ("FRA", 8, 8, 120)


def test_d4_policies(environ) -> None:
    language, reranker = load("d4", environ).models
    assert [(p.qos_metric, p.qos_limit, p.qos_enforced) for p in language.providers] == [
        (Metric.INFLIGHT, 16, True),
        (Metric.PERFORMANCE, 2000, True),
    ]
    assert reranker.providers[0].qos_enforced is False
    assert (language.retries, language.retry_countdown) == (20, 1)


def test_d5(environ) -> None:
    language = load("d5", environ).models[0]
    assert [(p.qos_metric, p.qos_limit) for p in language.providers] == [(Metric.INFLIGHT, 16), (Metric.TTFT, 2000)]
    assert language.providers[0].max_parallel_requests == 16
    assert language.costs(language.providers[0]) == (0.1, 0.3)
    assert (language.retries, language.retry_countdown, language.strategy) == (3, 1, "least_busy")


def test_d6(environ) -> None:
    language, embeddings = load("d6", environ).models
    capped, uncapped, closed = language.providers
    assert (capped.max_parallel_requests, uncapped.max_parallel_requests, closed.closed) == (16, None, True)
    assert uncapped.basic_auth is not None
    assert uncapped.basic_auth.username == "gateway"
    assert (language.retries, language.retry_countdown) == (4, 0.5)
    assert embeddings.dialect == "D6"


def test_d6_null_retries_leave_caps_unenforced_and_closed_ones_closed() -> None:
    text = """
models:
  - name: m
    type: text-generation
    qos_retries_before_reject: null
    providers:
      - {type: vllm, url: http://a:1, model_name: s, qos_metric: inflight, qos_limit: 3}
      - {type: vllm, url: http://b:1, model_name: s, qos_metric: inflight, qos_limit: 0}
"""
    first, second = load_config(text).models[0].providers
    assert first.max_parallel_requests is None
    assert second.closed


def test_one_model_may_mix_clients_and_providers() -> None:
    text = """
models:
  - name: m
    type: text-generation
    clients:
      - {model: s, type: vllm, args: {base_url: http://a:1/v1}}
    providers:
      - {model_name: s, type: vllm, url: http://b:1}
"""
    assert {p.url for p in load_config(text).models[0].providers} == {"http://a:1", "http://b:1"}


def test_a_limit_of_older_dialects_without_a_policy_is_enforced_and_said() -> None:
    text = """
models:
  - name: m
    type: text-generation
    providers:
      - {type: vllm, url: http://a:1, model_name: s, max_parallel_requests: 5}
      - {type: vllm, url: http://b:1, model_name: s, qos_value: 7}
"""
    config = load_config(text)
    assert [p.max_parallel_requests for p in config.models[0].providers] == [5, 7]
    assert len(config.warnings) == 2


def test_unknown_keys_are_kept_and_listed_with_a_near_match() -> None:
    text = """
modles: []
models:
  - name: m
    type: text-generation
    alias: [x]
    providers:
      - {type: vllm, url: http://a:1, model_name: s, time_out: 5, args: {api_kye: k}}
"""
    config = load_config(text)
    said = {warning.path: warning.right for warning in config.warnings}
    assert said == {
        "modles": "Did you mean 'models'?",
        "models[0].alias": "Did you mean 'aliases'?",
        "models[0].providers[0].time_out": "Did you mean 'timeout'?",
        "models[0].providers[0].args.api_kye": "Did you mean 'api_key'?",
    }
    assert config.extra == {"modles": []}
