"""Generated configurations: whatever the dialect, the same routing facts come out; broken text only gives our error."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from fast_router_albert import AlbertConfigError, load_config
from fast_router_albert.endpoints import SERVING_PROVIDERS, ModelType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.albert.conftest import EXAMPLES
from tests.support.examples import examples

names = st.text(alphabet="abcdefgxyz0123456789-_./é", min_size=1, max_size=30).map(lambda text: f"n{text}")
keys = st.none() | st.text(alphabet="ABCabc0123456789_", min_size=6, max_size=20).map(lambda text: f"zq{text}")
prices = st.none() | st.floats(0, 100, allow_nan=False).map(lambda price: round(price, 4))
hosts = st.integers(1, 65535).map(lambda port: f"http://host.example:{port}")


@st.composite
def facts(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Models as plain facts, in no dialect."""
    ids = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    models = []
    for index, name in enumerate(ids):
        kind = draw(st.sampled_from(list(ModelType)))
        served = sorted(SERVING_PROVIDERS[kind], key=str)
        providers = draw(
            st.lists(
                st.fixed_dictionaries(
                    {
                        "type": st.sampled_from(
                            [p.value for p in served if p.value in {"openai", "tei", "vllm"}] or ["mistral"]
                        ),
                        "url": hosts,
                        "key": keys,
                        "timeout": st.integers(1, 900),
                        "model_name": names,
                        "prompt": prices,
                        "completion": prices,
                        "limit": st.none() | st.integers(1, 50),
                    }
                ),
                min_size=1,
                max_size=3,
            )
        )
        models.append(
            {
                "id": name,
                "type": kind.value,
                "aliases": [f"alias-{index}-{n}" for n in range(draw(st.integers(0, 2)))],
                "strategy": draw(st.sampled_from(["shuffle", "round_robin", "least_busy"])),
                "providers": providers,
            }
        )
    return models


def drop_none(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not None}


def as_d1(model: dict[str, Any]) -> dict[str, Any]:
    clients = [
        drop_none(
            {
                "model": p["model_name"],
                "type": p["type"],
                "args": drop_none({"base_url": p["url"] + "/v1", "api_key": p["key"], "timeout": p["timeout"]}),
                "costs": drop_none({"prompt_tokens": p["prompt"], "completion_tokens": p["completion"]}),
                "max_parallel_requests": p["limit"],
                "qos_policy": "parallel-requests-threshold" if p["limit"] else None,
            }
        )
        for p in model["providers"]
    ]
    head = {"id": model["id"], "type": model["type"], "aliases": model["aliases"]}
    return {**head, "routing_strategy": model["strategy"], "clients": clients}


def as_d2(model: dict[str, Any]) -> dict[str, Any]:
    result = as_d1(model)
    for client in result["clients"]:
        client["args"]["api_url"] = client["args"].pop("base_url").removesuffix("/v1")
    return result


def as_d3(model: dict[str, Any]) -> dict[str, Any]:
    providers = [
        drop_none(
            {
                "type": p["type"],
                "url": p["url"],
                "key": p["key"],
                "timeout": p["timeout"],
                "model_name": p["model_name"],
                "model_cost_prompt_tokens": p["prompt"],
                "model_cost_completion_tokens": p["completion"],
                "qos_metric": "inflight" if p["limit"] else None,
                "qos_limit": p["limit"],
            }
        )
        for p in model["providers"]
    ]
    head = {"name": model["id"], "type": model["type"], "aliases": model["aliases"]}
    return {**head, "load_balancing_strategy": model["strategy"], "providers": providers}


def as_d3b(model: dict[str, Any]) -> dict[str, Any]:
    result = as_d2(model)
    result["load_balancing_strategy"] = result.pop("routing_strategy")
    result["providers"] = result.pop("clients")
    return result


WRITERS = {"D1": as_d1, "D2": as_d2, "D3": as_d3, "D3b": as_d3b}


