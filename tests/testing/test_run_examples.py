"""The runner of the examples: it runs them, it fails when they do, and it ends those that do not end."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "run_examples.py"
MAIN = 'if __name__ == "__main__":\n'


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("run_examples", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_examples"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["run_examples"]


@pytest.fixture
def folder(tmp_path, monkeypatch, runner):
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    (tmp_path / "examples").mkdir()
    return tmp_path / "examples"


def test_only_files_that_can_be_run_are_examples(folder, runner):
    (folder / "helper.py").write_text("x = 1\n")
    (folder / "b.py").write_text(f"{MAIN}    pass\n")
    (folder / "sub").mkdir()
    (folder / "sub" / "a.py").write_text(f"# example: needs redis, timeout 5\n{MAIN}    pass\n")
    found = runner.find(folder)
    assert [one.name for one in found] == ["examples/b.py", "examples/sub/a.py"]
    assert (found[1].needs, found[1].timeout) == ({"redis"}, 5)


def test_a_failing_and_an_endless_example_are_reported(folder, runner, capsys):
    (folder / "fails.py").write_text(f"{MAIN}    raise SystemExit('no luck')\n")
    (folder / "endless.py").write_text(
        f"import threading\n# example: timeout 0.5\n{MAIN}    threading.Event().wait()\n"
    )
    (folder / "fine.py").write_text(f"{MAIN}    pass\n")
    (folder / "manual.py").write_text(f"# example: by hand: needs a key\n{MAIN}    raise SystemExit(1)\n")
    assert runner.main() == 2
    out = capsys.readouterr().out
    assert "no luck" in out
    assert "still running after 0.5 s" in out
    assert "examples/fine.py: ok" in out
    assert "by hand: needs a key" in out


def test_a_mark_that_is_not_known_is_refused(folder, runner):
    (folder / "odd.py").write_text(f"# example: needs kafka\n{MAIN}    pass\n")
    with pytest.raises(SystemExit, match="needs kafka"):
        runner.find(folder)


def test_no_examples_is_a_failure(folder, runner):
    assert runner.main() == 1


@pytest.mark.services
def test_servers_are_there_for_those_that_need_them(folder, runner, redis_server, monkeypatch):
    monkeypatch.setitem(os.environ, "FAST_ROUTER_TEST_REDIS_URL", redis_server.url)
    (folder / "uses.py").write_text(
        "# example: needs redis\nimport os, redis\n"
        + MAIN
        + "    redis.Redis.from_url(os.environ['REDIS_URL']).ping()\n"
    )
    assert runner.main() == 0
