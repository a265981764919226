"""A changed file is taken over; a bad one changes nothing and says why."""

from __future__ import annotations

import logging
import os
import stat
import threading
from pathlib import Path

import pytest
import yaml
from fast_router_albert import AlbertConfig
from fast_router_albert.proxy import CONFIG_VARIABLE, HOOK, HOOKS_VARIABLE, prepare, with_config
from fast_router_albert.reload import Watcher

from fast_router.errors import ConfigurationError
from tests.albert.conftest import EXAMPLES, KEY


def text(name: str) -> str:
    return (
        f"models: [{{name: {name}, type: text-generation, providers: [{{type: openai, model_name: s, key: {KEY}}}]}}]\n"
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "config.yml"
    made.write_text(text("one"))
    return made


def test_good_bad_good(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    taken: list[AlbertConfig] = []
    watcher = Watcher(path, taken.append)
    assert not watcher.check()
    path.write_text(text("second"))
    assert watcher.check()
    path.write_text(text("third").replace("openai", "opnai"))
    with caplog.at_level(logging.ERROR, "fast_router.albert"):
        assert not watcher.check()
    assert watcher.error is not None
    assert "did you mean 'openai'?" in caplog.text
    assert KEY not in caplog.text
    assert not watcher.check()
    path.unlink()
    assert not watcher.check(force=True)
    path.write_text(text("fourth"))
    assert watcher.check()
    assert watcher.error is None
    assert [config.models[0].id for config in taken] == ["second", "fourth"]


def test_one_that_worked_is_one_line(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watcher = Watcher(path, lambda _config: None)
    with caplog.at_level(logging.INFO, "fast_router"):
        assert watcher.check(force=True)
    assert [record.getMessage() for record in caplog.records] == [f"{path}: taken over; models: 1"]


def test_what_cannot_be_applied_is_told_without_details(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(config: AlbertConfig) -> None:
        raise RuntimeError(KEY)

    watcher = Watcher(path, refuse)
    with caplog.at_level(logging.ERROR, "fast_router.albert"):
        assert not watcher.check(force=True)
    assert "RuntimeError" in caplog.text
    assert KEY not in caplog.text


def test_the_thread_follows_changes_and_signals(path: Path) -> None:
    arrived = threading.Semaphore(0)
    watcher = Watcher(path, lambda config: arrived.release(), interval=0.01).start()
    try:
        path.write_text(text("second"))
        assert arrived.acquire(timeout=30)
        watcher.force()
        assert arrived.acquire(timeout=30)
    finally:
        watcher.stop()


def test_a_file_that_changed_before_the_start_is_loaded(path: Path) -> None:
    taken: list[AlbertConfig] = []
    watcher = Watcher(path, taken.append, seen=(1, 2, 3))
    assert watcher.check()
    assert taken


def test_prepare_writes_a_private_file_without_keys(environ, tmp_path: Path) -> None:
    given = {**environ, "XDG_RUNTIME_DIR": str(tmp_path), HOOKS_VARIABLE: "other.module:hook"}
    generated = prepare(EXAMPLES / "mixed.yml", environ=given)
    assert generated.is_relative_to(tmp_path)
    assert stat.S_IMODE(generated.stat().st_mode) == 0o600
    assert stat.S_IMODE(generated.parent.stat().st_mode) == 0o700
    assert KEY not in generated.read_text()
    assert given[HOOKS_VARIABLE] == f"other.module:hook,{HOOK}"
    assert given[CONFIG_VARIABLE] == str(EXAMPLES / "mixed.yml")
    again = prepare(EXAMPLES / "mixed.yml", environ=given)
    assert again == generated
    assert given[HOOKS_VARIABLE].count(HOOK) == 1


def test_a_directory_of_somebody_else_is_not_used(environ, tmp_path: Path) -> None:
    (tmp_path / f"fast_router-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / f"fast_router-{os.getuid()}").chmod(0o777)
    generated = prepare(EXAMPLES / "d2.yml", environ={**environ, "XDG_RUNTIME_DIR": str(tmp_path)})
    assert not generated.is_relative_to(tmp_path / f"fast_router-{os.getuid()}")
    generated.unlink()
    generated.parent.rmdir()


def test_a_key_made_of_parts_works_in_the_private_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(text("m").replace(KEY, "'pre-${PART}'"))
    environ = {"PART": "x1", "XDG_RUNTIME_DIR": str(tmp_path)}
    written = yaml.safe_load(prepare(path, environ=environ).read_text())
    assert written["model_list"][0]["litellm_params"]["api_key"] == "pre-x1"


def test_commands(environ, tmp_path: Path) -> None:
    given = {**environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = with_config(["/usr/bin/litellm", "--port", "4000"], EXAMPLES / "d2.yml", environ=given)
    assert command[:2] == ("/usr/bin/litellm", "--config")
    assert command[3:] == ("--port", "4000")
    assert given["CONFIG_FILE_PATH"] == command[2]
    gunicorn = ("gunicorn", "litellm.proxy.proxy_server:app")
    assert with_config(gunicorn, EXAMPLES / "d2.yml", environ=given) == gunicorn
    with pytest.raises(ConfigurationError, match="give one of them"):
        with_config(["litellm", "--config=x.yaml"], EXAMPLES / "d2.yml", environ=given)