def routing_facts(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = copy.deepcopy(entries)
    for entry in kept:
        for only in ("retries", "retry_countdown"):
            entry["model_info"]["fast_router"].pop(only, None)
    return kept


@given(facts(), st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_dialect_says_the_same(models: list[dict[str, Any]], data: st.DataObject) -> None:
    lists = []
    for writer in (*WRITERS.values(), None):
        written = [(writer or data.draw(st.sampled_from(list(WRITERS.values()))))(model) for model in models]
        text = yaml.safe_dump({"models": written}, allow_unicode=True)
        config = load_config(text + "\n", environ={})
        lists.append(routing_facts(config.model_list))
        assert {alias: m["id"] for m in models for alias in m["aliases"]} == config.router_kwargs().get(
            "model_group_alias", {}
        )
    assert all(entries == lists[0] for entries in lists)
    expected = [
        (m["id"], p["url"], p["key"] or "EMPTY", float(p["timeout"]), p["limit"])
        for m in models
        for p in m["providers"]
    ]
    found = [
        (
            e["model_name"],
            e["litellm_params"]["api_base"].removesuffix("/v1"),
            e["litellm_params"]["api_key"],
            e["litellm_params"]["timeout"],
            e["litellm_params"].get("max_parallel_requests"),
        )
        for e in lists[0]
    ]
    assert found == expected
    assert all(e["litellm_params"]["api_base"].count("/v1") <= 1 for e in lists[0])


@given(facts())
@settings(max_examples=30, deadline=None)
def test_no_key_is_ever_shown(models: list[dict[str, Any]]) -> None:
    config = load_config({"models": [as_d3(model) for model in models]}, environ={})
    for key in [p["key"] for model in models for p in model["providers"] if p["key"]]:
        assert key not in repr(config)
        assert key not in str(config)
        assert key not in "".join(config.describe_warnings())


SEEDS = sorted(path.read_text() for path in EXAMPLES.glob("*.yml"))
SECRET = "sk-0123456789secretsecret"


def outcome(source: Any) -> str:
    """What a user gets to see: the error, or the loaded configuration with its warnings. Any other error is a bug."""
    try:
        config = load_config(source, environ={}, discover=False)
    except AlbertConfigError as error:
        return str(error) if error.problems else ""
    return f"{config!r} {config.describe_warnings()}" if config.model_list else ""


@st.composite
def malformed(draw: st.DrawFn) -> str:
    """An example file with a secret in it, damaged in a few places."""
    text = draw(st.sampled_from(SEEDS)).replace("${VLLM_KEY:-EMPTY}", SECRET)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(text)))
        match draw(st.integers(0, 4)):
            case 0:
                text = text[:at] + text[at + draw(st.integers(1, 20)) :]
            case 1:
                noise = draw(st.text(alphabet="{}[]:&*!|>%@`'\"#-?, \t\n\x00\x85\ufeff${}ab01~", max_size=8))
                text = text[:at] + noise + text[at:]
            case 2:
                lines = text.split("\n")
                row = draw(st.integers(0, len(lines) - 1))
                lines[row] = " " * draw(st.integers(0, 3)) + lines[row]
                text = "\n".join(lines)
            case 3:
                lines = text.split("\n")
                one, two = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
                lines[one], lines[two] = lines[two], lines[one]
                text = "\n".join(lines)
            case _:
                values = [": null", ": [1]", ": {a: b}", ": -1", ": .nan", ": 1e999", ": ''", f": {SECRET}"]
                parts = text.split(": ")
                where = draw(st.integers(1, max(1, len(parts) - 1)))
                text = ": ".join(parts[:where]) + draw(st.sampled_from(values)) + "\n" + ": ".join(parts[where:])
    return text + "\n\n"


@given(malformed())
@settings(max_examples=examples(400), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_malformed_files_give_our_error_and_no_secret(text: str) -> None:
    said = outcome(text)
    assert said
    assert SECRET not in said


@given(text=st.text(max_size=300) | st.binary(max_size=300))
@settings(max_examples=examples(200), deadline=None)
def test_any_text_at_all(text: str | bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "config.yml"
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    with pytest.raises(AlbertConfigError):
        load_config(path, environ={}, discover=False)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just(SECRET),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
words = st.sampled_from(
    ["id", "name", "type", "aliases", "providers", "clients", "args", "url", "key", "timeout", "qos_limit", "costs",
     "qos_metric", "qos_policy", "basic_auth", "model_name", "params", "carbon", "settings", "dependencies"]
)  # fmt: skip


@given(
    st.lists(st.dictionaries(words, json_like | st.lists(st.dictionaries(words, json_like, max_size=6), max_size=2))),
    st.dictionaries(words, json_like, max_size=3),
)
@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_structure_of_known_words(models: list[Any], rest: dict[str, Any]) -> None:
    assert SECRET not in outcome({**rest, "models": models})
