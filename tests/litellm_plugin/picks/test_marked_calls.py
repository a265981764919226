"""Calls that narrow their candidates by what they are: LiteLLM marks them in a ContextVar or a key (from 1.108 on)."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import pytest

from tests.support.plugin import core_of, entry, pick_id, picks, router, sync_id

pytestmark = pytest.mark.usefixtures("plugin")


@contextlib.contextmanager
def marked(name: str, value: str) -> Any:
    module = sys.modules[core_of(router(entry("a"))).__class__.__module__]
    variable = vars(module).get(name)
    if variable is None:
        pytest.skip("this LiteLLM marks no calls")
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@pytest.mark.parametrize("ask", [pick_id, sync_id])
def test_a_call_on_a_video_goes_to_the_deployment_that_has_it(ask):
    made = router(*(entry(name) for name in "abcdef"))
    assert ask(made) in "abcdef"
    with marked("_video_call_deployment_id", "d"):
        assert {ask(made) for _ in range(12)} == {"d"}
    before = picks()["fast"]
    assert ask(made) in "abcdef"
    assert picks()["fast"] == before + 1, "only marked calls leave the fast lane"


@pytest.mark.parametrize("ask", [pick_id, sync_id])
def test_a_decisions_call_keeps_to_deployments_that_serve_decisions(ask):
    # Of these two providers LiteLLM knows one that answers Decisions calls.
    able = {"model": "openai/gpt-4o", "api_base": "http://127.0.0.1:9/v1"}
    made = router(entry("a", **able), entry("b", model="ollama/llama3"), entry("c", model="ollama/llama3"))
    seen = {ask(made) for _ in range(30)}
    with marked("_routed_call_type", "adecisions"):
        core = core_of(made)
        entries = [dict(e) for e in core.model_list]
        served = core._without_deployments_that_cannot_serve_route(entries, "m")
        expected = {e["model_info"]["id"] for e in served}
        assert {ask(made) for _ in range(30)} == expected
    assert seen == {"a", "b", "c"}


@pytest.mark.parametrize("ask", [pick_id, sync_id])
@pytest.mark.python_core
def test_a_stream_that_goes_on_elsewhere_keeps_to_deployments_that_can_continue_it(ask):
    prefill = pytest.importorskip("litellm.router_utils.pre_call_checks.continuation_prefill_check")
    if not hasattr(prefill, "continuation_deployments"):
        pytest.skip("this LiteLLM filters by a callback alone")
    made = router(entry("a", info_supports_assistant_prefill=True), entry("b"), entry("c"))
    request = {prefill.MID_STREAM_CONTINUATION_KWARG: prefill.MID_STREAM_CONTINUATION_MARKER}
    expected = {e["model_info"]["id"] for e in prefill.continuation_deployments(core_of(made).model_list, request)}
    assert expected == {"a"}
    if ask is pick_id:
        # Asynchronous picks leave it to a callback that LiteLLM registers with the option.
        expected = {"a", "b", "c"}
    assert {ask(made, **request) for _ in range(30)} == expected
