"""AdvancedRouter and get_available_deployment: the direct API."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter

import pytest

import fast_router
from fast_router import (
    AdvancedRouter,
    ConfigurationError,
    NoDeploymentError,
    UnknownModelError,
    UnknownStrategyError,
    register_strategy,
)
from fast_router.engine import Strategy
from tests.engine.contract import STRATEGIES, Clock


def fleet(n: int = 3, model: str = "gpt-4") -> list[dict]:
    return [
        {
            "model_name": model,
            "litellm_params": {"model": f"openai/m{i}", "api_key": "sk-secret"},
            "model_info": {"id": f"id{i}"},
        }
        for i in range(n)
    ]


# -- a list of the caller's own ------------------------------------------------------------------


def test_the_answer_is_the_callers_own_dict():
    models = fleet()
    found = AdvancedRouter().get_available_deployment(models, "gpt-4")
    assert any(found is entry for entry in models)


def test_none_when_nothing_fits():
    router = AdvancedRouter()
    assert router.get_available_deployment([], "gpt-4") is None
    assert router.get_available_deployment(fleet(), "other") is None
    assert router.get_available_deployment(fleet(), "gpt-4", blocked_models=["gpt-4"]) is None


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("word", ["openai/m1", "id1"])
def test_blocked_models_match_every_name_of_a_deployment(strategy, word):
    router, models = AdvancedRouter(strategy), fleet()
    seen = {id(router.get_available_deployment(models, "gpt-4", [word])) for _ in range(60)}
    assert seen <= {id(models[0]), id(models[2])}


def test_plain_dicts_are_blocked_by_name_and_id():
    models = [{"model_name": "m", "name": "a"}, {"model_name": "m", "id": "b"}]
    for router in (AdvancedRouter(), AdvancedRouter("least_busy")):
        assert router.get_available_deployment(models, "m", ["a"]) is models[1]
        assert router.get_available_deployment(models, "m", ["b"]) is models[0]


def test_capacity_weighs_the_load():
    models = [
        {"model_name": "m", "endpoint": "a", "capacity": 300},
        {"model_name": "m", "endpoint": "b", "capacity": 100},
    ]
    router = AdvancedRouter(rng=random.Random(1))
    counts = Counter(router.get_available_deployment(models, "m")["endpoint"] for _ in range(4000))
    assert counts["a"] / 4000 == pytest.approx(0.75, abs=0.04)


def test_priority_orders_and_blocking_the_first_fails_over():
    models = [
        {"model_name": "m", "name": "backup", "metadata": {"priority": 2}},
        {"model_name": "m", "name": "primary", "metadata": {"priority": 1}},
    ]
    router = AdvancedRouter()
    assert router.get_available_deployment(models, "m") is models[1]
    assert router.get_available_deployment(models, "m", ["primary"]) is models[0]


def test_region_in_the_context_is_preferred_where_there_is_one():
    models = [{"model_name": "m", "metadata": {"region": "eu"}}, {"model_name": "m", "metadata": {"region": "us"}}]
    pick = fast_router.get_available_deployment
    assert all(pick(models, "m", context={"region": "us"}) is models[1] for _ in range(20))
    assert pick(models, "m", context={"region": "mars"}) in models


@pytest.mark.parametrize("strategy", STRATEGIES)
class TestMutation:
    """A list changed in place never gives a stale answer."""

    def _seen(self, router, models, model="m", picks=120):
        seen = set()
        for _ in range(picks):
            found = router.get_available_deployment(models, model)
            assert found is not None
            assert found["model_name"] == model
            assert any(found is entry for entry in models)
            seen.add(found["id"])
        return seen

    def _models(self):
        return [{"model_name": "m", "id": f"d{i}", "litellm_params": {"model": "x"}} for i in range(3)]

    def test_append_and_pop(self, strategy):
        router, models = AdvancedRouter(strategy), self._models()
        assert self._seen(router, models) <= {"d0", "d1", "d2"}
        models.append({"model_name": "m", "id": "d3"})
        assert "d3" in self._seen(router, models)
        models.pop(0)
        assert "d0" not in self._seen(router, models)

    def test_replaced_entry(self, strategy):
        router, models = AdvancedRouter(strategy), self._models()
        self._seen(router, models)
        models[1] = dict(models[1])
        self._seen(router, models)
        models[1] = {"model_name": "other", "id": "new"}
        assert "d1" not in self._seen(router, models)
        assert router.get_available_deployment(models, "other") is models[1]

    def test_renamed_in_place(self, strategy):
        router, models = AdvancedRouter(strategy), self._models()
        self._seen(router, models)
        for entry in models[:2]:
            entry["model_name"] = "n"
        assert self._seen(router, models) == {"d2"}
        assert router.get_available_deployment(models, "n") in models[:2]
        models[2]["model_name"] = "n"
        assert router.get_available_deployment(models, "m") is None

    def test_changed_id_is_blocked_at_once(self, strategy):
        router, models = AdvancedRouter(strategy), self._models()
        self._seen(router, models)
        models[0]["litellm_params"]["model"] = "bad"
        for _ in range(60):
            assert router.get_available_deployment(models, "m", ["bad"]) is not models[0]

    def test_several_lists_side_by_side(self, strategy):
        router = AdvancedRouter(strategy)
        lists = [[{"model_name": "m", "id": f"{n}"}] for n in range(9)]
        for _ in range(3):
            for models in lists:
                assert router.get_available_deployment(models, "m") is models[0]


@pytest.mark.parametrize("size", [3, 40])
def test_a_list_that_shrinks_while_somebody_picks(size):
    """Another thread can take entries away at any moment: here it does so in the midst of a draw."""

    class Shrinking(random.Random):
        def random(self):
            if len(models) > 1 and self.armed:
                models.pop()
            return 0.999

    models, rng = fleet(size), Shrinking()
    rng.armed = False
    router = AdvancedRouter(rng=rng)
    assert router.get_available_deployment(models, "gpt-4") is models[-1]
    rng.armed = True
    for _ in range(size):
        before = list(models)
        found = router.get_available_deployment(models, "gpt-4")
        assert any(found is entry for entry in before)


def test_a_price_changed_in_place_counts_at_once():
    models = [{"model_name": "m", "price": 3}, {"model_name": "m", "price": 2}]
    router = AdvancedRouter("cost-based")
    assert router.get_available_deployment(models, "m") is models[1]
    models[0]["price"] = 1
    assert router.get_available_deployment(models, "m") is models[0]
    models[1]["litellm_params"] = {"input_cost_per_token": 0.25}
    assert router.get_available_deployment(models, "m") is models[1]


def test_a_weight_changed_in_place_counts_at_once():
    models = [{"model_name": "m", "weight": 1}, {"model_name": "m", "weight": 0}]
    router = AdvancedRouter()
    assert all(router.get_available_deployment(models, "m") is models[0] for _ in range(50))
    models[0]["weight"], models[1]["weight"] = 0, 1
    assert all(router.get_available_deployment(models, "m") is models[1] for _ in range(50))


def test_weights_written_into_a_list_without_any_are_seen_soon():
    models = fleet(8)
    router = AdvancedRouter()
    router.get_available_deployment(models, "gpt-4")
    models[3]["litellm_params"]["weight"] = 5
    for _ in range(17):
        router.get_available_deployment(models, "gpt-4")
    assert all(router.get_available_deployment(models, "gpt-4") is models[3] for _ in range(50))


def test_a_long_list_with_few_matches_is_drawn_fairly():
    models = fleet(400, "other")
    for index in (5, 100, 399):
        models[index]["model_name"] = "rare"
    router = AdvancedRouter(rng=random.Random(2))
    counts = Counter(models.index(router.get_available_deployment(models, "rare")) for _ in range(3000))
    assert set(counts) == {5, 100, 399}
    assert all(850 < n < 1150 for n in counts.values())


def test_round_robin_over_the_callers_list_takes_turns():
    models = fleet(4)
    router = AdvancedRouter("round-robin")
    picks = [router.get_available_deployment(models, "gpt-4")["model_info"]["id"] for _ in range(8)]
    assert sorted(picks[:4]) == sorted(picks[4:]) == ["id0", "id1", "id2", "id3"]


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("gpt-4", "must be a list"),
        ({"model_name": "m"}, "must be a list"),
        ([1], r"model_list\[0\] must be a mapping"),
        ([{"model_name": "m"}, {"litellm_params": {}}], r"model_list\[1\]: 'model_name'"),
        ([{"model_name": ""}], "non-empty string"),
        ([{"model_name": "m", "weight": -1}], r"model_list\[0\]: 'weight' must be a number, zero or more"),
        ([{"model_name": "m", "litellm_params": {"rpm": "many"}}], "'rpm' must be a number"),
        ([{"model_name": "m", "capacity": True}], "'capacity'"),
        ([{"model_name": "m", "weight": float("inf")}], "'weight'"),
        ([{"model_name": "m", "litellm_params": "sk-secret"}], "'litellm_params' must be a mapping, not str"),
        ([{"model_name": "m", "id": "a"}, {"model_name": "m", "id": "a"}], r"model_list\[1\]: the id 'a'"),
    ],
)
def test_a_malformed_list_is_one_error_that_names_the_entry(models, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        AdvancedRouter().get_available_deployment(models, "m")
    assert "sk-secret" not in str(caught.value)
    if isinstance(models, list):
        router = AdvancedRouter(model_list=fleet(2))
        with pytest.raises(ConfigurationError):
            router.set_model_list(models)
        assert list(router.deployments) == ["id0", "id1"]


def test_an_unknown_strategy_lists_the_known_ones():
    with pytest.raises(UnknownStrategyError, match=r"'bogus'; known strategies: .*least_busy.*round_robin"):
        AdvancedRouter("bogus")
    with pytest.raises(ValueError, match="bogus"):
        fast_router.get_available_deployment(fleet(), "gpt-4", settings={"strategy": "bogus"})
    with pytest.raises(UnknownStrategyError):
        AdvancedRouter(None)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("simple-shuffle", "simple_shuffle"),
        ("shuffle", "simple_shuffle"),
        ("least-busy", "least_busy"),
        ("latency-based-routing", "latency_based"),
        ("latency-based", "latency_based"),
        ("cost-based-routing", "cost_based"),
        ("usage-based-routing", "usage_based"),
        ("usage-based-routing-v2", "usage_based"),
        ("Round-Robin", "round_robin"),
    ],
)
def test_spellings(spelling, name):
    assert AdvancedRouter(spelling).strategy == name


def test_a_missing_model_is_a_type_error():
    with pytest.raises(TypeError, match="needs the name of a model"):
        AdvancedRouter().get_available_deployment(fleet())
    with pytest.raises(TypeError, match="needs the name of a model"):
        AdvancedRouter().get_available_deployment()


def test_no_secret_in_any_repr():
    router = AdvancedRouter(model_list=fleet())
    lease = router.acquire("gpt-4")
    text = f"{router!r} {lease!r} {lease.deployment!r} {router.group('gpt-4')!r} {router.stats()!r}"
    assert "sk-secret" not in text


# -- a list that the router keeps ------------------------------------------------------------------


def test_a_lease_counts_times_and_learns_from_the_block():
    clock = Clock()
    router = AdvancedRouter("least_busy", model_list=fleet(2), clock=clock)
    with router.lease("gpt-4") as lease:
        assert router.deployments[lease.id].in_flight == 1
        clock.advance(2)
    assert router.deployments[lease.id].in_flight == 0
    assert router.deployments[lease.id].latency == 2
    with pytest.raises(RuntimeError), router.lease("gpt-4") as lease:
        raise RuntimeError
    row = next(r for r in router.stats()["models"]["gpt-4"]["deployments"] if r["id"] == lease.id)
    assert row["failures"] == 1
    assert row["last_failure"] == "RuntimeError"


async def test_a_cancelled_block_is_neither_success_nor_failure():
    router = AdvancedRouter(model_list=fleet(1))
    inside = asyncio.Event()

    async def call():
        async with router.lease("gpt-4"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    only = router.deployments["id0"]
    assert (only.in_flight, only.successes, only.failures) == (0, 0, 0)


def test_acquire_and_report_for_those_who_cannot_use_a_block():
    router = AdvancedRouter(model_list=fleet(1))
    lease = router.acquire("gpt-4")
    assert router.report(lease, total_tokens=10, completion_tokens=5) is True
    assert router.report(lease) is False
    assert router.deployments["id0"].successes == 1


def test_errors_say_why_and_until_when():
    clock = Clock()
    router = AdvancedRouter(model_list=fleet(2), clock=clock)
    with pytest.raises(UnknownModelError, match="'gpt-5'; known models: 'gpt-4'"):
        router.acquire("gpt-5")
    router.rest("id0", 4)
    router.rest("id1", 9)
    with pytest.raises(NoDeploymentError, match=r"back in 4.0 s") as caught:
        router.acquire("gpt-4")
    assert caught.value.retry_after == 4
    assert router.get_available_deployment(model="gpt-4") is None
    router.wake("id1")
    assert router.acquire("gpt-4").id == "id1"


def test_rest_and_wake_say_whether_they_found_it_by_id_or_by_a_prefix_of_its_own():
    ids = ["0123456789abcdef-one", "0123456789abcdeX-two", "01234567"]
    router = AdvancedRouter(model_list=[{"model_name": "m", "id": id_} for id_ in ids])

    def resting() -> list[str]:
        return [row["id"] for row in router.stats()["models"]["m"]["deployments"] if row["resting"]]

    assert router.rest(ids[0][:16], 60)
    assert resting() == [ids[0]]
    assert router.wake(ids[0][:16])
    assert resting() == []
    assert router.rest("01234567", 60), "a whole id comes before a prefix"
    assert resting() == ["01234567"]
    assert router.wake("01234567")
    assert [router.rest(wrong, 60) for wrong in ("012345678", "0123456", "nobody-at-all", "")] == [False] * 4
    assert not router.wake("nobody-at-all")
    assert resting() == []


def test_the_kept_list_changes_without_losing_what_is_known():
    router = AdvancedRouter("least_busy", model_list=fleet(2))
    leases = [router.acquire("gpt-4") for _ in range(2)]
    router.add_deployment({"model_name": "gpt-4", "id": "new"})
    assert router.acquire("gpt-4").id == "new"
    assert router.remove_deployment("id0") is True
    assert router.remove_deployment("id0") is False
    for lease in leases:
        lease.release()
    assert router.deployments["id1"].in_flight == 0
    assert set(router.deployments) == {"id1", "new"}


def test_a_limit_changed_at_run_time_counts_at_once():
    router = AdvancedRouter(model_list=[{"model_name": "m", "id": "a", "max_parallel": 1}])
    router.acquire("m")
    with pytest.raises(NoDeploymentError):
        router.acquire("m")
    router.set_model_list([{"model_name": "m", "id": "a", "max_parallel": 2}])
    router.acquire("m")
    router.set_model_list([{"model_name": "m", "id": "a", "max_parallel": 0}])
    with pytest.raises(NoDeploymentError):
        router.acquire("m")


def test_a_strategy_per_model():
    models = [{"model_name": "m", "model_info": {"fast_router": {"strategy": "round-robin"}}}, {"model_name": "n"}]
    stats = AdvancedRouter(model_list=models).stats()["models"]
    assert (stats["m"]["strategy"], stats["n"]["strategy"]) == ("round_robin", "simple_shuffle")


def test_a_strategy_of_ones_own():
    @register_strategy
    class LastOne(Strategy):
        name = "the-last-one"

        def choose(self, candidates, now, ask):
            return max(candidates, key=lambda d: d.id)

    router = AdvancedRouter("the_last_one", model_list=fleet(3))
    assert router.acquire("gpt-4").id == "id2"
    with pytest.raises(ValueError, match="belongs to"):

        @register_strategy
        class Thief(Strategy):
            name = "thief"
            aliases = ("least-busy",)


def test_one_router_serves_threads_and_loops():
    router = AdvancedRouter("least_busy", model_list=fleet(4))

    async def calls():
        async def one():
            async with router.lease("gpt-4"):
                await asyncio.sleep(0)

        await asyncio.gather(*(one() for _ in range(100)))

    threads = [threading.Thread(target=lambda: asyncio.run(calls())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(d.picks for d in router.deployments.values()) == 400
    assert all(d.in_flight == 0 for d in router.deployments.values())
