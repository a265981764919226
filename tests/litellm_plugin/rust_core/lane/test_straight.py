"""A failure of the lane goes straight to whom it called, its retries to whom we pick: nothing else changes."""

from __future__ import annotations

import asyncio
from typing import Any

import litellm
import pytest
from litellm import Router

import fast_router

pytestmark = pytest.mark.skipif(
    not hasattr(Router, "from_config") or fast_router.status()["band"] != "1.110", reason="this core is Python"
)

from tests.litellm_plugin.rust_core.lane.walks import SETTINGS, differences, lane_counts, run  # noqa: E402

PROMPTS: dict[str, dict[str, Any]] = {
    "acompletion": {},
    "completion": {},
    "aembedding": {"input": "hello"},
    "embedding": {"input": "hello"},
    "aresponses": {"input": "hello"},
}
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def no_errors_of_ours():
    assert fast_router.enable()
    before = fast_router.status()["errors"]["count"]
    yield
    assert fast_router.status()["errors"]["count"] == before, fast_router.status()["errors"]


FAILURES = ("server", "too many, retry after", "authentication", "timeout", "context window")
# One retry: once both were tried, who comes next is chance.
ONCE = {name: {**given, "num_retries": min(given["num_retries"], 1)} for name, given in SETTINGS.items()}
ONCE["retry policy"] = {"num_retries": 1, "retry_policy": {"BadRequestErrorRetries": 1, "RateLimitErrorRetries": 0}}


CASES = [(op, settings) for op in ("acompletion", "completion") for settings in ONCE]
CASES += [(op, settings) for op in PROMPTS for settings in ("retries", "fallbacks")]


@pytest.mark.parametrize(("op", "settings"), sorted(set(CASES)))
def test_with_failover_it_ends_as_in_a_walk_through_the_filters(op, settings, monkeypatch):
    from fast_router.litellm_plugin.rust_core.lane import straight

    asked = []
    chosen = straight._chosen

    def counted(*args: Any) -> Any:
        found = chosen(*args)
        asked.append(found)
        return found

    for error in FAILURES:
        for failing in ("a", "ab"):
            does = dict.fromkeys(failing, error)
            how = {"op": op, "lane": True, "failover": True, **PROMPTS[op]}
            with monkeypatch.context() as patch:
                patch.setattr(straight, "_chosen", lambda *_: None)
                through = run(ONCE[settings], does, **how)
            with monkeypatch.context() as patch:
                patch.setattr(straight, "_chosen", counted)
                short = run(ONCE[settings], does, **how)
            found = differences(through, short)
            assert not found, f"{error}, {failing}\n" + "\n".join(found)
    assert any(found is not None for found in asked)


def router(size: int, **options: Any) -> Router:
    return Router(
        model_list=[
            {
                "model_name": "m",
                "litellm_params": {"model": "openai/x", "api_key": "k", "api_base": f"http://{at}/v1"},
                "model_info": {"id": f"straight-{size}-{at}"},
            }
            for at in range(size)
        ],
        **{"num_retries": 2, **options},
    )


@pytest.mark.parametrize("strategy", ["simple-shuffle", "least-busy", "latency-based-routing"])
def test_a_retry_goes_through_no_filter(strategy, monkeypatch):
    from litellm.router_rust.core import RustCore

    filtered = []
    original = RustCore._answer_callback_filters

    async def filters(self: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
        filtered.append(step)
        return await original(self, step, *args, **kwargs)

    monkeypatch.setattr(RustCore, "_answer_callback_filters", filters)
    called: list[str] = []

    async def fails_once(**kwargs: Any) -> Any:
        called.append(kwargs["model_info"]["id"])
        if len(called) == 1:
            raise litellm.InternalServerError(message="told to", llm_provider="openai", model="m")
        return litellm.ModelResponse(choices=[{"message": {"content": "hi"}, "finish_reason": "stop"}])

    monkeypatch.setattr(litellm, "acompletion", fails_once)
    made = router(60, routing_strategy=strategy)
    before = lane_counts()["handed_over"]
    answer = asyncio.run(made.acompletion(model="m", messages=MESSAGES))
    assert lane_counts()["handed_over"] == before + 1
    assert len(set(called)) == 2
    assert answer._hidden_params["model_id"] == called[1]
    assert answer._hidden_params["additional_headers"]["x-litellm-attempted-retries"] == 1
    assert filtered == []
    assert not any(d.in_flight for d in fast_router.advanced_router(made).deployments.values())
    made.discard()


async def test_a_retry_avoids_who_rests_and_who_was_tried(monkeypatch):
    called: list[str] = []

    async def fails(**kwargs: Any) -> Any:
        called.append(kwargs["model_info"]["id"])
        raise litellm.InternalServerError(message="told to", llm_provider="openai", model="m")

    monkeypatch.setattr(litellm, "acompletion", fails)
    made = router(4)
    core = vars(made)["_core"]
    with pytest.raises(litellm.InternalServerError):
        await made.acompletion(model="m", messages=MESSAGES)
    assert len(set(called)) == 3
    called.clear()
    core._cooldowns.add_deployment_to_cooldown("straight-4-0", RuntimeError("x"), 429, 60.0)
    for _ in range(8):
        with pytest.raises(litellm.InternalServerError):
            await made.acompletion(model="m", messages=MESSAGES)
    assert "straight-4-0" not in called
    made.discard()


def cooldown_step(size: int) -> dict[str, Any]:
    keys = [f"deployment:straight-{size}-{at}:cooldown" for at in range(size)]
    return {"kind": "cache", "op": "batch_get", "keys": keys}


@pytest.mark.parametrize("sync", [False, True])
def test_who_cools_down_is_answered_as_litellm_answers(sync):
    """Our layer above LiteLLM's own answer, taken from the code behind it."""
    from fast_router.litellm_plugin.bands.methods import innermost

    made = router(5)
    core = vars(made)["_core"]
    cls = type(core)

    def answers(step: dict[str, Any]) -> tuple[Any, Any]:
        if sync:
            return cls._answer_cache_sync(core, step), innermost(cls._answer_cache_sync)(core, step)

        async def both() -> tuple[Any, Any]:
            return await cls._answer_cache(core, step), await innermost(cls._answer_cache)(core, step)

        return asyncio.run(both())

    ours, theirs = answers(cooldown_step(5))
    assert list(ours) == list(theirs) == [None] * 5
    for at, status in ((1, 429), (3, 500)):
        core._cooldowns.add_deployment_to_cooldown(f"straight-5-{at}", RuntimeError(f"x{at}"), status, 60.0)
    ours, theirs = answers(cooldown_step(5))
    assert list(ours) == list(theirs)
    assert [value is not None for value in ours] == [False, True, False, True, False]
    for step in (
        {"kind": "cache", "op": "batch_get", "keys": ["another", "deployment:straight-5-1:cooldown"]},
        {"kind": "cache", "op": "get", "key": "deployment:straight-5-1:cooldown"},
    ):
        ours, theirs = answers(step)
        assert ours == theirs
    made.discard()
