"""Three real upstreams for every test of this folder, LiteLLM unpatched, and its price map as shipped."""

from __future__ import annotations

from pathlib import Path

import litellm
import pytest

import fast_router
from fast_router.testing import Upstream


@pytest.fixture(scope="module", autouse=True)
def litellm_alone():
    """These tests install single features themselves: the plugin as a whole is off meanwhile."""
    was_on = fast_router.status()["enabled"]
    assert fast_router.disable() == []
    yield
    if was_on:
        fast_router.enable()


@pytest.fixture(scope="session")
def upstreams():
    with Upstream(tokens=3) as first, Upstream(tokens=5) as second, Upstream(tokens=2) as third:
        yield [first, second, third]


@pytest.fixture(scope="session")
def cost():
    return {key: dict(row) for key, row in litellm.model_cost.items()}


def pytest_collection_modifyitems(items):
    """What spares a core in Python its work is no affair of one in Rust, see rust_core/test_rust_overhead."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.python_core)
