"""Off always starts: while fast_router is off, a configuration that names a strategy of ours makes a Router."""

from __future__ import annotations

import inspect
import logging

import pytest
from litellm import Router

import fast_router
from fast_router.litellm_plugin import hook, names_while_off
from fast_router.litellm_plugin.router_state import given_now
from tests.support.plugin import core_of, discard, entry, pick_id, router, run_python

LEFT_ALONE = "make_call" if hasattr(Router, "make_call") else "acompletion"


@pytest.fixture(autouse=True)
def off():
    hook.disable()
    yield
    discard()
    fast_router.enable()


def strategy(made):
    state = vars(core_of(made))
    return state.get("routing_strategy", made.routing_strategy)


@pytest.mark.parametrize("name", ["peak_ewma", "power_of_two", "cache_aware", "least_busy"])
def test_a_router_with_a_name_of_ours_starts_and_picks(name):
    made = router(entry("a"), entry("b"), routing_strategy=name, routing_strategy_args={"any": 1})
    assert strategy(made) == ("least-busy" if name == "least_busy" else "simple-shuffle")
    assert pick_id(made) in "ab"
    assert not fast_router.status()["enabled"]
    assert fast_router.status()["names_translated"]


def test_updated_settings_may_name_one_too():
    made = router(entry("a"))
    made.update_settings(routing_strategy="peak_ewma")
    assert strategy(made) == "simple-shuffle"
    assert pick_id(made) == "a"


def test_routing_groups_may_name_one_too():
    if "routing_groups" not in inspect.signature(Router.__init__).parameters:
        pytest.skip("this LiteLLM has no routing groups")
    groups = [{"group_name": "g", "models": ["m"], "routing_strategy": "peak_ewma"}]
    assert pick_id(router(entry("a"), routing_groups=groups)) == "a"


def test_a_name_that_nobody_knows_is_litellms_error():
    with pytest.raises(ValueError, match="nonsense"):
        router(entry("a"), routing_strategy="nonsense")


def test_it_is_said_once_per_name(caplog, monkeypatch):
    monkeypatch.setattr(names_while_off._Said, "names", frozenset())
    with caplog.at_level(logging.WARNING, logger="fast_router"):
        for _ in range(2):
            router(entry("a"), routing_strategy="peak_ewma")
    (line,) = (line for line in caplog.messages if "peak_ewma" in line)
    assert line == (
        "fast_router's strategies are off, and LiteLLM has no routing_strategy 'peak_ewma': "
        "until fast_router is on again, simple-shuffle is used instead"
    )


def test_the_routers_parameters_can_still_be_read():
    assert {"model_list", "routing_strategy"} <= inspect.signature(Router.__init__).parameters.keys()


def test_names_can_be_left_to_litellm_as_well():
    translating = Router.__init__
    hook.disable(names=True)
    assert Router.__init__ is not translating
    assert not fast_router.status()["names_translated"]
    with pytest.raises(ValueError, match="peak_ewma"):
        router(entry("a"), routing_strategy="peak_ewma")


def test_on_again_the_name_means_our_strategy():
    hook.enable()
    assert not fast_router.status()["names_translated"]
    made = router(entry("a"), routing_strategy="peak_ewma")
    assert given_now(core_of(made)).router == "peak_ewma"


@pytest.mark.slow
@pytest.mark.parametrize(("word", "starts"), [("0", True), ("never", False)])
@pytest.mark.parametrize("first", ["litellm", "fast_router"])
def test_the_kill_switch_leaves_a_router_that_starts(word, starts, first):
    found = run_python(
        f"""
import json
import {first}
import fast_router.auto, litellm
untouched = litellm.Router.{LEFT_ALONE}.__module__
try:
    litellm.Router(model_list=[], routing_strategy="peak_ewma")
    starts = True
except ValueError:
    starts = False
print(json.dumps({{"starts": starts, "module": untouched, "status": fast_router.status()}}))
""",
        FAST_ROUTER_ENABLED=word,
        FAST_ROUTER_MAX_WAIT="soon",  # wrong: nobody asks while off
    )
    assert found["starts"] is starts
    assert found["module"].startswith("litellm")
    assert found["status"]["names_translated"] is starts
    assert found["status"]["patched"] == []


@pytest.mark.slow
def test_on_without_our_strategies_their_names_start_as_well():
    found = run_python(
        """
import json, fast_router, litellm
made = litellm.Router(model_list=[], routing_strategy="peak_ewma")
before = fast_router.status()
left = fast_router.disable(names=True)
print(json.dumps({"before": before, "left": left, "own": "__fast_router_original__" in vars(litellm.Router.__init__)}))
""",
        FAST_ROUTER_DISABLED_FEATURES="strategies",
    )
    assert found["before"]["enabled"]
    assert found["before"]["names_translated"]
    assert found["left"] == []
    assert not found["own"], "the constructor is not LiteLLM's again"


@pytest.mark.slow
def test_a_start_of_ours_that_fails_leaves_routers_that_start():
    found = run_python(
        """
import json, os, fast_router
os.environ["FAST_ROUTER_MAX_WAIT"] = "soon"  # right when fast_router was imported, wrong when LiteLLM is
import litellm
litellm.Router(model_list=[], routing_strategy="peak_ewma")
del os.environ["FAST_ROUTER_MAX_WAIT"]
status = fast_router.status()
print(json.dumps({"enabled": status["enabled"], "names": status["names_translated"]}))
""",
    )
    assert found == {"enabled": False, "names": True}
