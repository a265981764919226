"""Our strategies by name: constructor, update_settings, routing groups, model_info; LiteLLM sees its own names."""

from __future__ import annotations

from collections import Counter

import pytest
from litellm import Router

import fast_router
from fast_router.deployment_options import KEYS
from fast_router.errors import ConfigurationError, FastRouterError
from fast_router.litellm_plugin.picks import strategies_by_name
from fast_router.litellm_plugin.rests import policy
from tests.support.plugin import core_of, deployments, entry, pick_id, picks, router, sync_id

pytestmark = pytest.mark.usefixtures("plugin")

GROUPS = hasattr(Router, "_init_routing_groups")


def strategy_of(made: Router, model: str = "m") -> str:
    pick_id(made, model)
    return fast_router.advanced_router(made).groups[model].strategy


def litellms_strategy(made: Router) -> str:
    return getattr(core_of(made), "_core_routing_strategy", None) or core_of(made).routing_strategy


@pytest.mark.python_core
@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("round_robin", "round_robin", "simple-shuffle"),
        ("round-robin", "round_robin", "simple-shuffle"),
        ("power_of_two", "power_of_two", "simple-shuffle"),
        ("peak_ewma", "peak_ewma", "simple-shuffle"),
        ("least_busy", "least_busy", "least-busy"),
        ("shuffle", "simple_shuffle", "simple-shuffle"),
        ("latency_based", "latency_based", "latency-based-routing"),
        ("simple-shuffle", "simple_shuffle", "simple-shuffle"),
        ("least-busy", "least_busy", "least-busy"),
        ("latency-based-routing", "latency_based", "latency-based-routing"),
        ("cost-based-routing", "cost_based", "cost-based-routing"),
        ("usage-based-routing", "usage_based", "usage-based-routing"),
        ("usage-based-routing-v2", "usage_based", "usage-based-routing-v2"),
    ],
)
def test_constructor(name, ours, theirs):
    made = router(entry("a"), entry("b"), routing_strategy=name)
    before = picks()["fast"]
    assert strategy_of(made) == ours
    assert litellms_strategy(made) == theirs
    assert fast_router.advanced_router(made).stats()["strategy"] == ours
    assert sync_id(made) in "ab"
    assert picks()["fast"] == before + 2


def test_the_stats_follow_the_routers_strategy_and_name_what_is_litellms_alone():
    made = router(entry("a"), routing_strategy="least-busy")
    ours = fast_router.advanced_router(made)
    assert (ours.strategy, ours.stats()["strategy"]) == ("least_busy", "least_busy")
    for told, named in [("peak_ewma", "peak_ewma"), ("simple-shuffle", "simple_shuffle")]:
        made.update_settings(routing_strategy=told)
        pick_id(made)
        assert ours.stats()["strategy"] == named
    assert "simple_shuffle" in repr(ours)
    # By the attribute: strategies that are LiteLLM's alone want a loop or servers of their own when they are set up.
    core = core_of(made)
    name = "_core_routing_strategy" if "_core_routing_strategy" in vars(core) else "routing_strategy"
    setattr(core, name, "provider-budget-routing")
    assert fast_router.advanced_router(made).stats()["strategy"] == "provider-budget-routing"


def added(meant: str) -> str:
    # Other tests may have registered strategies of their own.
    ours = [name for name in fast_router.known_strategies() if name not in strategies_by_name.LITELLM]
    assert {"peak_ewma", "cache_aware", "power_of_two", "round_robin", "session_affinity"} <= set(ours)
    return f" fast_router also knows: {', '.join(ours)}{meant}"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("quickest", "."), ("peak_ewm", "; did you mean 'peak_ewma'?"), ("Least-Bussy", "; did you mean 'least-busy'?")],
)
def test_unknown_names_get_litellms_own_error_with_our_names_added(name, meant):
    def said() -> tuple[type, str]:
        with pytest.raises(Exception, match=name) as caught:
            router(entry("a"), routing_strategy=name)
        return caught.type, str(caught.value)

    kind, ours = said()
    fast_router.disable()
    other, theirs = said()
    assert kind is other
    assert ours == theirs + added(meant)


