"""What Celery routing is made of, without any server: settings, names, pools, files, the command."""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile

import click.testing
import pytest
from fast_router_albert.celery_files import load_settings, models_of
from hypothesis import given
from hypothesis import strategies as st

from fast_router import settings as options
from fast_router.celery_routing.envelope import (
    amqp_headers,
    body,
    parse_reply,
    queue_name,
    redis_envelope,
    redis_queue,
    redis_queues,
    request_of,
)
from fast_router.celery_routing.grant import Grant
from fast_router.celery_routing.routing import CeleryRouting
from fast_router.celery_routing.settings import Candidate, CelerySettings, masked
from fast_router.celery_routing.worker.app import check_pool, create_app
from fast_router.celery_routing.worker.models import ModelWatch
from fast_router.cli.worker import worker
from fast_router.errors import ConfigurationError
from fast_router.testing.servers import free_port


@pytest.fixture(autouse=True)
def fresh_options():
    options.reset()
    yield
    options.reset()


@pytest.mark.parametrize("pool", ["solo", "gevent", "eventlet", "processes"])
def test_pools_that_stall_are_refused(pool):
    with pytest.raises(ConfigurationError, match="prefork"):
        check_pool(pool)


def test_threads_need_a_kombu_that_wakes_its_loop():
    check_pool("threads", "5.7.0")
    check_pool("threads", "6.0")
    for version in ("5.6.2", "5.5.4", "5.6"):
        with pytest.raises(ConfigurationError, match=r"5\.7"):
            check_pool("threads", version)
    check_pool("prefork", "5.3.0")


def test_the_worker_is_set_up_to_lose_nothing():
    conf = create_app(CelerySettings()).conf
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.accept_content == ["json"]
    assert conf.result_backend is None
    assert conf.task_ignore_result
    task = create_app(CelerySettings()).tasks["fast_router.route"]
    assert task.acks_late
    assert task.reject_on_worker_lost


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("broker_url", "http://example.org"),
        ("redis_url", "amqp://example.org"),
        ("max_priority", 0),
        ("max_priority", 256),
        ("deadline", 0),
        ("max_retries", -1),
    ],
)
def test_wrong_settings_name_the_option_and_hide_passwords(option, value):
    with pytest.raises(ConfigurationError, match=option):
        CelerySettings(**{option: value})
    with pytest.raises(ConfigurationError) as caught:
        CelerySettings(broker_url="http://user:secret@host")
    assert "secret" not in str(caught.value)
    assert masked("amqp://user:secret@host:1//") == "amqp://user:***@host:1//"


def test_wrong_candidates():
    with pytest.raises(ConfigurationError, match="qos_metric"):
        Candidate("a", qos_metric="speed")
    with pytest.raises(ConfigurationError, match="weight"):
        Candidate("a", weight=0)


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        (None, "score"),
        ("simple-shuffle", "shuffle"),
        ("least-busy", "least_busy"),
        ("latency-based-routing", "latency_based"),
        ("session_affinity", "score"),
    ],
)
def test_strategies_that_a_worker_does_not_know_are_compared_by_score(given_name, name):
    assert CelerySettings().canonical(given_name) == name


@given(st.text(min_size=1, max_size=400))
def test_queue_names_fit_and_stay_apart(model):
    settings = CelerySettings()
    name = queue_name(settings, model)
    assert name.startswith("router.")
    assert len(name.encode()) <= 255
    assert name != queue_name(settings, model + "x")


def test_the_envelope_is_celerys():
    settings = CelerySettings()
    asked = request_of("r1", "reply", "m", "score", [Candidate("a", qos_metric="ttft", qos_limit=2)])
    ((request,),), kwargs, embed = json.loads(body([asked]))
    assert kwargs == {}
    assert set(embed) == {"callbacks", "errbacks", "chain", "chord"}
    assert json.loads(request["candidates"]) == [["a", 1.0, "ttft", 2, -1]]
    # Every header that Celery's own protocol-2 message has and that its worker reads.
    theirs = create_app(settings).amqp.as_task_v2("r1", "fast_router.route", ({},), {}).headers
    ours = amqp_headers("r1")
    assert ours["task"] == theirs["task"]
    assert ours["id"] == theirs["id"]
    assert set(ours) <= set(theirs) | {"lang"}
    assert ours["expires"] is None, "an absolute time would trust two clocks"
    stored = json.loads(redis_envelope("r1", "tag", "router.m", b"[]"))
    assert base64.b64decode(stored["body"]) == b"[]"


