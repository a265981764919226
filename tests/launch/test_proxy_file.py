"""A `fast_router:` section in the proxy's YAML counts however the proxy was started."""

from __future__ import annotations

import json

import pytest

from fast_router import settings
from fast_router.launch import environment
from fast_router.settings import proxy_file
from tests.support.plugin import run_python

SECTION = "fast_router: {max_wait: 3, disabled_features: [model_list]}\n"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model_list: []\n" + SECTION)
    return str(path)


TOLD = {
    "CONFIG_FILE_PATH": ("CONFIG_FILE_PATH", lambda path: path),
    "WORKER_CONFIG, a path": ("WORKER_CONFIG", lambda path: path),
    "WORKER_CONFIG, options": ("WORKER_CONFIG", lambda path: json.dumps({"model": None, "config": path})),
}


@pytest.mark.parametrize("way", TOLD)
def test_workers_are_told_by_the_environment(config, way):
    name, value = TOLD[way]
    environ = {name: value(config)}
    proxy_file.adopt(environ)
    assert environ["FAST_ROUTER_CONFIG"] == config


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WORKER_CONFIG": ""},
        {"WORKER_CONFIG": "[1]"},
        {"WORKER_CONFIG": '{"config": null}'},
        {"WORKER_CONFIG": '{"config": 5}'},
        {"CONFIG_FILE_PATH": "no such file"},
    ],
)
def test_without_a_file_nothing_changes(environ):
    before = dict(environ)
    proxy_file.adopt(environ)
    assert environ == before


@pytest.mark.parametrize("text", ["model_list: []\n", "litellm_settings: {callbacks: [fast_router.handler]}\n", "{:\n"])
def test_a_file_without_the_section_is_litellms_alone(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    environ = {"CONFIG_FILE_PATH": str(path)}
    proxy_file.adopt(environ)
    assert "FAST_ROUTER_CONFIG" not in environ


def test_a_file_named_for_us_wins(config):
    environ = {"CONFIG_FILE_PATH": config, "FAST_ROUTER_CONFIG": "mine.yml"}
    proxy_file.adopt(environ)
    assert environ["FAST_ROUTER_CONFIG"] == "mine.yml"


SAID = "the proxy's YAML, which has a section of ours"


def from_of(environ):
    assert settings.unknown_variables(environ) == []
    return settings.load(environ=environ)[1].get("config")


def test_the_settings_say_where_the_files_name_is_from(config, tmp_path):
    """Not that the operator had set a variable; where one did, that."""
    told = {"CONFIG_FILE_PATH": config}
    proxy_file.adopt(told)
    command = environment.environment(["litellm", "--config", config], environ={})
    assert from_of(told) == from_of(command) == SAID
    other = tmp_path / "mine.yml"
    other.write_text("max_wait: 2\n")
    assert from_of(environment.environment(["python"], options=str(other), environ={})) == "fast-router run --settings"
    # Of a proxy that is told of another file, in the environment of one that adopted its own.
    assert from_of({**command, "FAST_ROUTER_CONFIG": str(other)}) == "FAST_ROUTER_CONFIG"
    own = {"FAST_ROUTER_CONFIG": config}
    assert from_of(environment.environment(["litellm", "--config", config], environ=own)) == "FAST_ROUTER_CONFIG"
    assert from_of(own) == "FAST_ROUTER_CONFIG"


@pytest.mark.parametrize("first", ["litellm", "fast_router.auto"])
def test_the_section_is_read_before_anything_is_patched(config, first):
    found = run_python(
        f"""
import json
import {first}
import fast_router.auto, litellm
litellm.Router
print(json.dumps(fast_router.status()))
""",
        WORKER_CONFIG=json.dumps({"config": config}),
    )
    assert found["capabilities"]["waiting"]["why"] == "up to 3 s"
    assert found["skipped"]["model_list"] == "switched off by disabled_features"
