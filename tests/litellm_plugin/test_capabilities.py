"""What is on, what is not and why; the line at start; and whose error it is when a strategy fails."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import textwrap
import warnings

import litellm
import pytest

import fast_router
from fast_router.litellm_plugin import start_line
from fast_router.observe.answers import answer

LIST = """
params = [{"model": "openai/x", "api_base": f"http://127.0.0.{i}:1", "api_key": "sk-x"} for i in (1, 2)]
models = [{"model_name": "m", "litellm_params": each} for each in params]
"""


@functools.cache
def ran(code, **env):
    """What the program has said; those who ask the same of it share one run."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIST) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
        env={**os.environ, "FAST_ROUTER_RUNTIME_DIR": "", **env},
    )


def run(code, **env):
    done = ran(code, **env)
    return done.stdout, [line for line in done.stderr.splitlines() if "fast_router" in line]


def test_each_capability_is_on_or_off_with_the_reason():
    found = fast_router.status()["capabilities"]
    json.dumps(found)
    assert {
        "fast_picks",
        "failover",
        "waiting",
        "hedging",
        "shared_state",
        "celery_routing",
        "overhead",
    } <= found.keys()
    for name, each in found.items():
        if name != "options_without_effect":
            assert isinstance(each["on"], bool), name
            assert each["why"], name
    assert found["celery_routing"] == {"on": False, "why": "routing is local"}
    assert found["options_without_effect"] == []


@pytest.mark.slow
def test_before_litellm_is_imported_everything_is_off_for_that_reason():
    out, _ = run("import fast_router, json; print(json.dumps(fast_router.status()['capabilities']))")
    found = json.loads(out)
    assert found["fast_picks"] == {"on": False, "why": "LiteLLM is not imported yet"}
    out, _ = run(
        "import fast_router, litellm, json; print(json.dumps(fast_router.status()['capabilities']))",
        FAST_ROUTER_ENABLED="0",
    )
    assert "FAST_ROUTER_ENABLED" in json.loads(out)["failover"]["why"]


@pytest.mark.slow
def test_options_that_do_nothing_are_named():
    out, _ = run(
        "import fast_router, litellm, json; print(json.dumps(fast_router.status()))",
        FAST_ROUTER_HEDGE_DELAY="1",
        FAST_ROUTER_CELERY_DEADLINE="1",
        FAST_ROUTER_MAX_WAIT="2",
        FAST_ROUTER_RETRY_BUDGET_RATIO="0.5",
    )
    status = json.loads(out)
    named = {sentence.split(":")[0] for sentence in status["capabilities"]["options_without_effect"]}
    expected = {"hedge_delay", "celery_deadline"}
    expected |= set() if "waiting" in status["features"] else {"max_wait"}
    expected |= set() if "failover" in status["features"] else {"retry_budget_ratio"}
    assert named == expected


START = """
import fast_router, litellm
for _ in range(2):
    litellm.Router(model_list=models, routing_strategy="least-busy")
"""


def test_the_start_is_one_line_in_a_server_and_none_in_a_script():
    _, lines = run(START, FAST_ROUTER_STATUS="1")
    (line,) = [line for line in lines if " deployments by " in line]
    assert re.match(r"\d{4}-\d\d-\d\d [\d:,]+ INFO fast_router\[\d+\]: fast_router \S+ on LiteLLM \S+: ", line)
    assert "2 deployments by least-busy; on: " in line
    assert "sk-x" not in line
    _, lines = run(START)
    assert [line for line in lines if " deployments by " in line] == []


PROXYS = """
import fast_router, litellm
from litellm.router import build_router_config, router_arguments
router = litellm.Router.from_config(build_router_config(router_arguments(model_list=models[:1])))
from fast_router.litellm_plugin.start_line import routers
assert routers() == [router] and type(router) is litellm.Router
fast_router.disable()
assert type(litellm.Router.from_config(build_router_config(router_arguments(model_list=models)))) is litellm.Router
assert routers() == [router]
"""


