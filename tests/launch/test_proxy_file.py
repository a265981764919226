"""A `fast_router:` section in the proxy's YAML counts however the proxy was started."""

from __future__ import annotations

import json

import pytest

from fast_router.settings import proxy_file
from tests.litellm_plugin.test_switch import run_python

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
