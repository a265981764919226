"""Whatever is changed in a Router while it runs is seen by the next pick."""

from __future__ import annotations

import gc
import time
import weakref

import pytest
from litellm.types.router import CustomRoutingStrategyBase, Deployment, LiteLLM_Params, ModelInfo

import fast_router
from tests.support.plugin import core_of, deployments, entry, pick, pick_id, picks, router, sync_id

pytestmark = pytest.mark.usefixtures("plugin")

BLOCKING = hasattr(__import__("litellm").Router, "_filter_blocked_deployments")


def reachable(made, model: str = "m", times: int = 60) -> set[str]:
    """The ids that picks find; every one of them must have been a fast pick."""
    before = picks()["fast"]
    found = {pick_id(made, model) for _ in range(times)}
    assert picks()["fast"] == before + times, picks()
    return found


def deployment(id_: str, **params) -> Deployment:
    made = entry(id_, **params)
    return Deployment(
        model_name=made["model_name"],
        litellm_params=LiteLLM_Params(**made["litellm_params"]),
        model_info=ModelInfo(**made["model_info"]),
    )


@pytest.mark.python_core
def test_the_answer_is_the_routers_own_dict():
    made = router(entry("a"), entry("b"))
    for _ in range(10):
        found = pick(made)
        assert any(found is listed for listed in core_of(made).__dict__.get("model_list", made.model_list))


def test_add_upsert_delete():
    made = router(entry("a"))
    assert reachable(made) == {"a"}
    made.add_deployment(deployment("b"))
    assert reachable(made) == {"a", "b"}
    made.upsert_deployment(deployment("b", weight=1))
    assert reachable(made) == {"b"}, "a deployment without weight gets nothing beside one with"
    assert made.delete_deployment("b")
    assert reachable(made) == {"a"}
    assert set(deployments(made)) == {"a"}


def test_what_is_known_outlives_an_edit():
    made = router(entry("a"), entry("b"))
    pick(made)
    known = deployments(made)["a"]
    made.add_deployment(deployment("c"))
    assert reachable(made) == {"a", "b", "c"}
    assert deployments(made)["a"] is known


def test_set_model_list():
    made = router(entry("a"), entry("b"))
    assert reachable(made) == {"a", "b"}
    made.set_model_list([entry("c"), entry("x", name="n")])
    assert reachable(made) == {"c"}
    assert reachable(made, "n") == {"x"}


@pytest.mark.python_core
def test_direct_writes():
    made = router(entry("a"), entry("b"))
    core = core_of(made)
    assert reachable(made) == {"a", "b"}
    listed = made.model_list
    before = picks()["fast"]
    listed.append(entry("c"))
    pick_id(made)
    made.model_list = list(listed)
    pick_id(made)
    assert picks()["fast"] == before + 2
    made.model_group_alias = {"alias": "m"}
    assert reachable(made, "alias") == {"a", "b"}
    made.model_group_alias = {}
    with pytest.raises(Exception, match="alias"):
        pick_id(made, "alias")
    made.enable_pre_call_checks = True
    before = picks()["filtered"]
    pick_id(made)
    assert picks()["filtered"] == before + 1
    made.enable_pre_call_checks = False
    assert reachable(made) <= {"a", "b", "c"}
    assert core is core_of(made)


def test_update_settings():
    made = router(entry("a"), entry("b"))
    pick(made)
    assert fast_router.advanced_router(made).groups["m"].strategy == "simple_shuffle"
    made.update_settings(routing_strategy="least-busy")
    reachable(made)
    assert fast_router.advanced_router(made).groups["m"].strategy == "least_busy"
    made.update_settings(model_group_alias={"alias": "m"})
    assert reachable(made, "alias") == {"a", "b"}


def test_blocked():
    if not BLOCKING:
        pytest.skip("this LiteLLM has no blocked deployments")
    made = router(entry("a"), entry("b", info_blocked=True))
    assert reachable(made) == {"a"}
    made.upsert_deployment(deployment("b", info_blocked=False))
    assert reachable(made) == {"a", "b"}
    made.upsert_deployment(deployment("a", info_blocked=True))
    assert reachable(made) == {"b"}


