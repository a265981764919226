"""Moderations go to a server that they have not tried, as every other endpoint's calls do."""

from __future__ import annotations

import pytest

from fast_router.testing import Fleet, Spec
from tests.support.plugin import entry, router

pytestmark = [pytest.mark.python_core, pytest.mark.usefixtures("plugin")]


def mod(server):
    return entry(server.name, server.api_base, name="mod", model="openai/omni-moderation")


@pytest.mark.parametrize("strategy", ["simple-shuffle", "least-busy"])
async def test_a_moderation_goes_on_elsewhere(strategy):
    with Fleet(
        [Spec(name="bad", models=("omni-moderation",)), Spec(name="good", models=("omni-moderation",))]
    ) as fleet:
        fleet["bad"].order(error_rate=1.0)
        made = router(*map(mod, fleet.values()), num_retries=1, disable_cooldowns=True, routing_strategy=strategy)
        for _ in range(30):  # the bad one is never the first by chance once in a thousand million runs
            assert (await made.amoderation(model="mod", input="x")).results[0].flagged is False
        assert fleet["good"].records.served == 30
        assert fleet["bad"].records.requests


async def test_a_model_that_is_not_listed_is_litellms():
    with Fleet([Spec(name="good", models=("omni-moderation",))]) as fleet:
        made = router(mod(fleet["good"]))
        base = fleet["good"].api_base
        answer = await made.amoderation(model="omni-moderation", input="x", api_base=base, api_key="k")
        assert answer.results
