"""Layers are composed per Router: what one Router wants costs no other anything, and follows its changes."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import litellm
import pytest
from litellm.types.router import Deployment

import fast_router
from fast_router.litellm_plugin.layers import stack
from fast_router.litellm_plugin.picks.binding import existing
from fast_router.litellm_plugin.switch import switch
from tests.support.plugin import core_of, discard, entry, pick_id, picks, router, sync_id

pytestmark = [pytest.mark.python_core, pytest.mark.usefixtures("plugin")]

LIMIT: dict[str, Any] = {"qos_metric": "inflight", "qos_limit": 1}


def binding_of(made):
    found = existing(core_of(made))
    assert found is not None
    return found


def fast_picks(made, count: int = 5) -> int:
    """How many of `count` asynchronous picks took the fast lane."""
    before = picks()["fast"]
    for _ in range(count):
        pick_id(made)
    return picks()["fast"] - before


def full(made, id_: str):
    """A lease that keeps a deployment at its limit."""
    engine = fast_router.advanced_router(made).engine
    return engine.acquire_deployment(engine.deployments[id_])


def test_a_deployment_added_while_the_others_are_full_is_used():
    made = router(entry("a", info_fast_router=LIMIT))
    assert pick_id(made) == "a"
    lease = full(made, "a")
    with pytest.raises(litellm.ServiceUnavailableError):
        pick_id(made)
    made.add_deployment(Deployment(**entry("b", info_fast_router=LIMIT)))
    assert pick_id(made) == "b"
    lease.release()


async def test_a_deployment_added_while_a_request_waits_for_the_limit_takes_it():
    patient = {**LIMIT, "retries": 50, "retry_countdown": 0.02}
    made = router(entry("a", info_fast_router=patient))
    assert (await made.async_get_available_deployment("m", {}))["model_info"]["id"] == "a"
    lease = full(made, "a")
    waiting = asyncio.create_task(made.async_get_available_deployment("m", {}))
    await asyncio.sleep(0)
    made.add_deployment(Deployment(**entry("b", info_fast_router=patient)))
    assert (await waiting)["model_info"]["id"] == "b"
    lease.release()


def test_a_limit_of_one_router_leaves_every_other_one_alone():
    free = router(entry("a"), entry("b"))
    limited = router(entry("c", info_fast_router=LIMIT), entry("d"))
    pick_id(free), pick_id(limited)
    assert binding_of(free).around is None
    assert binding_of(limited).around is not None
    assert fast_picks(free) == fast_picks(limited) == 5


def test_a_limit_that_is_added_and_taken_away_is_followed():
    made = router(entry("a"))
    pick_id(made)
    assert binding_of(made).around is None
    made.add_deployment(Deployment(**entry("b", info_fast_router=LIMIT)))
    pick_id(made)
    assert binding_of(made).around is not None
    made.delete_deployment("b")
    pick_id(made)
    assert binding_of(made).around is None


def test_stats_compose_the_layers_too():
    made = router(entry("a", info_fast_router=LIMIT))
    fast_router.advanced_router(made)
    assert binding_of(made).around is not None


@pytest.mark.parametrize("size", [2, 40])
def test_waiting_costs_nothing_while_there_is_room(size):
    made = router(*(entry(f"d{i}") for i in range(size)))
    pick_id(made)
    fast_router.configure(max_wait=5)
    pick_id(made)
    assert binding_of(made).around is not None
    assert fast_picks(made) == 5
    fast_router.configure(max_wait=None)
    pick_id(made)
    assert binding_of(made).around is None
    assert fast_picks(made) == 5


async def test_nobody_overtakes_a_waiter_on_the_fast_lane():
    fast_router.configure(max_wait=60)
    made = router(entry("a", max_parallel_requests=1))
    await made.async_get_available_deployment("m", {})
    binding = binding_of(made)
    lease = full(made, "a")
    served = []

    async def ask(name):
        await made.async_get_available_deployment("m", {})
        served.append(name)

    waiter = asyncio.create_task(ask("waiter"))
    while not binding.detour:
        await asyncio.sleep(0)
    lease.release()
    # The place is free, but it is the waiter's, who has not run yet.
    await asyncio.gather(asyncio.create_task(ask("late")), waiter)
    assert served == ["waiter", "late"]
    assert binding.detour == 0


async def test_a_waiter_that_goes_away_opens_the_lane_again():
    fast_router.configure(max_wait=5)
    made = router(entry("a", max_parallel_requests=1))
    await made.async_get_available_deployment("m", {})
    binding = binding_of(made)
    lease = full(made, "a")
    waiter = asyncio.create_task(made.async_get_available_deployment("m", {}))
    while not binding.detour:
        await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert binding.detour == 0
    lease.release()


def test_an_alias_that_is_pointed_elsewhere_in_place_has_a_new_plan():
    made = router(entry("a"), entry("b", name="other"), model_group_alias={"alias": "m"})
    core = core_of(made)
    assert pick_id(made, "alias") == "a"
    before = binding_of(made).plan_for(core, "alias")
    assert binding_of(made).plan_for(core, "alias") is before
    vars(core).get("model_group_alias", vars(core).get("_core_model_group_alias"))["alias"] = "other"
    plan = binding_of(made).plan_for(core, "alias")
    assert [member.id for member in plan.group.members] == ["b"]
    assert pick_id(made, "alias") == sync_id(made, "alias") == "b"


def test_switched_off_and_on_again_nothing_is_left_and_everything_is_back():
    made = router(entry("a", info_fast_router=LIMIT))
    pick_id(made)
    binding = binding_of(made)
    fast_router.disable()
    assert binding.around is None
    assert binding.detour == 0
    assert stack._installed == {}
    fast_router.enable()
    pick_id(made)
    assert binding.around is not None


def test_a_layer_that_must_see_each_pick_closes_the_fast_lane_of_its_router_alone(monkeypatch):
    one, other = router(entry("a")), router(entry("b"))
    pick_id(one), pick_id(other)
    seen = []

    def around(inner, _binding):
        async def pick(lane, core, *rest):
            seen.append(core)
            return await inner(lane, core, *rest)

        return pick

    layer = stack.Installed(lambda binding, core: core is core_of(one), around)
    monkeypatch.setitem(stack._installed, (stack.Around.PICK, "celery_routing"), layer)
    fast_router.invalidate(one), fast_router.invalidate(other)
    pick_id(one), pick_id(other)
    assert fast_picks(one) == 5  # answered from the plan, though by way of the layer
    assert binding_of(one).detour == 1
    assert binding_of(other).detour == 0
    assert {id(core) for core in seen} == {id(core_of(one))}
    assert len(seen) == 6


def test_a_router_that_is_gone_is_not_kept():
    made = router(entry("a", info_fast_router=LIMIT))
    pick_id(made)
    gone = weakref.ref(binding_of(made))
    discard()
    del made
    gc.collect()
    assert gone() is None


def test_a_layer_that_fails_is_counted_and_litellm_answers(plugin, monkeypatch):
    made = router(entry("a"))
    pick_id(made)

    def broken(_binding, _core):
        raise ZeroDivisionError

    monkeypatch.setitem(stack._installed, (stack.Around.PICK, "waiting"), stack.Installed(broken))
    fast_router.invalidate(made)
    errors = fast_router.status()["errors"]["count"]
    assert pick_id(made) == "a"
    assert fast_router.status()["errors"]["count"] == errors + 1
    plugin.errors = 1


OURS = str(Path(fast_router.__file__).parent)


async def frames_of_an_attempt(made, **request) -> list[str]:
    """Our functions that stand around LiteLLM's `make_call`, the innermost first, while an attempt is under way."""
    found: list[str] = []

    async def asked(*_args, **_kwargs):
        frame = sys._getframe()
        while frame.f_code.co_name != "make_call" or frame.f_code.co_filename.startswith(OURS):
            frame = frame.f_back
        while (frame := frame.f_back).f_code.co_filename.startswith(OURS):
            found.append(frame.f_code.co_name)
        return {"choices": []}

    core = core_of(made)
    begin = getattr(core, switch.band.slot("async_function_with_fallbacks"))
    await begin(original_function=asked, model="m", messages=[], num_retries=0, **request)
    return found


