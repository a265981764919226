"""Limits of 0 and prices in `model_info`, in a `litellm.Router` and in the direct API."""

from __future__ import annotations

import collections
import time

import litellm
import pytest

from fast_router import AdvancedRouter, get_available_deployment

pytestmark = pytest.mark.usefixtures("plugin")

HELLO = [{"role": "user", "content": "hello"}]


def entry(id_, info=(), **params):
    params = {"model": "openai/none-of-the-list", "api_key": "k", "mock_response": id_, **params}
    return {"model_name": "m", "litellm_params": params, "model_info": {"id": id_, **dict(info)}}


async def picks(router, count=30):
    found = collections.Counter()
    for _ in range(count):
        answer = await router.acompletion(model="m", messages=HELLO)
        found[answer.choices[0].message.content] += 1
    return found


@pytest.mark.parametrize("strategy", ["usage-based-routing", "usage-based-routing-v2"])
@pytest.mark.parametrize("limit", ["tpm", "rpm"])
@pytest.mark.parametrize("place", ["litellm_params", "model_info"])
async def test_usage_based_routing_leaves_a_deployment_without_room_alone(strategy, limit, place):
    closed = entry("closed")
    closed[place][limit] = 0
    router = litellm.Router(model_list=[closed, entry("open")], routing_strategy=strategy, num_retries=0)
    assert await picks(router) == {"open": 30}


@pytest.mark.parametrize("strategy", ["simple-shuffle", "latency-based-routing", "cost-based-routing", "least-busy"])
async def test_elsewhere_a_limit_of_0_is_none(strategy):
    model_list = [entry("a", tpm=0), entry("b", tpm=0)]
    router = litellm.Router(model_list=model_list, routing_strategy=strategy, num_retries=0)
    assert sum((await picks(router)).values()) == 30


async def test_own_limits_are_counted_for_each_deployment_and_a_refusal_costs_no_request():
    """LiteLLM looks at a deployment's own rpm after the pick: one that is full is picked by chance, and refuses."""
    checks = {"optional_pre_call_checks": ["enforce_model_rate_limits"], "disable_cooldowns": True}
    while True:
        began = time.time() // 60
        # Handlers of Routers that other tests have left count and refuse as well, by id.
        model_list = [entry(f"{id_}-{time.time()}", rpm=3) for id_ in ("own", "other")]
        router = litellm.Router(model_list=model_list, num_retries=1, **checks)
        found = await picks(router, 6)
        with pytest.raises(litellm.RateLimitError):
            await picks(router, 1)
        if time.time() // 60 == began:  # else the counts are those of two minutes
            break
    assert list(found.values()) == [3, 3]


@pytest.mark.parametrize("limit", ["tpm", "rpm"])
def test_the_direct_api_closes_it_too(limit):
    router = AdvancedRouter("usage_based", model_list=[entry("closed", **{limit: 0}), entry("open")])
    assert {router.get_available_deployment(model="m")["model_info"]["id"] for _ in range(50)} == {"open"}
    for _ in range(5):
        with router.lease("m") as lease:
            assert lease.deployment.id == "open"


def test_a_limit_of_0_outlasts_the_minute():
    now = [0.0]
    router = AdvancedRouter("usage_based", model_list=[entry("closed", tpm=0)], clock=lambda: now[0])
    for _ in range(3):
        assert router.get_available_deployment(model="m") is None
        now[0] += 61


@pytest.mark.parametrize("cheap", [{"input_cost_per_token": 1e-7, "output_cost_per_token": 1e-7}])
async def test_prices_in_model_info_steer(cheap):
    dear = dict.fromkeys(cheap, 0.001)
    router = litellm.Router(
        model_list=[entry("dear", dear), entry("cheap", cheap)], routing_strategy="cost-based-routing", num_retries=0
    )
    assert await picks(router) == {"cheap": 30}


async def test_prices_in_litellm_params_go_before():
    one = {"input_cost_per_token": 1e-3, "output_cost_per_token": 1e-3}
    model_list = [
        entry("dear", dict.fromkeys(one, 1e-09), **one),
        entry("cheap", dict.fromkeys(one, 1.0), **dict.fromkeys(one, 1e-06)),
    ]
    router = litellm.Router(model_list=model_list, routing_strategy="cost-based-routing", num_retries=0)
    assert await picks(router) == {"cheap": 30}


@pytest.mark.parametrize("size", [2, 40])
@pytest.mark.parametrize("strategy", ["simple_shuffle", "least_busy"])
def test_blocked_models_as_a_text_is_one_word(size, strategy):
    model_list = [{"model_name": "m", "name": f"azure-{n}" if n else "azure"} for n in range(size)]
    router = AdvancedRouter(strategy)
    for ask in (router.get_available_deployment, get_available_deployment):
        names = {ask(model_list, "m", "azure")["name"] for _ in range(200)}
        assert "azure" not in names
        assert names
        assert ask(model_list[:1], "m", "azure") is None
        assert ask(model_list[:1], "m", "azur")["name"] == "azure"


def test_blocked_models_as_a_text_for_a_kept_list():
    router = AdvancedRouter(model_list=[{"model_name": "m", "name": "azure"}, {"model_name": "m", "name": "z"}])
    assert {router.get_available_deployment(model="m", blocked_models="azure")["name"] for _ in range(50)} == {"z"}


@pytest.mark.parametrize("place", ["capacity", "metadata"])
def test_capacity_is_a_share(place):
    def plain(name, value):
        return {"model_name": "m", "name": name, **({"capacity": value} if place == "capacity" else {})} | (
            {"metadata": {"capacity": value}} if place == "metadata" else {}
        )

    model_list = [plain("big", 9), plain("small", 1)]
    router = AdvancedRouter()
    found = collections.Counter(router.get_available_deployment(model_list, "m")["name"] for _ in range(2000))
    assert 1650 < found["big"] < 1930