def test_a_router_made_as_the_proxy_makes_it_is_announced_and_known():
    if not hasattr(litellm.Router, "from_config"):
        pytest.skip("the proxy of this LiteLLM calls the constructor")
    _, lines = run(PROXYS, FAST_ROUTER_STATUS="1")
    (line,) = [line for line in lines if " by simple-shuffle" in line]
    assert " 1 deployment by simple-shuffle; on: " in line
    assert "not written in Python" not in line


@pytest.mark.slow
def test_a_program_that_set_up_logging_gets_the_line_its_own_way():
    code = "import logging; logging.basicConfig(level='INFO', format='mine %(name)s %(message)s')\n" + START
    _, lines = run(code)
    (line,) = [line for line in lines if " deployments by " in line]
    assert line.startswith("mine fast_router fast_router ")


USERS = """
import fast_router, litellm

class Mine(fast_router.Strategy):
    name = "mine"
    def choose(self, candidates, now, ask):
        raise ZeroDivisionError("the author's own words")

fast_router.register_strategy(Mine)
router = litellm.Router(model_list=models, routing_strategy="mine", num_retries=0)
for _ in range(3):
    router.completion("m", messages=[{"role": "user", "content": "secret prompt"}], mock_response="hello")
print(fast_router.status()["errors"])
"""


@pytest.mark.slow
def test_a_strategy_of_the_users_that_fails_is_named_as_theirs():
    out, _ = run(USERS)
    errors = eval(out)
    assert errors["count"] == 0
    # Where a short way fails (a lane of its own, a compiled plan), the long one asks the strategy once more.
    ((name, asked),) = errors["of_your_strategies"].items()
    assert name == "'mine' (Mine)"
    assert 3 <= asked <= 6


def test_its_error_and_traceback_are_logged_and_nobody_is_asked_to_report_it():
    done = ran(USERS)
    assert "your strategy 'mine' (Mine) failed in" in done.stderr
    assert "ZeroDivisionError: the author's own words" in done.stderr
    assert "report it" not in done.stderr
    assert "secret prompt" not in done.stderr


def test_the_line_at_start_warns_of_nothing(monkeypatch):
    assert fast_router.enable()
    told, before = [], fast_router.status()["errors"]
    monkeypatch.setattr(start_line._Said, "yet", False)
    monkeypatch.setattr(start_line, "announce", told.append)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=r"Router\.")
        litellm.Router(model_list=[{"model_name": "m", "litellm_params": {"model": "openai/x", "api_key": "k"}}])
    assert fast_router.status()["errors"] == before
    assert len(told) == 1
    assert "1 deployment by simple-shuffle" in told[0]


@pytest.mark.parametrize(
    ("set_to", "says"),
    [
        ({}, None),
        ({"rollout": "observe"}, "; rollout: observing only; on: "),
        ({"rollout": 10}, "; rollout: 10 % of the requests; on: "),
        ({"rollout": 0}, "; rollout: 0 % of the requests; on: "),
        ({"experiment": {"strategy": "cache_aware", "share": 20}}, "; experiment: cache_aware, 20 %; on: "),
    ],
)
def test_the_line_at_start_says_who_picks_for_whom(monkeypatch, set_to, says):
    assert fast_router.enable()
    told = []
    monkeypatch.setattr(start_line._Said, "yet", False)
    monkeypatch.setattr(start_line, "announce", told.append)
    try:
        fast_router.configure(**set_to)
        litellm.Router(model_list=[{"model_name": "m", "litellm_params": {"model": "openai/x", "api_key": "k"}}])
    finally:
        fast_router.configure(**dict.fromkeys(set_to))
    if says is None:
        assert "rollout" not in told[0]
        assert "experiment" not in told[0]
    else:
        assert says in told[0]


def test_a_router_that_nobody_has_asked_yet_is_shown():
    assert fast_router.enable()
    made = litellm.Router(
        model_list=[{"model_name": "not asked yet", "litellm_params": {"model": "openai/x", "api_key": "k"}}]
    )
    shown = [name for router in answer({"do": "status"}, 0.0)["routers"] for name in router["models"]]
    assert "not asked yet" in shown
    assert made is not None
