"""What `AdvancedRouter` is constructed with: options of its strategy, and an experiment over its leases."""

from __future__ import annotations

import random

import pytest

from fast_router import AdvancedRouter, ConfigurationError
from tests.engine.contract import Clock

# -- options -------------------------------------------------------------------------------------------------


def test_an_option_that_the_strategy_does_not_have_is_refused_with_the_one_that_was_meant():
    with pytest.raises(ConfigurationError, match="peak_ewma has no option 'decai'; did you mean 'decay'"):
        AdvancedRouter("peak_ewma", decai=3)
    with pytest.raises(ConfigurationError, match="least_busy has no option 'modle_list'; did you mean 'model_list'"):
        AdvancedRouter("least-busy", modle_list=[])
    with pytest.raises(ConfigurationError, match="simple_shuffle has no option 'ttl'; it has none"):
        AdvancedRouter(ttl=3)
    with pytest.raises(ConfigurationError, match="an option has a wrong value"):
        AdvancedRouter("peak_ewma", decay="soon")


def test_an_option_may_be_for_the_strategy_of_a_model():
    entries = [{"model_name": "m", "endpoint": "a", "model_info": {"fast_router": {"strategy": "cache_aware"}}}]
    router = AdvancedRouter(model_list=entries, cache_tokens=1000)
    assert router.groups["m"].strategy == "cache_aware"
    with pytest.raises(ConfigurationError, match="no option 'cache_token'; did you mean 'cache_tokens'"):
        AdvancedRouter(model_list=entries, cache_token=1000)


# -- an experiment -------------------------------------------------------------------------------------------


def _experimenting(share, **more):
    entries = [{"model_name": "m", "endpoint": f"s{n}", "price": float(n + 1)} for n in range(3)]
    clock = Clock()
    tried = {"strategy": "round_robin", "share": share}
    router = AdvancedRouter(
        "cost_based", model_list=entries, clock=clock, wall=clock, rng=random.Random(3), experiment=tried, **more
    )
    return router, clock


@pytest.mark.parametrize(("share", "place", "servers"), [(0, 0, {"s0"}), (100, 1, {"s0", "s1", "s2"})])
def test_each_arm_of_an_experiment_is_picked_by_its_strategy_and_counted(share, place, servers):
    router, clock = _experimenting(share)
    seen = set()
    for number in range(6):
        if number == 5:
            with pytest.raises(RuntimeError), router.lease("m") as lease:
                raise RuntimeError
        else:
            with router.lease("m", stream=True) as lease:
                clock.advance(0.5)
                lease.first_token()
                clock.advance(0.5)
        seen.add(lease.entry["endpoint"])
    router.acquire("m").release(cancelled=True)
    assert seen == servers
    found = router.stats()["experiment"]
    assert found["experiment"] == {"strategy": "round_robin", "share": float(share)}
    assert [arm["arm"] for arm in found["arms"]] == ["configured", "round_robin"]
    arm = found["arms"][place]
    assert (arm["requests"], arm["failures"], arm["cancelled"]) == (6, 1, 1)
    assert arm["latency"]["p50"] == pytest.approx(1.0, rel=0.3)
    assert arm["first_token"]["p50"] == pytest.approx(0.5, rel=0.3)
    assert found["arms"][1 - place]["requests"] == 0
    assert all(d.in_flight == 0 for d in router.deployments.values())


def test_leases_with_a_key_stay_in_its_arm():
    router, _ = _experimenting(50)
    arms = set()
    for key in range(20):
        seen = set()
        for _ in range(6):
            with router.lease("m", key=f"session {key}") as lease:
                seen.add(lease.entry["endpoint"])
        arms.add(frozenset(seen))
    assert arms == {frozenset({"s0"}), frozenset({"s0", "s1", "s2"})}


def test_a_wrong_experiment_of_a_router_is_refused_in_the_same_words():
    with pytest.raises(ConfigurationError, match="unknown strategy 'cach_aware'; did you mean 'cache_aware'"):
        AdvancedRouter(experiment={"strategy": "cach_aware", "share": 20})
    with pytest.raises(ConfigurationError, match="expected a share in percent from 0 to 100"):
        AdvancedRouter(experiment={"strategy": "cache_aware", "share": 200})
    with pytest.raises(ConfigurationError, match="no option 'experimnt'; did you mean 'experiment'"):
        AdvancedRouter(experimnt={"strategy": "cache_aware", "share": 20})
    assert "experiment" not in AdvancedRouter().stats()