def test_an_edit_in_place_is_seen_after_invalidate():
    made = router(entry("a"), entry("b"))
    assert reachable(made) == {"a", "b"}
    made.model_list[0]["litellm_params"]["weight"] = 1
    fast_router.invalidate(made)
    assert reachable(made) == {"a"}


@pytest.mark.python_core
def test_replaced_methods_are_run():
    made = router(entry("a"), entry("b"))
    assert reachable(made) == {"a", "b"}
    core = core_of(made)
    core._filter_cooldown_deployments = lambda healthy_deployments, cooldown_deployments: healthy_deployments[:1]
    assert {pick_id(made) for _ in range(20)} == {"a"}
    del core._filter_cooldown_deployments
    assert reachable(made) == {"a", "b"}


def test_a_custom_strategy_is_left_alone():
    made = router(entry("a"), entry("b"))
    second = made.model_list[1]

    class Custom(CustomRoutingStrategyBase):
        async def async_get_available_deployment(self, *_args, **_kwargs):
            return second

        def get_available_deployment(self, *_args, **_kwargs):
            return second

    before = picks()
    made.set_custom_routing_strategy(Custom())
    assert {pick_id(made) for _ in range(10)} == {sync_id(made)} == {"b"}
    assert picks() == before


def test_cooldowns_follow_litellms():
    made = router(entry("a"), entry("b"), entry("c"))
    assert reachable(made) == {"a", "b", "c"}
    cooldowns = made.cooldown_cache
    cooldowns.add_deployment_to_cooldown(
        model_id="a", original_exception=RuntimeError(), exception_status=429, cooldown_time=60
    )
    assert reachable(made) == {"b", "c"}
    cooldowns.add_deployment_to_cooldown(
        model_id="b", original_exception=RuntimeError(), exception_status=429, cooldown_time=0.3
    )
    assert reachable(made, times=3) == {"c"}
    deadline = time.monotonic() + 20
    while reachable(made, times=20) != {"b", "c"}:
        assert time.monotonic() < deadline


def test_cooldowns_from_before_are_known():
    fast_router.disable()
    made = router(entry("a"), entry("b"))
    made.cooldown_cache.add_deployment_to_cooldown(
        model_id="a", original_exception=RuntimeError(), exception_status=429, cooldown_time=60
    )
    assert fast_router.enable()
    assert reachable(made) == {"b"}


def test_when_all_cool_down_the_error_is_litellms():
    made = router(entry("a"))
    assert reachable(made) == {"a"}
    made.cooldown_cache.add_deployment_to_cooldown(
        model_id="a", original_exception=RuntimeError(), exception_status=429, cooldown_time=60
    )
    before = picks()["delegated"]
    for ask in (pick_id, sync_id):
        with pytest.raises(Exception, match="No deployments available") as ours:
            ask(made)
        fast_router.disable()
        with pytest.raises(Exception, match="No deployments available") as theirs:
            ask(made)
        fast_router.enable()
        assert type(ours.value) is type(theirs.value)
    assert picks()["delegated"] == before + 2


def test_errors_for_unknown_models_are_litellms():
    made = router(entry("a"))
    for ask in (pick_id, sync_id):
        with pytest.raises(Exception, match="nobody") as ours:
            ask(made, "nobody")
        fast_router.disable()
        with pytest.raises(Exception, match="nobody") as theirs:
            ask(made, "nobody")
        fast_router.enable()
        assert (type(ours.value), str(ours.value)) == (type(theirs.value), str(theirs.value))


def test_removed_routers_are_collected():
    made = router(entry("a"))
    pick(made)
    binding = weakref.ref(vars(core_of(made))["_fast_router"].binding)
    made.discard()
    kept = vars(core_of(made))
    for key in [key for key in kept if key.startswith("_fast_router")]:
        kept.pop(key)
    gc.collect()
    assert binding() is None