def test_redis_priorities_run_from_the_last_list_to_the_first():
    queues = redis_queues("q")
    assert redis_queue("q", 0, 10) == queues[-1]
    assert redis_queue("q", 10, 10) == redis_queue("q", 99, 10) == queues[0]
    order = [queues.index(redis_queue("q", priority, 10)) for priority in range(11)]
    assert order == sorted(order, reverse=True)


def test_replies():
    assert parse_reply(b"p:1.0 G openai/gpt 4").provider == "openai/gpt 4"
    busy = parse_reply("p:1.0 B 1500")
    assert (busy.provider, busy.wait) == (None, 1.5)
    for wrong in (b"", b"x", b"a Q b", b"a B later"):
        with pytest.raises(ValueError, match=r"unpack|unknown reply|convert"):
            parse_reply(wrong)


def test_a_grant_is_its_provider_and_ends_once():
    ended = []
    grant = Grant("p", rid="r", model="m", release=lambda _, outcome, times: ended.append((outcome, times)))
    assert grant == "p"
    assert {"p": 1}[grant] == 1
    assert grant.release(RuntimeError(), completion_tokens=2)
    assert not grant.release()
    assert [outcome for outcome, _ in ended] == ["error"]
    dropped = Grant("p", rid="r", model="m", release=lambda _, outcome, __: ended.append((outcome, ())))
    del dropped
    assert [outcome for outcome, _ in ended] == ["error", "drop"]


def test_models_to_serve(tmp_path):
    path = tmp_path / "models"
    path.write_text("a\nb1\nb2")

    def read(name):
        assert name == str(path)
        found = path.read_text().split()
        if "broken" in found:
            raise ConfigurationError("broken")
        return found

    assert ModelWatch(path=str(path), read=read).names() == {"a", "b1", "b2"}
    watch = ModelWatch(["b*", "unheard-of"], path=str(path), read=read)
    assert watch.names() == {"b1", "b2", "unheard-of"}
    path.write_text("broken file")
    assert watch.names() == {"b1", "b2", "unheard-of"}
    path.write_text("b3")
    assert watch.names() == {"b3", "unheard-of"}


def test_an_option_of_ours_per_field():
    rows = {row.name for row in options.rows()}
    for field in CelerySettings.__dataclass_fields__:
        assert field == "redis_url" or f"celery_{field}" in rows
    options.configure(celery_deadline=1.5, redis_url="redis://example.org/3")
    found = load_settings(max_retries=4)
    assert (found.deadline, found.redis_url, found.max_retries) == (1.5, "redis://example.org/3", 4)


def test_a_litellm_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "model_list:\n  - {model_name: b, litellm_params: {model: openai/b}}\n"
        "  - {model_name: a, litellm_params: {model: openai/a}}\n"
        "fast_router: {celery_max_priority: 7}\n"
    )
    assert models_of(str(path)) == ["a", "b"]
    assert load_settings(str(path)).max_priority == 7


def test_an_albert_file(tmp_path):
    path = tmp_path / "albert.yml"
    path.write_text(
        """
models:
  - name: turbo
    type: text-generation
    providers:
      - {type: vllm, url: "http://127.0.0.1:9", model_name: m}
dependencies:
  redis: {host: cache, port: 6380, password: "p@ss"}
settings:
  celery_broker_url: amqp://user:pw@rabbit:5672//
  celery_default_queue_prefix: albert
  celery_task_max_priority: 4
  celery_task_max_retries: 120
  celery_task_retry_countdown: 1
"""
    )
    found = load_settings(str(path))
    assert models_of(str(path)) == ["turbo"]
    assert found.broker_url == "amqp://user:pw@rabbit:5672//"
    assert found.redis_url == "redis://:p%40ss@cache:6380/0"
    assert (found.queue_prefix, found.max_priority, found.max_retries) == ("albert", 4, 120)


def test_the_command_explains_what_is_wrong(tmp_path):
    run = click.testing.CliRunner().invoke
    refused = run(worker, ["--pool", "solo"])
    assert refused.exit_code == 1
    assert "prefork" in refused.output
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("model_list: [")
    broken = run(worker, ["--config", str(wrong)])
    assert broken.exit_code == 1
    assert "wrong.yaml" in broken.output
    assert "--concurrency" in run(worker, ["--help"]).output


