"""Environment variables act on values, and never on structure."""

from __future__ import annotations

import pytest
from fast_router_albert import AlbertConfigError, load_config

FILE = """
models:
  - name: {name}
    type: text-generation
    providers:
      - type: vllm
        url: {url}
        key: {key}
        timeout: {timeout}
        model_name: served
"""


def load(environ: dict[str, str], *, strict: bool = True, **values: str):
    given = {"name": "m", "url": "http://h:1", "key": "none", "timeout": "60", **values}
    return load_config(FILE.format(**given), environ=environ, strict=strict)


def test_values_defaults_and_several_in_one() -> None:
    config = load(
        {"HOST": "vllm", "T": "12.5", "KEY": "k-1"},
        url="http://${HOST}:${PORT:-8000}",
        timeout="${T}",
        key="${KEY}",
    )
    provider = config.models[0].providers[0]
    assert (provider.url, provider.timeout) == ("http://vllm:8000", 12.5)
    assert provider.key is not None
    assert (provider.key.variable, provider.key.mixed) == ("KEY", False)
    assert provider.key.value.get_secret_value() == "k-1"


def test_an_empty_variable_counts_as_unset() -> None:
    config = load({"T": "", "KEY": ""}, timeout="${T:-30}", key="${KEY:-}")
    assert config.models[0].providers[0].timeout == 30
    assert config.models[0].providers[0].key is None
    with pytest.raises(AlbertConfigError, match="T is not set"):
        load({"T": ""}, timeout="${T}")


def test_unset_names_the_variable_and_the_line() -> None:
    with pytest.raises(AlbertConfigError) as caught:
        load({}, key="${SECRET_KEY}", url="http://${HOST}:1")
    problems = {problem.line: problem for problem in caught.value.problems}
    assert "HOST is not set" in problems[7].what
    assert problems[7].path == "models[0].providers[0].url"
    assert "SECRET_KEY is not set" in problems[8].what
    assert "${SECRET_KEY:-default}" in problems[8].right


def test_not_strict_keeps_the_text_and_warns() -> None:
    config = load({}, key="${SECRET_KEY}", strict=False)
    key = config.models[0].providers[0].key
    assert key is not None
    assert key.value.get_secret_value() == "${SECRET_KEY}"
    assert "SECRET_KEY is not set" in config.describe_warnings()[0]


def test_a_value_cannot_inject_structure() -> None:
    evil = 'x"\n    type: text-classification\n  - name: other\n#'
    with pytest.raises(AlbertConfigError, match="control characters"):
        load({"NAME": evil}, name="${NAME}")
    config = load({"NAME": "{a: [1], b: *x}"}, name="${NAME}")
    assert [model.id for model in config.models] == ["{a: [1], b: *x}"]


def test_a_variable_is_not_expanded_twice() -> None:
    assert load({"A": "${B}", "B": "no"}, name="${A}").models[0].id == "${B}"


def test_other_sections_need_no_variables() -> None:
    text = FILE.format(name="m", url="http://h:1", key="k", timeout=1)
    text += "dependencies:\n  postgres: {url: 'postgresql://${POSTGRES_PASSWORD}@db'}\n"
    config = load_config(text, environ={})
    assert config.dependencies["postgres"]["url"] == "postgresql://${POSTGRES_PASSWORD}@db"
    assert "POSTGRES_PASSWORD is not set" in config.describe_warnings()[0]
    with pytest.raises(AlbertConfigError, match="BROKER is not set"):
        load_config(text + "  celery: {broker_url: '${BROKER}'}\n", environ={})


@pytest.mark.parametrize("text", ["${lower}", "$HOME_DIR", "${A B}"])
def test_what_only_looks_like_a_variable_is_pointed_out(text: str) -> None:
    config = load({}, name=f"'m{text}'")
    assert config.models[0].id == f"m{text}"
    assert "looks like an environment variable" in config.describe_warnings()[0]


@pytest.mark.parametrize("text", ["${OPEN", "${OPEN:-", "${OPEN:-abc", "x${KEY} ${OPEN"])
def test_a_variable_that_never_closes_is_an_error(text: str) -> None:
    for strict in (True, False):
        with pytest.raises(AlbertConfigError, match="} is missing") as caught:
            load_config(FILE.format(name="m", url="http://h:1", key=f"'{text}'", timeout=1), environ={}, strict=strict)
        assert len([problem for problem in caught.value.problems if "missing" in problem.what]) == 1
    elsewhere = FILE.format(name="m", url="http://h:1", key="k", timeout=1) + f"playground: {{a: '{text}'}}\n"
    assert "looks like" in str(load_config(elsewhere, environ={"KEY": "v"}).describe_warnings())


def test_variables_in_comments_do_not_matter() -> None:
    assert load({}, name="m # ${UNSET}").warnings == ()


def test_a_mixed_key_is_known_as_such() -> None:
    key = load({"A": "one"}, key="pre-${A}").models[0].providers[0].key
    assert key is not None
    assert key.mixed
    assert key.variable is None
