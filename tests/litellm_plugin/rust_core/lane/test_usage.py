"""LiteLLM 1.110: its books of deployments with limits, as the lane reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litellm import Router

import fast_router

pytestmark = pytest.mark.skipif(
    not hasattr(Router, "from_config") or fast_router.status()["band"] != "1.110", reason="this core is Python"
)

COUNTERS = st.lists(st.none() | st.integers(0, 10**9) | st.floats(0, 1e9) | st.booleans(), max_size=12)


@given(COUNTERS)
def test_counters_are_summed_as_litellm_sums_them(values):
    from litellm.router_rust.surface.model_info import _usage_totals

    from fast_router.litellm_plugin.rust_core.lane.usage import Books

    books = Books(lambda: "10-10", dict)
    assert books._total(values) == _usage_totals(values, len(values))[0]
