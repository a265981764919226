"""What README and the quickstart say to type is true: Python blocks run as they stand, commands and options exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fast_router.cli import main
from fast_router.testing import Fleet

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
RUN = [ROOT / "README.md", ROOT / "docs" / "quickstart.md"]
ALBERT = """
models:
  - name: llama
    type: text-generation
    providers: [{type: vllm, url: "http://10.0.0.1:8000", model_name: llama}]
"""
# Each block in a namespace of its own, one after the other: LiteLLM is imported once.
RUNNER = """
import json, sys
for number, code in enumerate(json.load(sys.stdin)):
    exec(compile(code, f"block {number}", "exec"), {"__name__": "__main__"})
"""


def _blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def _name(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def fleet():
    with Fleet(3) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=_name)
def test_python_blocks_run_as_they_stand(page, fleet, tmp_path):
    urls = [each.url for each in fleet.values()]

    def here(text):
        for number, url in enumerate(urls, 1):
            text = text.replace(f"http://10.0.0.{number}:8000", url)
        return text.replace("(8101, 8102, 8103)", str(tuple(int(url.rpartition(":")[2]) for url in urls)))

    (tmp_path / "config.yml").write_text(here(ALBERT))
    before = sum(each.records.requests for each in fleet.values())
    blocks = [here(block) for block in _blocks(page, "python")]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(blocks),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": f"{ROOT}:{ROOT / 'adapters'}"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    calls = sum("completion(" in block or "httpx.post" in block for block in blocks)
    assert sum(each.records.requests for each in fleet.values()) - before == calls > 0


def _commands(page):
    """Each command of the shell blocks, as words; a line that goes on is one."""
    for block in (text for language in ("sh", "bash", "console") for text in _blocks(page, language)):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words


def _options(command):
    return {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help", "-h"}


def _check(words, page):
    """A command of ours: it exists, and so does each of its options."""
    command, rest = main, words[1:]
    while hasattr(command, "commands"):
        if not rest or rest[0] in _options(command):
            break
        command, rest = command.get_command(click.Context(command), rest[0]), rest[1:]
        assert command is not None, f"{page}: {shlex.join(words)}"
    for word in rest[: rest.index("--") if "--" in rest else None]:
        if word.startswith("-") and not word.lstrip("-").replace(".", "").isdigit():
            assert word.partition("=")[0] in _options(command), f"{page}: {shlex.join(words)}: {word}"
    if "--" in rest:
        _check_litellm(rest[rest.index("--") + 1 :], page)


def _check_litellm(words, page):
    if words and words[0] == "litellm":
        from litellm.proxy.proxy_cli import run_server

        for word in words[1:]:
            if word.startswith("-"):
                assert word.partition("=")[0] in _options(run_server), f"{page}: {shlex.join(words)}: {word}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_command_and_option_exists(page):
    extras = re.findall(r"^([a-z-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for words in _commands(page):
        shown = f"{_name(page)}: {shlex.join(words)}"
        if words[0] == "fast-router":
            _check(words, _name(page))
        elif words[0] == "litellm":
            _check_litellm(words, _name(page))
        elif words[:2] == ["python", "-m"] and words[2].startswith(("benchmarks", "fast_router", "tests")):
            file = ROOT / words[2].replace(".", "/")
            assert file.with_suffix(".py").exists() or (file / "__main__.py").exists(), shown
        elif words[:2] == ["pip", "install"]:
            for word in words[2:]:
                named = re.match(r"(?:\.|fast-router)\[([a-z,-]+)\]$", word)
                assert named is None or set(named[1].split(",")) <= set(extras), shown
                assert not word.endswith(".txt") or (ROOT / word).exists(), shown


def test_the_package_is_installed_from_a_checkout_as_long_as_it_is_not_on_the_index():
    (install,) = re.findall(r"## Install\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "checkout" in install
    assert "pip install '.[cli]'" in install


def test_the_file_that_the_albert_page_shows_becomes_the_one_that_it_shows(tmp_path, monkeypatch):
    import yaml
    from click.testing import CliRunner

    monkeypatch.delenv("VLLM_KEY", raising=False)
    theirs, ours = _blocks(ROOT / "docs" / "albert.md", "yaml")[:2]
    (tmp_path / "config.yml").write_text(theirs)
    done = CliRunner().invoke(main, ["albert", "convert", str(tmp_path / "config.yml")])
    assert done.exit_code == 0, done.output
    assert yaml.safe_load(done.stdout) == yaml.safe_load(ours)
