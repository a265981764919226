"""A file that enables Celery: what it stands for, and what the proxy's environment gets of it."""

from __future__ import annotations

import pytest
import yaml
from fast_router_albert import ModelRegistry, load_config
from fast_router_albert.proxy import prepare

import fast_router
from fast_router.errors import ConfigurationError
from tests.albert.conftest import EXAMPLES

MODEL = {
    "name": "m",
    "type": "text-generation",
    "providers": [{"type": "vllm", "url": "http://127.0.0.1:9", "model_name": "s"}],
}


@pytest.fixture(autouse=True)
def _clean():
    yield
    fast_router.configure(routing=None, celery_broker_url=None, redis_url=None)


def options(**sections):
    return load_config({"models": [MODEL], **sections}).routing_settings()


def test_d4():
    found = options(
        settings={
            "celery_broker_url": "amqp://user:pw@rabbit:5672//",
            "celery_result_backend": "redis://cache:6379/2",
            "celery_default_queue_prefix": "router",
            "celery_task_max_priority": 4,
            "celery_task_max_retries": 120,
            "celery_task_retry_countdown": 1,
            "celery_task_soft_time_limit": 60,
        }
    )
    assert found == {
        "routing": "celery",
        "celery_broker_url": "amqp://user:pw@rabbit:5672//",
        "redis_url": "redis://cache:6379/2",
        "celery_queue_prefix": "router",
        "celery_max_priority": 4,
        "celery_max_retries": 120,
        "celery_retry_countdown": 1,
        "celery_soft_time_limit": 60,
    }


def test_d5():
    found = options(
        dependencies={
            "redis": {"url": "redis://cache:6379"},
            "celery": {"broker_url": "amqp://rabbit//", "result_backend": "redis://other:6379"},
        },
        settings={"routing_max_priority": 4, "routing_max_retries": 3, "routing_retry_countdown": 3},
    )
    assert found == {
        "routing": "celery",
        "celery_broker_url": "amqp://rabbit//",
        "redis_url": "redis://cache:6379",
        "celery_max_priority": 4,
        "celery_max_retries": 3,
        "celery_retry_countdown": 3,
    }


def test_a_redis_broker_is_the_redis_too():
    found = options(settings={"celery_broker_url": "redis://cache:6379/1"})
    assert found["redis_url"] == "redis://cache:6379/1"


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"settings": {"routing_max_retries": 3}},
        {"dependencies": {"redis": {"url": "redis://cache:6379"}}},
        {"dependencies": {"celery": None}},
        {"settings": {"celery_broker_url": "amqp://rabbit//", "celery_task_always_eager": True}},
    ],
)
def test_without_a_broker_every_process_picks(sections):
    assert options(**sections) == {}
    assert ModelRegistry.from_config({"models": [MODEL], **sections}).routing is None


def test_the_proxy_gets_what_the_file_says(environ, tmp_path):
    given = {**environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    generated = prepare(EXAMPLES / "d5.yml", environ=given)
    assert given["FAST_ROUTER_ROUTING"] == "celery"
    assert given["FAST_ROUTER_CELERY_BROKER_URL"] == "amqp://localhost:5672//"
    assert given["FAST_ROUTER_CELERY_MAX_PRIORITY"] == "4"
    assert "amqp" not in generated.read_text(), "an address can hold a password"


def test_our_own_options_win(environ, tmp_path):
    base = {**environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    off = {**base, "FAST_ROUTER_ROUTING": "local"}
    prepare(EXAMPLES / "d5.yml", environ=off)
    assert "FAST_ROUTER_CELERY_BROKER_URL" not in off
    named = {**base, "FAST_ROUTER_CELERY_BROKER_URL": "amqp://elsewhere//"}
    prepare(EXAMPLES / "d5.yml", environ=named)
    assert (named["FAST_ROUTER_ROUTING"], named["FAST_ROUTER_CELERY_BROKER_URL"]) == ("celery", "amqp://elsewhere//")
    ours = tmp_path / "ours.yml"
    ours.write_text(yaml.safe_dump({"fast_router": {"routing": "local"}}))
    filed = dict(base)
    prepare(EXAMPLES / "d5.yml", environ=filed, options=str(ours))
    assert "FAST_ROUTER_ROUTING" not in filed


def test_the_registry_follows_the_file_unless_told_otherwise():
    config = load_config({"models": [MODEL], "settings": {"celery_broker_url": "amqp://rabbit//"}})
    assert ModelRegistry(config).routing.settings.broker_url == "amqp://rabbit//"
    fast_router.configure(routing="local")
    assert ModelRegistry(config).routing is None


def test_a_reload_keeps_what_has_not_changed():
    def config(url):
        return load_config({"models": [MODEL], "settings": {"celery_broker_url": url}})

    registry = ModelRegistry(config("amqp://rabbit//"))
    first = registry.routing
    registry.reload(config("amqp://rabbit//"))
    assert registry.routing is first
    registry.reload(config("amqp://other//"))
    assert registry.routing is not first
    registry.reload(load_config({"models": [MODEL]}))
    assert registry.routing is None


def test_a_wrong_address_is_told_without_its_password():
    with pytest.raises(ConfigurationError, match=r"broker_url 'http://u:\*\*\*@rabbit'"):
        ModelRegistry.from_config({"models": [MODEL], "settings": {"celery_broker_url": "http://u:pw@rabbit"}})
