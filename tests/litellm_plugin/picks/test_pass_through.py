"""Picks for pass-through endpoints: LiteLLM says who may pass through, we choose among them."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import fast_router
from tests.support.plugin import MESSAGES, core_of, entry, in_flight, picks, router

pytestmark = pytest.mark.usefixtures("plugin")

VERTEX = {
    "model": "vertex_ai/gemini-2.0-flash",
    "vertex_project": "project",
    "vertex_location": "us-central1",
    "vertex_credentials": "{}",
}
KINDS = [
    pytest.param(name, id=kind)
    for kind, name in (
        ("async", "async_get_available_deployment_for_pass_through"),
        ("sync", "get_available_deployment_for_pass_through"),
    )
]


def passing(made, name, count):
    """How often each deployment is picked for a pass-through call."""
    core = core_of(made)

    def once():
        found = getattr(core, name)(model="m", request_kwargs={}, messages=MESSAGES)
        return asyncio.run(found) if asyncio.iscoroutine(found) else found

    return Counter(str(once()["model_info"]["id"]) for _ in range(count))


@pytest.mark.parametrize("name", KINDS)
def test_only_those_that_may_pass_through_are_picked_and_we_choose(name):
    made = router(
        entry("plain"),
        entry("a", **VERTEX, use_in_pass_through=True),
        entry("b", **VERTEX, use_in_pass_through=True),
        routing_strategy="round_robin",
    )
    before = picks()
    # Smooth round robin is exact: an even share of an even number, whatever LiteLLM's own choice would be.
    assert passing(made, name, 20) == {"a": 10, "b": 10}
    after = picks()
    assert after["filtered"] - before["filtered"] == 20
    assert after["delegated"] == before["delegated"]
    assert in_flight(made) == 0


@pytest.mark.parametrize("name", KINDS)
def test_one_that_rests_is_left_out(name):
    made = router(
        entry("a", **VERTEX, use_in_pass_through=True),
        entry("b", **VERTEX, use_in_pass_through=True),
    )
    passing(made, name, 1)
    fast_router.advanced_router(made).rest("a", 60)
    assert passing(made, name, 10) == {"b": 10}


@pytest.mark.parametrize("name", KINDS)
def test_nobody_who_may_pass_through_is_litellms_error(name):
    made = router(entry("a"), entry("b"))
    fast_router.disable()
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - which one is LiteLLM's affair
        passing(made, name, 1)
    fast_router.enable()
    with pytest.raises(type(theirs.value)) as ours:
        passing(made, name, 1)
    assert str(ours.value) == str(theirs.value)
