"""Broken files: every problem at once, with its line, what is wrong and what would be right."""

from __future__ import annotations

import pickle

import pytest
from fast_router_albert import AlbertConfigError, load_config

SECRET = "sk-0123456789abcdefghij"
GOOD = f"""models:
  - name: language
    type: text-generation
    aliases: [chat]
    routing_strategy: shuffle
    providers:
      - type: vllm
        url: http://vllm:8000
        key: {SECRET}
        model_name: served
        timeout: 60
"""


def broken(old: str, new: str) -> AlbertConfigError:
    assert old in GOOD
    with pytest.raises(AlbertConfigError) as caught:
        load_config(GOOD.replace(old, new))
    assert SECRET not in str(caught.value)
    return caught.value


def test_the_good_one() -> None:
    config = load_config(GOOD)
    assert config.warnings == ()
    assert SECRET not in repr(config)
    assert SECRET not in str(config.models)


@pytest.mark.parametrize(
    ("old", "new", "line", "path", "what", "right"),
    [
        ("text-generation", "text-genration", 3, "models[0].type", "did you mean 'text-generation'?", "One of:"),
        ("type: vllm", "type: vlm", 7, "models[0].providers[0].type", "did you mean 'vllm'?", "albert, mistral"),
        ("shuffle", "shufle", 5, "models[0].routing_strategy", "did you mean 'shuffle'?", "least_busy"),
        ("type: vllm", "type: tei", 7, "models[0].providers[0].type", "cannot serve", "albert, mistral, openai, vllm"),
        ("http://vllm:8000", "vllm:8000", 8, "models[0].providers[0].url", "not an http://", "without /v1"),
        ("http://vllm:8000", "http://vllm:port", 8, "models[0].providers[0].url", "not a well-formed", "without /v1"),
        ("http://vllm:8000", "http://u:pw@vllm", 8, "models[0].providers[0].url", "a user name", "basic_auth"),
        ("        url: http://vllm:8000\n", "", 7, "models[0].providers[0]", "`url` is missing", "without /v1"),
        ("timeout: 60", "timeout: soon", 11, "models[0].providers[0].timeout", "'soon' cannot", "seconds"),
        ("timeout: 60", "timeout: -1", 11, "models[0].providers[0].timeout", "too small", "seconds"),
        ("timeout: 60", "timeout: yes", 11, "models[0].providers[0].timeout", "yes/no", "seconds"),
        ("timeout: 60", "timeout: .inf", 11, "models[0].providers[0].timeout", "not a finite", "seconds"),
        ("[chat]", "[language]", 4, "models[0].aliases[0]", "is taken (first on line 2)", "unique"),
        ("[chat]", "chat", 4, "models[0].aliases", "'chat' is not a list", "[one, two]"),
        ("[chat]", f"[{'x' * 65}]", 4, "models[0].aliases[0]", "longer than 64", "1 to 64"),
        ("name: language", "name: ''", 2, "models[0].name", "empty", "1 to 64"),
        ("name: language", "name: 12", 2, "models[0].name", "a number where text", "quotes"),
        ("- name: language\n    type", "- type", 2, "models[0]", "`name` is missing", "1 to 64"),
        ("key: " + SECRET, "key: 123456", 9, "models[0].providers[0].key", "a number where text", "quotes"),
        ("key: " + SECRET, f"key: '{SECRET} x'", 9, "models[0].providers[0].key", "blanks", "ASCII"),
        ("model_name: served", "model_nam: served", 7, "models[0].providers[0]", "`model_name` is missing", "text"),
        ("timeout: 60", "qos_metric: speed", 11, "models[0].providers[0].qos_metric", "no metric", "inflight"),
        ("timeout: 60", "qos_policy: strict", 11, "models[0].providers[0].qos_policy", "no policy", "warning-log"),
        ("timeout: 60", "model_hosting_zone: France", 11, "models[0].providers[0].model_hosting_zone", "", "FRA"),
        ("timeout: 60", "basic_auth: {username: a}", 11, "models[0].providers[0].basic_auth", "`password`", ""),
        ("timeout: 60", "args: {timeout: 5}\n        timeout: 60", 11, "models[0].providers[0].args.timeout", "", ""),
    ],
)
def test_one_mistake_one_problem(old, new, line, path, what, right) -> None:
    error = broken(old, new)
    if "args:" in new:
        assert "says something else than `timeout`" in str(error)
        return
    assert [(problem.line, problem.path) for problem in error.problems] == [(line, path)], str(error)
    assert what in error.problems[0].what, str(error)
    assert right in error.problems[0].right, str(error)


def test_a_misspelt_key_is_hinted_at() -> None:
    assert "Did you mean 'model_name'?" in str(broken("model_name: served", "model_nam: served"))


def test_everything_in_one_report() -> None:
    text = """models:
  - name: one
    type: text-genration
    providers: []
  - name: one
    type: text-generation
    providers:
      - {type: openia, url: nowhere, timeout: never}
  - just text
"""
    with pytest.raises(AlbertConfigError) as caught:
        load_config(text)
    lines = [problem.line for problem in caught.value.problems]
    assert lines == sorted(lines)
    assert len(lines) >= 7
    assert set(lines) == {3, 4, 5, 8, 9}


@pytest.mark.parametrize("models", ["", "models:\n", "models: {}\n", "models: []\n", "models: text\n", "other: 1\n"])
def test_no_models(models: str) -> None:
    with pytest.raises(AlbertConfigError, match=r"models|empty"):
        load_config(models + "\n\n")


def test_duplicates_over_the_whole_file() -> None:
    text = GOOD + GOOD.removeprefix("models:\n").replace("language", "other")
    with pytest.raises(AlbertConfigError) as caught:
        load_config(text)
    assert [(p.path, p.line) for p in caught.value.problems] == [("models[1].aliases[0]", 14)]


def test_vector_sizes_must_agree() -> None:
    text = """models:
  - name: e
    type: text-embeddings-inference
    providers:
      - {type: tei, url: http://a, model_name: s, vector_size: 8}
      - {type: tei, url: http://b, model_name: s, vector_size: 16}
"""
    with pytest.raises(AlbertConfigError, match="different vector sizes"):
        load_config(text)


def test_defaults_for_urls() -> None:
    def url(kind: str) -> str:
        provider = {"type": kind, "model_name": "m"}
        model = {"name": "m", "type": "text-generation", "providers": [provider]}
        return load_config({"models": [model]}).models[0].providers[0].url

    assert url("openai") == "https://api.openai.com"
    assert url("albert") == "https://albert.api.etalab.gouv.fr"
    assert url("mistral") == "https://api.mistral.ai"
    with pytest.raises(AlbertConfigError, match="`url` is missing"):
        url("vllm")


def test_status_code_and_pickle() -> None:
    error = broken("type: vllm", "type: vlm")
    assert error.status_code == 500
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_key_in_the_wrong_place_is_not_quoted() -> None:
    for old in ("text-generation", "type: vllm", "shuffle", "http://vllm:8000", "timeout: 60"):
        new = {"type: vllm": f"type: {SECRET}", "timeout: 60": f"timeout: {SECRET}"}.get(old, SECRET)
        broken(old, new)