def test_update_settings_and_routing_groups_say_our_names_as_well():
    made = router(entry("a"))
    calls = [lambda: made.update_settings(routing_strategy="peak_ewm")]
    if GROUPS:
        groups = [{"group_name": "g", "models": ["m"], "routing_strategy": "peak_ewm"}]
        calls.append(lambda: router(entry("a"), routing_groups=groups))
    for call in calls:
        with pytest.raises(Exception, match="peak_ewm'") as caught:
            call()
        assert str(caught.value).endswith(added("; did you mean 'peak_ewma'?"))
        assert str(caught.value).count("fast_router") == 1
    assert pick_id(made) == "a"


WRONG_ARGUMENTS = {
    "peak_ewma": ({"decai": 3}, "routing_strategy_args: peak_ewma has no option 'decai'; did you mean 'decay'?"),
    "peak-ewma": ({"decay": "soon"}, "routing_strategy_args: peak_ewma: "),
    "round_robin": ({"ttl": 10}, "routing_strategy_args: round_robin has no option 'ttl'; it has none"),
    "power_of_two": (["load"], "routing_strategy_args: expected a mapping, not list"),
}


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_arguments_that_our_strategy_lacks_are_refused_in_our_words(name):
    arguments, said = WRONG_ARGUMENTS[name]
    with pytest.raises(ConfigurationError) as caught:
        router(entry("a"), routing_strategy=name, routing_strategy_args=arguments)
    assert str(caught.value).startswith(said)
    made = router(entry("a"), routing_strategy="round_robin")
    with pytest.raises(ConfigurationError) as caught:
        made.update_settings(routing_strategy=name, routing_strategy_args=arguments)
    assert str(caught.value).startswith(said)
    assert strategy_of(made) == "round_robin"  # what was refused changes nothing
    if GROUPS and isinstance(arguments, dict):
        group = {"group_name": "g", "models": ["m"], "routing_strategy": name, "routing_strategy_args": arguments}
        for call in (
            lambda: router(entry("a"), routing_groups=[group]),
            lambda: made.update_settings(routing_groups=[group]),
        ):
            with pytest.raises(ConfigurationError) as caught:
                call()
            assert str(caught.value).startswith(f"routing group 'g': {said}")
        assert pick_id(made) == "a"


def test_arguments_count_and_litellms_own_strategies_take_what_litellm_takes():
    made = router(entry("a"), routing_strategy="peak_ewma", routing_strategy_args={"decay": 3})
    assert strategy_of(made) == "peak_ewma"
    fine = router(entry("a"), routing_strategy="latency-based-routing", routing_strategy_args={"ttl": 10, "any": 1})
    assert strategy_of(fine) == "latency_based"


def test_while_we_are_off_the_arguments_of_our_strategies_are_no_error():
    fast_router.disable()
    made = router(entry("a"), routing_strategy="peak_ewma", routing_strategy_args={"decai": 3})
    assert pick_id(made) == "a"


def test_a_key_that_means_nothing_is_one_warning_with_the_deployments_id(caplog):
    wrong = entry("a", info_fast_router={"strateggy": "peak_ewma", "capacity": 2})
    with caplog.at_level("WARNING", logger="fast_router"):
        made = router(wrong, entry("b", info_fast_router={"breaker_growth": 2, "qos_limit": None}))
        for _ in range(3):
            pick_id(made)
        fast_router.invalidate(made)
        pick_id(made)
        made.set_model_list([wrong, entry("b")])
        pick_id(made)
    (told,) = [record.getMessage() for record in caplog.records if record.name == "fast_router"]
    assert told.startswith("m on 127.0.0.1:9 (id a): model_info.fast_router has 'strateggy', which means nothing; ")
    assert told.endswith("; did you mean 'strategy'?")


def test_the_keys_of_model_info_include_failovers_own():
    assert policy._PER_DEPLOYMENT.keys() <= KEYS


def test_round_robin_goes_round():
    made = router(entry("a"), entry("b"), entry("c"), routing_strategy="round_robin")
    found = [pick_id(made) for _ in range(9)]
    assert Counter(found) == {"a": 3, "b": 3, "c": 3}
    assert all(len(set(found[i : i + 3])) == 3 for i in range(0, 9, 3))


def test_the_filtered_lane_keeps_our_strategy():
    made = router(entry("a"), entry("b"), entry("c"), routing_strategy="round_robin", enable_pre_call_checks=True)
    before = picks()["filtered"]
    assert Counter(pick_id(made) for _ in range(9)) == {"a": 3, "b": 3, "c": 3}
    assert picks()["filtered"] == before + 9


