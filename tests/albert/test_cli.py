"""`fast-router albert`: check and convert, exit codes, masked keys."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from fast_router.cli import main
from tests.albert.conftest import EXAMPLES, KEY


def run(*words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, ["albert", *words], env=env or {})


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yml")), ids=lambda path: path.stem)
def test_check_every_example(path: Path, environ) -> None:
    result = run("check", str(path), env=environ)
    assert result.exit_code == 0, result.output
    assert "it can be used" in result.output
    assert KEY not in result.output
    assert "hidden-password" not in result.output


def test_check_shows_what_the_file_means(environ) -> None:
    output = run("check", str(EXAMPLES / "d5.yml"), env=environ).output
    assert "language (also chat): text-generation, least_busy, dialect D5" in output
    assert "key ${VLLM_KEY}" in output
    assert "inflight at most 16" in output
    assert "costs 0.1/0.3 per million tokens" in output


def test_check_probes(environ) -> None:
    result = run("check", "--probe", str(EXAMPLES / "d3.yml"), env=environ)
    assert "reachable, 32768 tokens" in result.output
    assert "vectors of 8" in result.output
    gone = run("check", "--probe", str(EXAMPLES / "d3.yml"), env={**environ, "VLLM_URL": "http://127.0.0.1:1"})
    assert gone.exit_code == 1
    assert "not reachable" in gone.output


def test_check_reports_everything_and_exits_with_1(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(f"models:\n  - name: m\n    type: text\n    providers: [{{type: opnai, key: {KEY}}}]\n")
    result = run("check", str(path))
    assert result.exit_code == 1
    assert result.output.count(f"{path}:") >= 3
    assert KEY not in result.output


def test_config_file_is_honoured(environ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("check", env={**environ, "CONFIG_FILE": str(EXAMPLES / "d2.yml")}).exit_code == 0
    monkeypatch.chdir(tmp_path)
    missing = run("check")
    assert missing.exit_code == 1
    assert "config.yml" in missing.output
    Path("config.yml").write_text((EXAMPLES / "d2.yml").read_text())
    assert run("check", env=environ).exit_code == 0


def test_unset_variables(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(
        "models: [{name: m, type: text-generation, providers: [{type: openai, model_name: s, key: '${NOT_SET}'}]}]\n"
    )
    assert "NOT_SET is not set" in run("check", str(path)).output
    lax = run("check", "--no-strict", str(path))
    assert lax.exit_code == 0
    assert "warning: " in lax.output


@pytest.mark.parametrize("kind", ["proxy", "model-list"])
def test_convert_keeps_variables(environ, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "litellm.yaml"
    result = run("convert", str(EXAMPLES / "mixed.yml"), "-o", str(target), "--format", kind, env=environ)
    assert result.exit_code == 0, result.output
    text = target.read_text()
    assert KEY not in text
    assert "os.environ/VLLM_KEY" in text
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    content = yaml.safe_load(text)
    entries = content if kind == "model-list" else content["model_list"]
    assert [entry["model_name"] for entry in entries] == ["language"] * 2 + ["embeddings"] * 2 + ["reranker"]
    if kind == "proxy":
        assert content["router_settings"]["model_group_alias"] == {"chat": "language"}
    assert os.listdir(tmp_path) == ["litellm.yaml"]  # noqa: PTH208 - hidden leftovers count


def test_convert_to_stdout_and_refusals(environ, tmp_path: Path) -> None:
    assert yaml.safe_load(run("convert", str(EXAMPLES / "d1.yml"), env=environ).stdout)["model_list"]
    path = tmp_path / "config.yml"
    path.write_text(
        "models: [{name: m, type: text-generation, providers: [{type: openai, model_name: s, key: 'a${PART}'}]}]\n"
    )
    mixed = run("convert", str(path), env={"PART": "hidden"})
    assert mixed.exit_code == 1
    assert "text and variables" in mixed.output
    assert "hidden" not in mixed.output
    nowhere = run("convert", str(EXAMPLES / "d1.yml"), "-o", str(tmp_path / "no" / "where.yaml"), env=environ)
    assert nowhere.exit_code == 1
    assert "cannot be written" in nowhere.output


def test_convert_says_when_a_key_stands_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(
        f"models: [{{name: m, type: text-generation, providers: [{{type: openai, model_name: s, key: {KEY}}}]}}]\n"
    )
    result = run("convert", str(path), "-o", str(tmp_path / "out.yaml"))
    assert "1 key stands in the output" in result.stderr


def test_run_refuses_a_bad_file_and_a_second_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text("models: []\n")
    bad = CliRunner().invoke(main, ["run", "--albert", str(path), "--", "litellm", "--port", "4000"])
    assert bad.exit_code == 2
    assert "List at least one model" in bad.output
    both = CliRunner().invoke(
        main, ["run", "--albert", str(EXAMPLES / "d2.yml"), "--", "litellm", "--config", "other.yaml"]
    )
    assert both.exit_code == 2
    assert "give one of them" in both.output
