"""The command group: lazy, complete, and clear about what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fast_router.cli import group, main


def test_help_lists_every_command_and_imports_none():
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from fast_router.cli import main\n"
        "print(CliRunner().invoke(main, ['--help']).output)\n"
        "print([m for m in ('rich', 'litellm', 'fast_router.cli.demo', 'pydantic') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in main.list_commands(click.Context(main)):
        assert f"  {name} " in done.stdout
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize("name", [name for name, (path, _) in group.COMMANDS.items() if find_spec(path.split(":")[0])])
def test_every_command_explains_itself(name):
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage:" in done.output


def test_version():
    done = CliRunner().invoke(main, ["--version"])
    assert done.exit_code == 0
    assert "fast-router, version" in done.output


def test_an_unknown_command_is_a_usage_error():
    done = CliRunner().invoke(main, ["nonsense"])
    assert done.exit_code == 2
    assert "No such command 'nonsense'" in done.output


def test_a_missing_extra_is_asked_for_in_one_line(monkeypatch):
    monkeypatch.setitem(group.COMMANDS, "status", ("fast_router.cli.status:status", "x"))

    def missing(_):
        raise ModuleNotFoundError("No module named 'rich'", name="rich.table")

    monkeypatch.setattr(group, "import_module", missing)
    done = CliRunner().invoke(main, ["status"])
    assert done.exit_code == 1
    assert done.output == (
        "Error: fast-router status needs rich, which is not installed: "
        "pip install rich, or pip install '.[cli]' in the checkout of fast_router\n"
    )
    assert CliRunner().invoke(main, ["status", "--pid", "7"]).output == done.output
    shown = CliRunner().invoke(main, ["status", "--help"])
    assert shown.exit_code == 0
    assert "pip install '.[cli]' in the checkout" in " ".join(shown.output.split())


SCRIPT = [str(Path(sys.executable).with_name("fast-router"))]
MODULE = [sys.executable, "-m", "fast_router.cli"]
WRONG = {
    "FAST_ROUTER_MAX_WAIT": ("abc", "Error: FAST_ROUTER_MAX_WAIT: 'abc': "),
    "FAST_ROUTER_CONFIG": ("/nonexist.yaml", "Error: /nonexist.yaml: cannot be read"),
}


def start(command: list[str], *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([*command, *words], env=env, capture_output=True, text=True, timeout=250, check=False)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize(
    "words",
    [("settings",), ("status",), ("run", "--", "echo", "hi"), ("albert", "check", "x.yml"), ("simulate", os.devnull)],
    ids=lambda words: words[0],
)
def test_a_wrong_setting_is_one_line_in_every_command(name, words):
    value, line = WRONG[name]
    done = start(SCRIPT, *words, **{name: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1


def test_a_wrong_setting_is_one_line_for_the_module_as_well():
    done = start(MODULE, "settings", FAST_ROUTER_MAX_WAIT="abc")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


@pytest.mark.parametrize("words", [(), ("run",), ("albert", "check")], ids=lambda words: " ".join(words) or "all")
def test_help_works_with_a_wrong_setting(words):
    done = start(SCRIPT, *words, "--help", FAST_ROUTER_MAX_WAIT="abc")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")
