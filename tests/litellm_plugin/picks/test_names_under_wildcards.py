"""Names that callers invent under a `*` model: served, and not kept."""

from __future__ import annotations

import gc

import litellm
import pytest

import fast_router

pytestmark = pytest.mark.python_core

HELLO = [{"role": "user", "content": "hello"}]
NAMES = 300


def entry(name, **params):
    return {
        "model_name": name,
        "litellm_params": {"model": "openai/*", "api_key": "k", "mock_response": "x", **params},
    }


def entries_within(*roots):
    """How many items the containers hold that are reached from `roots` through objects of fast_router's."""
    seen, found, ahead = set(), 0, list(roots)
    while ahead:
        one = ahead.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, (dict, list, tuple, set, frozenset)):
            found += len(one)
            ahead += one.values() if isinstance(one, dict) else one
        elif type(one).__module__.startswith("fast_router"):
            ahead += [item for item in gc.get_referents(one) if not isinstance(item, type)]
    return found


async def ask(router, first, last):
    for number in range(first, last):
        assert (await router.acompletion(model=f"name-{number}", messages=HELLO)).choices


@pytest.mark.parametrize(
    ("strategy", "hedging"),
    [
        ("simple-shuffle", 10.0),
        ("least-busy", 0.0),
        pytest.param("simple-shuffle", 0.0, marks=pytest.mark.slow),
        pytest.param("least-busy", 10.0, marks=pytest.mark.slow),
        pytest.param("latency-based-routing", 0.0, marks=pytest.mark.slow),
        pytest.param("latency-based-routing", 10.0, marks=pytest.mark.slow),
        pytest.param("cost-based-routing", 0.0, marks=pytest.mark.slow),
        pytest.param("cost-based-routing", 10.0, marks=pytest.mark.slow),
    ],
)
async def test_nothing_is_kept_of_unknown_names(plugin, strategy, hedging):
    fast_router.configure(hedge_percent=hedging)
    router = litellm.Router(
        model_list=[entry("*"), entry("*", rpm=100_000), entry("other/*")], routing_strategy=strategy, num_retries=0
    )
    core = vars(router).get("_core", router)
    # Once more than the few names that may be remembered.
    await ask(router, 0, 60)
    ours = [value for key, value in vars(core).items() if key.startswith("_fast_router")]
    assert ours
    before = entries_within(*ours)
    await ask(router, 60, 60 + NAMES)
    assert entries_within(*ours) - before < NAMES / 2, "grows with every name"


async def test_two_patterns_that_fit_equally(plugin):
    router = litellm.Router(model_list=[entry("a*"), entry("*b")], routing_strategy="least-busy", num_retries=0)
    for number in range(200):
        assert (await router.acompletion(model=f"a{number}b", messages=HELLO)).choices
    advanced = fast_router.advanced_router(router)
    assert all(len(deployment.strategies) < 140 for deployment in advanced.engine.deployments.values())