@pytest.mark.python_core
def test_update_settings_and_back():
    made = router(entry("a"), entry("b"))
    made.update_settings(routing_strategy="power_of_two")
    assert strategy_of(made) == "power_of_two"
    assert litellms_strategy(made) == "simple-shuffle"
    made.update_settings(routing_strategy="least-busy")
    assert strategy_of(made) == "least_busy"
    made.update_settings(routing_strategy="round_robin")
    made.update_settings(num_retries=1)
    assert strategy_of(made) == "round_robin"
    made.update_settings(routing_strategy="simple-shuffle")
    assert strategy_of(made) == "simple_shuffle"


@pytest.mark.python_core
def test_off_leaves_a_router_that_works():
    made = router(entry("a"), entry("b"), routing_strategy="round_robin")
    assert strategy_of(made) == "round_robin"
    fast_router.disable()
    assert {pick_id(made) for _ in range(40)} == {"a", "b"}
    fast_router.enable()
    assert strategy_of(made) == "round_robin"


def test_by_model(caplog):
    made = router(
        entry("a", info_fast_router={"strategy": "round_robin"}),
        entry("b"),
        entry("x", name="n"),
        routing_strategy="least-busy",
    )
    assert strategy_of(made) == "round_robin"
    assert strategy_of(made, "n") == "least_busy"
    wrong = router(entry("a", info_fast_router={"strategy": "quickest"}))
    assert {pick_id(wrong) for _ in range(3)} == {"a"}, "a name that nobody knows must not fail a request"
    assert len([r for r in caplog.records if "quickest" in r.getMessage()]) == 1


@pytest.mark.skipif(not GROUPS, reason="this LiteLLM has no routing groups")
class TestRoutingGroups:
    GROUP = ({"group_name": "team", "models": ["m"], "routing_strategy": "round_robin"},)

    def test_members_and_name(self):
        made = router(entry("a"), entry("b"), entry("x", name="n"), routing_groups=list(self.GROUP))
        assert strategy_of(made) == "round_robin"
        assert strategy_of(made, "n") == "simple_shuffle"
        assert litellms_strategy(made) == "simple-shuffle"

    def test_rebuilt_by_litellm_and_without_us(self):
        made = router(entry("a"), entry("b"), routing_groups=list(self.GROUP))
        made.update_settings(routing_strategy="least-busy")
        assert strategy_of(made) == "round_robin"
        fast_router.disable()
        made.update_settings(routing_strategy="simple-shuffle")
        assert pick_id(made) in "ab"

    def test_unknown_names_get_litellms_own_error(self):
        groups = [{"group_name": "team", "models": ["m"], "routing_strategy": "quickest"}]
        with pytest.raises(Exception, match="quickest"):
            router(entry("a"), routing_groups=groups)

    def test_a_group_called_by_its_name(self):
        if not hasattr(Router, "_get_routing_group_deployments"):
            pytest.skip("routing groups cannot be called in this LiteLLM")
        groups = [{"group_name": "team", "models": ["m", "n"], "routing_strategy": "round_robin"}]
        made = router(entry("a"), entry("b"), entry("x", name="n"), routing_groups=groups)
        before = picks()["fast"]
        assert Counter(pick_id(made, "team") for _ in range(9)) == {"a": 3, "b": 3, "x": 3}
        assert picks()["fast"] == before + 9
        assert deployments(made)["a"].name == "m"


def test_per_request_strategy():
    if not hasattr(Router, "_get_request_routing_strategy_override"):
        pytest.skip("this LiteLLM takes no strategy per request")
    made = router(entry("a"), entry("b"))
    before = picks()["filtered"]
    assert pick_id(made, routing_strategy="least-busy") in "ab"
    assert picks()["filtered"] == before + 1


@pytest.mark.python_core
def test_options_that_only_litellm_has_are_litellms():
    made = router(
        entry("a"),
        entry("b"),
        routing_strategy="latency-based-routing",
        routing_strategy_args={"max_latency_list_size": 3},
    )
    before = picks()["delegated"]
    assert pick_id(made) in "ab"
    assert picks()["delegated"] == before + 1
    buffered = router(
        entry("a"),
        entry("b"),
        routing_strategy="latency-based-routing",
        routing_strategy_args={"lowest_latency_buffer": 0.5},
    )
    assert strategy_of(buffered) == "latency_based"
    assert fast_router.advanced_router(buffered).groups["m"].options == {"lowest_latency_buffer": 0.5}


def test_errors_name_no_secret():
    with pytest.raises(FastRouterError) as error:
        fast_router.AdvancedRouter("quickest")
    assert "sk-" not in str(error.value)
