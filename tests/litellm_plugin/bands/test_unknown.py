"""The callback for a LiteLLM whose routing is unknown: called as LiteLLM calls it, it counts by what it is told."""

from __future__ import annotations

import inspect
import logging

import litellm
import pytest
from litellm.integrations.custom_logger import CustomLogger

import fast_router
from fast_router.litellm_plugin import hook
from fast_router.litellm_plugin.bands import unknown
from fast_router.litellm_plugin.patching import PatchSet
from tests.support.plugin import MESSAGES, discard, entry, router, until


@pytest.fixture
def handler(monkeypatch):
    # LiteLLM registers a hundred callbacks at most, and other tests leave some behind.
    for name in ("callbacks", "success_callback", "failure_callback", "input_callback"):
        monkeypatch.setattr(litellm, name, [])
    for name in ("_async_success_callback", "_async_failure_callback"):
        monkeypatch.setattr(litellm, name, [])
    hook.disable()
    patches = PatchSet()
    assert unknown.install(patches, "this LiteLLM is unknown") == ["public hook"]
    yield litellm.callbacks[-1]
    patches.restore()
    discard()
    fast_router.enable()


def test_its_methods_take_what_litellms_own_take(handler):
    ours = {name: value for name, value in vars(type(handler)).items() if name in vars(CustomLogger)}
    ours = {name: value for name, value in ours.items() if inspect.iscoroutinefunction(value)}
    assert ours.keys() >= {"async_filter_deployments", "async_log_success_event", "async_log_failure_event"}
    for name, method in ours.items():
        assert list(inspect.signature(method).parameters) == list(
            inspect.signature(getattr(CustomLogger, name)).parameters
        ), name


async def test_a_call_counts_from_the_pick_to_its_end(handler, caplog):
    counted = handler.narrower.router.deployments
    made = router(entry("a", mock_response="yes"), entry("b", mock_response="yes"))
    with caplog.at_level(logging.WARNING):
        answers = [await made.acompletion(model="m", messages=MESSAGES) for _ in range(6)]
        await until(lambda: sum(d.in_flight for d in counted.values()) == 0)
    assert len(answers) == 6
    if handler.narrower.sees_routers():
        assert sum(d.picks for d in counted.values()) == 6
    assert "TypeError" not in caplog.text


async def test_a_call_that_fails_ends_too(handler):
    counted = handler.narrower.router.deployments
    failing = [entry(name, mock_response="litellm.InternalServerError") for name in "ab"]
    made = router(*failing, disable_cooldowns=True)
    with pytest.raises(litellm.InternalServerError):
        await made.acompletion(model="m", messages=MESSAGES)
    await until(lambda: sum(d.in_flight for d in counted.values()) == 0)


async def test_nobody_is_left_out_while_a_router_may_check_before_calls(handler, monkeypatch):
    made = router(entry("a"), entry("b"), enable_pre_call_checks=True)
    everybody = [entry("a"), entry("b")]
    left = await handler.async_filter_deployments("m", everybody, MESSAGES, {"litellm_call_id": "x"}, None)
    assert left == everybody
    made.discard()
    monkeypatch.setattr(litellm, "_async_success_callback", [])
    # Where Routers cannot be seen, nobody knows whether one of them checks.
    left = await handler.async_filter_deployments("m", everybody, MESSAGES, {"litellm_call_id": "y"}, None)
    assert left == everybody
