"""LiteLLM 1.110: the Router's own cost around its core, taken down without a change in what it does."""

from __future__ import annotations

import datetime as dt
from typing import Any

import litellm
import pytest
from hypothesis import given
from hypothesis import strategies as st
from litellm import Router

import fast_router

pytestmark = pytest.mark.skipif(
    not hasattr(Router, "from_config") or fast_router.status()["band"] != "1.110", reason="this core is Python"
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(dt.date.min),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers() | st.none(), inner)
        | st.sets(st.text())
    ),
    max_leaves=12,
)


def replaced(name: str) -> tuple[Any, Any]:
    import litellm.router_rust.core as core
    import litellm.router_rust.surface.registry as registry

    ours = getattr(registry if name == "_round_trips" else core, name)
    return ours, vars(ours)["__fast_router_original__"]


def outcome(function: Any, value: Any) -> Any:
    try:
        return "value", repr(function(value))
    except Exception as error:
        return "error", type(error).__name__, str(error)


@given(JSON)
def test_values_come_out_as_through_json(value):
    for name in ("_round_trips", "_plain"):
        ours, theirs = replaced(name)
        assert outcome(ours, value) == outcome(theirs, value)


def entries(count: int, **info: Any) -> list[dict[str, Any]]:
    return [
        {
            "model_name": "m" if at % 3 else "n",
            "litellm_params": {"model": f"openai/x{at}", "api_key": "k", "extra_headers": {"a": "b"}},
            "model_info": {"id": f"d{at}", "when": [1, {"x": (2,)}], **info},
        }
        for at in range(count)
    ]


def built(lane: bool) -> Any:
    (fast_router.enable if lane else fast_router.disable)()
    made = Router(model_list=entries(6), model_group_alias={"alias": "m"})
    return made, vars(made)["_core"]


def test_a_router_is_built_the_same():
    try:
        before = dict(litellm.model_cost)
        _, theirs = built(lane=False)
        prices = {key: value for key, value in litellm.model_cost.items() if key not in before}
        for key in prices:
            del litellm.model_cost[key]
        _, ours = built(lane=True)
        assert theirs._handle.deployments() == ours._handle.deployments()
        assert theirs._hosted._live_params == ours._hosted._live_params
        assert prices == {key: value for key, value in litellm.model_cost.items() if key not in before}
    finally:
        fast_router.enable()


@pytest.mark.parametrize("method", ["_core_get_model_list", "_core_get_all_deployments"])
def test_lists_of_a_group_follow_every_change(method, monkeypatch):
    made, core = built(lane=True)
    hosted = core._hosted

    def ids(name: str = "m", team: str | None = None) -> list[str]:
        theirs = vars(getattr(type(hosted), method))["__fast_router_original__"](hosted, name, team_id=team)
        for _ in range(2):
            found = getattr(hosted, method)(model_name=name, team_id=team)
            assert [id(entry) for entry in found] == [id(entry) for entry in theirs] or found == theirs
            found.clear()  # a list of the caller's own
        return [entry["model_info"]["id"] for entry in theirs]

    assert ids() == ["d1", "d2", "d4", "d5"]
    monkeypatch.setattr(type(hosted), "_rows", None)  # which makes the entries
    assert len(getattr(hosted, method)(model_name="m")) == 4
    monkeypatch.undo()
    assert ids("alias") == ids("alias")
    assert ids("nobody") == []
    made.delete_deployment("d2")
    assert ids() == ["d1", "d4", "d5"]
    core._hosted._core_model_list[0]["litellm_params"]["api_key"] = "other"
    assert ids() == ["d1", "d4", "d5"]
    made.update_settings(model_group_alias={"m": "n"})
    assert ids("m") == ids("m")
    made.set_model_list(entries(3))
    assert ids("n") == ["d0"]
