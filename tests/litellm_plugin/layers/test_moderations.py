"""Moderations go to a server that they have not tried, as every other endpoint's calls do."""

from __future__ import annotations

import litellm
import pytest

import fast_router
from fast_router.testing import Fleet, Spec

pytestmark = pytest.mark.python_core


def entry(server):
    params = {"model": "openai/omni-moderation", "api_base": server.api_base, "api_key": "k"}
    return {"model_name": "mod", "litellm_params": params, "model_info": {"id": server.name}}


@pytest.mark.parametrize("strategy", ["simple-shuffle", "least-busy"])
async def test_a_moderation_goes_on_elsewhere(strategy):
    fast_router.enable()
    with Fleet(
        [Spec(name="bad", models=("omni-moderation",)), Spec(name="good", models=("omni-moderation",))]
    ) as fleet:
        fleet["bad"].order(error_rate=1.0)
        router = litellm.Router(
            model_list=[entry(fleet[name]) for name in fleet],
            num_retries=1,
            disable_cooldowns=True,
            routing_strategy=strategy,
        )
        for _ in range(6):
            assert (await router.amoderation(model="mod", input="x")).results[0].flagged is False
        assert fleet["good"].records.served == 6
        assert fleet["bad"].records.requests


async def test_a_model_that_is_not_listed_is_litellms():
    fast_router.enable()
    with Fleet([Spec(name="good", models=("omni-moderation",))]) as fleet:
        router = litellm.Router(model_list=[entry(fleet["good"])], num_retries=0)
        base = fleet["good"].api_base
        answer = await router.amoderation(model="omni-moderation", input="x", api_base=base, api_key="k")
        assert answer.results
