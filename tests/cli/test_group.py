"""The command group: lazy, complete, and clear about what is missing."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

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
    assert done.output == "Error: fast-router status needs rich: pip install 'fast-router[cli]'\n"
