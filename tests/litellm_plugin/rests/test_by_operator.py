"""An operator's hold keeps calls away on every lane: our picks, our choice behind LiteLLM's filters, and its own."""

from __future__ import annotations

import time

import litellm
import pytest
from litellm.integrations.custom_logger import CustomLogger

import fast_router
from fast_router import operator_holds
from fast_router.operator_holds import Hold
from tests.support.plugin import over
from tests.support.waiting import until

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def _clean():
    fast_router.enable()
    yield
    operator_holds.replace("file", [])


def router_of(**options):
    models = [
        {
            "model_name": "m",
            "model_info": {"id": f"d{i}"},
            "litellm_params": {"model": "openai/x", "api_base": f"http://gpu{i}:8000", "api_key": "k", "weight": 1},
        }
        for i in range(3)
    ]
    return litellm.Router(model_list=models, num_retries=0, **options)


def hold(server, **more):
    operator_holds.replace("file", [Hold("rest", server=server, by="me", at=time.time(), **more)])


async def served(router, count=30, **request):
    found = set()
    for _ in range(count):
        answer = await router.acompletion("m", messages=MESSAGES, mock_response="hello", **request)
        found.add(answer._hidden_params["model_id"])
    return found


def served_sync(router, count=30):
    return {
        router.completion("m", messages=MESSAGES, mock_response="hello")._hidden_params["model_id"]
        for _ in range(count)
    }


class Filter(CustomLogger):
    """A filter that leaves all: LiteLLM's own pipeline has to run for it."""

    async def async_filter_deployments(self, model, healthy_deployments, messages, request_kwargs=None, **_):
        return healthy_deployments


@pytest.mark.parametrize("strategy", ["simple-shuffle", "least-busy", "power_of_two", "round_robin"])
async def test_no_lane_picks_what_is_held_and_all_pick_it_again_afterwards(strategy, monkeypatch):
    router = router_of(routing_strategy=strategy)
    assert await served(router) == {"d0", "d1", "d2"}
    hold("gpu1:8000")
    assert await served(router) == {"d0", "d2"}
    assert served_sync(router) == {"d0", "d2"}
    with monkeypatch.context() as patched:
        patched.setattr(litellm, "callbacks", [*litellm.callbacks, Filter()])
        assert await served(router) == {"d0", "d2"}
    operator_holds.replace("file", [])

    async def back():
        return "d1" in await served(router, 5)

    await until(back)  # a strategy of chance may need a few more


async def test_litellms_own_pick_leaves_it_out(monkeypatch):
    router = router_of()
    await served(router, 1)
    hold("gpu1:8000")
    # Weights in the request are LiteLLM's to choose by.
    assert await served(router, _router_weights={"m": {"d0": 1, "d1": 1, "d2": 1}}) <= {"d0", "d2"}


async def test_a_hold_comes_before_the_first_pick_outlives_reloads_and_ends_by_its_time():
    hold("gpu1:8000")
    router = router_of()
    assert await served(router) == {"d0", "d2"}
    router.set_model_list(list(router.get_model_list()))
    assert await served(router) == {"d0", "d2"}
    hold("gpu1:8000", until=time.time() + 0.2)
    time.sleep(0.3)
    assert await served(router) == {"d0", "d1", "d2"}


async def test_a_model_with_nothing_left_is_refused_as_litellm_refuses_it():
    router = router_of()
    await served(router, 1)
    operator_holds.replace("file", [Hold("rest", id=f"d{i}", at=time.time()) for i in range(3)])
    with pytest.raises(Exception, match="No deployments available"):
        await served(router, 1)
    operator_holds.replace("file", [])
    assert await served(router, 1)


async def test_the_status_shows_deployments_before_and_after_the_first_pick():
    from fast_router.litellm_plugin import hook
    from fast_router.router import live_routers

    router = router_of()
    hook.bind_all()
    mine = fast_router.advanced_router(router)
    assert mine in live_routers()
    for _ in range(2):
        rows = mine.stats()["models"]["m"]["deployments"]
        assert {row["server"] for row in rows} == {"gpu0:8000", "gpu1:8000", "gpu2:8000"}
        await served(router, 5)
    assert sum(row["picks"] for row in mine.stats()["models"]["m"]["deployments"]) == 10


async def test_a_weight_counts_from_the_next_call_on_where_groups_are_compiled_already(servers):
    router = over(servers, each={"weight": 1})

    async def asked(count=40):
        return {(await router.acompletion("m", messages=MESSAGES))._hidden_params["model_id"] for _ in range(count)}

    assert await asked() == {"d0", "d1", "d2"}
    operator_holds.replace("file", [Hold("weight", id="d1", weight=0.0, by="me", at=time.time())])
    assert await asked() == {"d0", "d2"}
    operator_holds.replace("file", [])
    assert await asked() == {"d0", "d1", "d2"}