@pytest.mark.parametrize("request_", [{}, {"stream": True}])
async def test_at_most_two_frames_stand_around_an_attempt_in_the_default_settings(request_):
    made = router(entry("a"))
    assert 1 <= len(await frames_of_an_attempt(made, **request_)) <= 2


async def test_a_layer_around_attempts_is_there_while_its_setting_is_on():
    made = router(entry("a"))
    plain = await frames_of_an_attempt(made)
    fast_router.configure(hedge_percent=10)
    try:
        assert len(await frames_of_an_attempt(made)) > len(plain)
    finally:
        fast_router.configure(hedge_percent=None)
    assert await frames_of_an_attempt(made) == plain


async def test_each_seam_is_patched_once_however_many_layers_stand_around_it():
    patches = switch.patches
    assert patches is not None
    slots = {switch.band.slot(seam.value) for seam in stack.Around if seam.value is not None}
    layers = {attribute: len(patch.layers) for (_, attribute), patch in patches._patches.items() if attribute in slots}
    assert layers == dict.fromkeys(slots, 1)


async def test_the_methods_behind_the_seams_still_look_like_litellms():
    core = type(core_of(router(entry("a"))))
    for seam in stack.Around:
        if seam.value is not None:
            ours = getattr(core, switch.band.slot(seam.value))
            theirs = ours.__fast_router_original__
            assert asyncio.iscoroutinefunction(ours) == asyncio.iscoroutinefunction(theirs)
            assert ours.__name__ == theirs.__name__


async def test_an_attempt_whose_layers_cannot_be_composed_is_litellms_alone(plugin, monkeypatch):
    made = router(entry("a"))
    await frames_of_an_attempt(made)

    def broken(_binding, _core):
        raise ZeroDivisionError

    monkeypatch.setitem(stack._installed, (stack.Around.ATTEMPT, "hedging"), stack.Installed(broken))
    fast_router.invalidate(made)
    errors = fast_router.status()["errors"]["count"]
    assert await frames_of_an_attempt(made) == []
    plugin.errors = fast_router.status()["errors"]["count"] - errors
    assert plugin.errors
