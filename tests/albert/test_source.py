"""YAML is read within bounds, and every value knows its line."""

from __future__ import annotations

import io

import pytest
import yaml
from fast_router_albert import AlbertConfigError, load_config
from fast_router_albert.source import MAX_BYTES, join, read_mapping


def refused(text: str) -> AlbertConfigError:
    with pytest.raises(AlbertConfigError) as caught:
        read_mapping(text, "config.yml")
    return caught.value


def test_plain_data_and_lines() -> None:
    document = read_mapping("a: 1\nb:\n  - x\n  - {y: 2.5, z: null}\nday: 2024-13-45\n", "config.yml")
    assert document.data == {"a": 1, "b": ["x", {"y": 2.5, "z": None}], "day": "2024-13-45"}
    assert document.lines["b", 1, "z"] == 4
    assert document.line(("b", 0, "nothing", "there")) == 3


def test_merge_keys_keep_their_own_lines_and_lose_to_the_mapping() -> None:
    document = read_mapping("base: &base\n  timeout: 60\n  type: vllm\nuse:\n  <<: *base\n  type: tei\n", "c")
    assert document.data["use"] == {"type": "tei", "timeout": 60}
    assert document.lines["use", "timeout"] == 2


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("models: 1\nmodels: 2\n", 2, "given twice (first on line 1)"),
        ("models:\n  b: 1\n  b: 2\n", 3, "given twice"),
        ("settings: {}\nsettings: {}\n", 2, "given twice"),
        ("settings:\n  routing_x: 1\n  routing_x: 2\n", 3, "given twice"),
        ("dependencies:\n  celery: {a: 1, a: 2}\n", 2, "given twice"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "a YAML tag"),
        ("a: !!python/name:os.system\n", 1, "a YAML tag"),
        ("a: !secret x\n", 1, "a YAML tag"),
        ("a: !!binary aGk=\n", 1, "a YAML tag"),
        ("a: 1\n\tb: 2\n", 2, "a tab character"),
        ("a: *nobody\n", 1, "an alias"),
        ("a: &x [*x]\n", 1, "contains itself"),
        ("a: &x\n  <<: *x\n", 1, "contains itself"),
        ("? [1, 2]\n: x\n", 1, "a key that is not plain text"),
        ("- 1\n- 2\n", 1, "not a mapping"),
        ("a: 1\n---\nb: 2\n", 2, "more than one document"),
        ("a: 'open\n", 2, "a quote that never closes"),
        ("a: [1, 2\nb: 3\n", 2, "never closes"),
        ("a: !!int word\n", 1, "not a valid int"),
        ("<<: 3\n", 1, "needs a mapping"),
        ("", None, "empty"),
    ],
)
def test_refused(text: str, line: int | None, what: str) -> None:
    error = refused(text)
    assert [(what in problem.what, problem.line) for problem in error.problems] == [(True, line)], str(error)
    assert "config.yml" in str(error)


def test_all_duplicates_in_one_report() -> None:
    assert len(refused("models: {a: 1, a: 2, b: !x 1, b: 2}\n").problems) == 3


@pytest.mark.parametrize(
    "text", ["a: 1\na: 2\n", "x: {a: 1, a: 2}\n", "settings: {a: 1, a: 2}\n", "dependencies: {x: {a: 1, a: 2}}\n"]
)
def test_what_is_not_read_may_be_given_twice(text: str) -> None:
    document = read_mapping(text, "config.yml")
    assert document.data == yaml.safe_load(text)
    (warning,) = document.warnings
    assert "given twice" in warning.what


def test_an_alias_bomb_is_refused_before_it_is_expanded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    error = refused("\n".join(lines))
    assert "aliases expand" in str(error)


def test_a_merge_bomb_is_refused() -> None:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{i}: &a{i} {{k{i}: {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}}}" for i in range(1, 36)]
    lines += [f"m{i}: &m{i}\n  <<: [{', '.join([f'*m{i - 1}' if i > 1 else '*a0'] * 9)}]" for i in range(1, 30)]
    assert "aliases expand" in str(refused("\n".join(lines)))


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_refused(opening: str) -> None:
    assert "levels" in str(refused("a:\n " + opening * 5000))


def test_too_large(tmp_path) -> None:
    path = tmp_path / "big.yml"
    path.write_text("a: " + "x" * MAX_BYTES)
    with pytest.raises(AlbertConfigError, match="larger than"):
        load_config(path)
    with pytest.raises(AlbertConfigError, match="larger than"):
        load_config("models:\n" + "x" * MAX_BYTES)
    with pytest.raises(AlbertConfigError, match="more than"):
        load_config("models: [" + "1," * 60_000 + "]\n")


@pytest.mark.parametrize(
    "make", [lambda p: p, lambda p: (p.mkdir(), p)[1], lambda p: (p.write_bytes(b"\xff\xfe"), p)[1]]
)
def test_files_that_cannot_be_read(make, tmp_path) -> None:
    path = make(tmp_path / "config.yml")
    with pytest.raises(AlbertConfigError, match=r"config\.yml"):
        load_config(path)


def test_every_kind_of_source(tmp_path) -> None:
    text = "models:\n  - {name: a, type: text-generation, providers: [{type: openai, model_name: m}]}\n"
    path = tmp_path / "config.yml"
    path.write_text(text)
    with path.open() as file, path.open("rb") as raw:
        sources = [path, str(path), text, file, raw, io.StringIO(text), io.BytesIO(text.encode())]
        loaded = [load_config(source) for source in sources]
    given = {"models": [{"name": "a", "type": "text-generation", "providers": [{"type": "openai", "model_name": "m"}]}]}
    loaded.append(load_config(given))
    assert {config.models for config in loaded} == {loaded[0].models}
    assert given["models"][0]["providers"] == [{"type": "openai", "model_name": "m"}]


def test_a_dict_with_bounds() -> None:
    deep: dict = {}
    inner = deep
    for _ in range(100):
        inner["a"] = {}
        inner = inner["a"]
    with pytest.raises(AlbertConfigError, match="nested deeper"):
        load_config(deep)
    loop: dict = {}
    loop["models"] = [loop]
    with pytest.raises(AlbertConfigError, match="nested deeper"):
        load_config(loop)
    with pytest.raises(AlbertConfigError, match="cannot be read"):
        load_config(3)  # type: ignore[arg-type]


def test_paths_never_show_what_may_be_a_secret() -> None:
    assert join(("models", 2, "providers", 0, "url")) == "models[2].providers[0].url"
    assert join(("sk-abcdefghijkl",)) == "(key not shown)"


def test_a_large_file_full_of_mistakes_is_read_to_its_end() -> None:
    row = "  - {name: a, type: b, providers: [{c: d}]}\n"
    with pytest.raises(AlbertConfigError) as caught:
        load_config("models:\n" + row * 2000)
    assert len({problem.line for problem in caught.value.problems}) == 2000