def bare_environment(**own):
    """The environment of a program for which nobody has configured anything but `own`."""
    return {**{k: v for k, v in os.environ.items() if not k.startswith("FAST_ROUTER_")}, **own}


def test_addresses_that_nobody_set_are_named_with_their_settings():
    assert CelerySettings().assumed() == (
        "redis_url (FAST_ROUTER_REDIS_URL) and celery_broker_url (FAST_ROUTER_CELERY_BROKER_URL) are not set, so "
        "redis://127.0.0.1:6379/0 and amqp://guest:***@127.0.0.1:5672// are assumed: set them"
    )
    options.configure(celery_broker_url="amqp://rabbit//")
    assert load_settings().assumed() == (
        "redis_url (FAST_ROUTER_REDIS_URL) is not set, so redis://127.0.0.1:6379/0 is assumed: set it"
    )
    # Set to what would have been assumed is set all the same.
    assert load_settings(redis_url="redis://127.0.0.1:6379/0").assumed() == ""


async def test_a_local_pick_says_which_setting_is_missing(caplog):
    routing = CeleryRouting(CelerySettings(redis_url=f"redis://127.0.0.1:{free_port()}/0", deadline=0.1))
    try:
        with caplog.at_level(logging.WARNING, "fast_router.celery"):
            for _ in range(3):
                assert await routing.decide("m", [Candidate("a")]) is None
    finally:
        await routing.close()
    told = [each.getMessage() for each in caplog.records if "picked locally" in each.getMessage()]
    (line,) = told
    assert line == (
        "Celery routing: Redis is away, requests are picked locally; celery_broker_url "
        "(FAST_ROUTER_CELERY_BROKER_URL) is not set, so amqp://guest:***@127.0.0.1:5672// is assumed: set it"
    )


@pytest.mark.slow
def test_the_status_shows_local_picks_by_reason():
    code = (
        "import fast_router, litellm\n"
        "entry = {'model_name': 'm', 'litellm_params': {'model': 'openai/m', 'mock_response': 'x', 'api_key': 'k'}}\n"
        "router = litellm.Router([entry])\n"
        "status = fast_router.status()\n"
        "assert (status['shared_state'], status['resting'], status['celery']['picks']) == ([], [], 0), status\n"
        "router.completion('m', [{'role': 'user', 'content': 'hello'}])\n"
        "from fast_router.cli import main\n"
        "main(['status'])\n"
    )
    # Short: a socket's path must fit into its address.
    runtime = tempfile.mkdtemp(prefix="fr-")
    environment = bare_environment(
        FAST_ROUTER_ROUTING="celery",
        FAST_ROUTER_STATUS="1",
        FAST_ROUTER_RUNTIME_DIR=runtime,
        FAST_ROUTER_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0",
        FAST_ROUTER_CELERY_DEADLINE="0.05",
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    shutil.rmtree(runtime)
    assert "not connected, 0 picks by workers, local: 1 × redis\n" in done.stdout, done.stderr[-2000:]


@pytest.mark.slow
def test_without_its_packages_celery_routing_says_once_what_to_install():
    code = (
        "import sys; sys.modules['kombu'] = None\n"
        "import fast_router, litellm; litellm.Router\n"
        "print(fast_router.status()['skipped']['celery_routing'])\n"
        "from fast_router.celery_routing.routing import CeleryRouting\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=bare_environment(FAST_ROUTER_ROUTING="celery"),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert "kombu" in done.stdout
    # The first one is a log line, with its time and logger in front.
    ours = [line.split("]: ")[-1] for line in done.stderr.splitlines() if "'.[celery]'" in line]
    said = (
        "Celery routing needs kombu, which is not installed: "
        "pip install kombu, or pip install '.[celery]' in the checkout of fast_router"
    )
    assert ours == [
        f"{said}; until then it is off, and requests are picked locally",
        f"ModuleNotFoundError: {said}",
    ]


def test_a_worker_for_which_nothing_is_configured_says_so():
    command = [sys.executable, "-W", "ignore", "-c", "from fast_router.cli.worker import worker; worker()"]
    with subprocess.Popen(command, env=bare_environment(), stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr.readline() == f"fast-router worker: {CelerySettings().assumed()}\n"
        finally:
            process.kill()
