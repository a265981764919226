"""LiteLLM's own selection and ours, side by side, over random groups, histories and requests.

For each of them LiteLLM's own functions say who may be picked and what becomes of the request; our pick must be one
of those, every one of those must be reachable with LiteLLM's probability, the request must look the same
afterwards, and where LiteLLM raises, so do we, the same.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from litellm import Router
from litellm.router_strategy.simple_shuffle import simple_shuffle

import fast_router
from tests.support.plugin import MESSAGES, asynchronous, core_of, discard, entry, router

pytestmark = [pytest.mark.python_core, pytest.mark.usefixtures("plugin")]

STRATEGIES = (
    "simple-shuffle",
    "least-busy",
    "latency-based-routing",
    "cost-based-routing",
    "usage-based-routing-v2",
    "usage-based-routing",
)
# Up to 1.99 LiteLLM's shuffle asks the first deployment alone whether there are weights (and 1.83 divides by their
# sum, which may be 0); ours is the rule of later versions everywhere. A row of docs/limits.md.
FIRST_ONLY = "resolve_model_alias" not in inspect.signature(simple_shuffle).parameters
TEAMS = ("t1", "t2")
IDS = tuple("abcdef")


def litellms_own(function: Any) -> Any:
    """What stood in the place of our replacement."""
    while hasattr(function, "__fast_router_original__"):
        function = function.__fast_router_original__
    return function


prices = st.sampled_from([None, 0.001, 0.002])


# What is in use is drawn first: with everything at once nearly every request would be an error.
PARAMS = {
    "weight": st.sampled_from([None, 0, 1, 3]),
    "rpm": st.sampled_from([None, 1000, 3000]),
    "order": st.sampled_from([None, 1, 2]),
    "tags": st.sampled_from([None, ["free"], ["paid", "default"]]),
    "info_team_id": st.sampled_from([None, None, *TEAMS]),
    "info_blocked": st.sampled_from([None, None, True]),
    "info_supports_web_search": st.sampled_from([None, False, True]),
    "info_access_groups": st.sampled_from([None, ["beta"]]),
}
REQUEST = {
    "_target_order": st.sampled_from([1, 2]),
    "_excluded_deployment_ids": st.lists(st.sampled_from(IDS), min_size=1, max_size=3, unique=True),
    "_retry_skipped_deployment_ids": st.lists(st.sampled_from(IDS), min_size=1, max_size=3, unique=True).map(tuple),
    "tools": st.sampled_from(["function", "web_search"]).map(lambda kind: [{"type": kind}]),
    "enable_tag_filtering": st.booleans(),
    "stream": st.just(True),
}
METADATA = {
    "user_api_key_team_id": st.sampled_from([None, *TEAMS]),
    "tags": st.sampled_from([["free"], ["paid"], ["other"]]),
    "routing_decision": st.just("left behind"),
    "user_api_key": st.just("hash"),
}


def some(of: dict[str, Any], most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(sorted(of)), max_size=most, unique=True)


@st.composite
def deployments(draw: Any) -> list[dict[str, Any]]:
    used = draw(some(PARAMS, 2))
    found = []
    for id_ in IDS[: draw(st.integers(1, 5))]:
        drawn = {key: draw(PARAMS[key]) for key in used}
        drawn.update(input_cost_per_token=draw(prices), output_cost_per_token=draw(prices))
        kept = {key: value for key, value in drawn.items() if value is not None}
        found.append(entry(id_, name=draw(st.sampled_from(["m", "m", "m", "n"])), **kept))
    return found


@st.composite
def requests(draw: Any) -> dict[str, Any]:
    request: dict[str, Any] = {key: draw(REQUEST[key]) for key in draw(some(REQUEST, 2))}
    metadata = {"model_group": "m", **{key: draw(METADATA[key]) for key in draw(some(METADATA, 2))}}
    place = draw(st.sampled_from([None, "metadata", "litellm_metadata"]))
    if place is not None:
        request[place] = metadata
    return request


options = st.sampled_from(
    [
        {},
        {},
        {},
        {"enable_tag_filtering": True},
        {"enable_pre_call_checks": True},
        {"model_group_alias": {"alias": "m"}},
        {"default_fallbacks": ["n"]},
    ]
)
names = st.sampled_from(["m"] * 7 + ["n", "alias", "a", "nobody"])
cooling = st.lists(st.sampled_from(IDS), max_size=2, unique=True)


def outcome(work: Any) -> tuple[Any, BaseException | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def candidates(made: Router, model: str, request: dict[str, Any]) -> Any:
    """Whom LiteLLM's own pipeline leaves for its strategy to choose from."""
    core = core_of(made)
    ask = getattr(core, "_core_async_get_healthy_deployments", None) or core.async_get_healthy_deployments

    async def run() -> Any:
        return await ask(model=model, request_kwargs=copy.deepcopy(request), messages=MESSAGES)

    return asyncio.run(run())


def shares(strategy: str, left: list[dict[str, Any]]) -> dict[str, float]:
    """With what probability LiteLLM's strategy picks whom, nothing being known about anybody."""
    ids = [found["model_info"]["id"] for found in left]
    if strategy == "simple-shuffle":
        for key in ("weight", "rpm", "tpm"):
            given_ = [float(found["litellm_params"].get(key) or 0) for found in left]
            if sum(given_) > 0:
                return {id_: share / sum(given_) for id_, share in zip(ids, given_, strict=True) if share}
    if strategy == "cost-based-routing":
        keys = ("input_cost_per_token", "output_cost_per_token")
        price = [sum(p if (p := f["litellm_params"].get(key)) is not None else 5.0 for key in keys) for f in left]
        ids = [id_ for id_, one in zip(ids, price, strict=True) if one == min(price)]
    return dict.fromkeys(ids, 1 / len(ids))


def rest(made: Router, ids: list[str]) -> None:
    for id_ in ids:
        made.cooldown_cache.add_deployment_to_cooldown(
            model_id=id_, original_exception=RuntimeError(), exception_status=429, cooldown_time=600
        )


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(deployments(), st.sampled_from(STRATEGIES), options, names, requests(), cooling, st.booleans())
def test_asynchronous(entries, strategy, extra, model, request, resting, early):
    discard()
    made = router(*entries, routing_strategy=strategy, **extra)
    if early:
        fast_router.advanced_router(made)
    rest(made, resting)
    select = asynchronous(made)
    own = litellms_own(select.__func__)

    def ask(function: Any, kwargs: dict[str, Any]) -> Any:
        async def run() -> Any:
            return await function(model=model, request_kwargs=kwargs, messages=MESSAGES)

        return asyncio.run(run())

    theirs_request, ours_request = copy.deepcopy(request), copy.deepcopy(request)
    before = fast_router.status()["picks"]["fast"]
    ours, our_error = outcome(lambda: ask(select, ours_request))
    fast = fast_router.status()["picks"]["fast"] > before
    theirs, their_error = outcome(lambda: ask(lambda **kw: own(core_of(made), **kw), theirs_request))
    event(f"{'fast' if fast else 'other'} {'error' if their_error else 'pick'}")
    if FIRST_ONLY and isinstance(their_error, ZeroDivisionError):
        assert our_error is None
        return
    assert type(our_error) is type(their_error), (our_error, their_error)
    for metadata in ("metadata", "litellm_metadata"):
        # A log entry that LiteLLM's latency strategy leaves for observability tools; see the documented limits.
        for seen in (ours_request, theirs_request):
            if isinstance(seen.get(metadata), dict):
                seen[metadata].pop("_latency_per_deployment", None)
    assert ours_request == theirs_request
    if their_error is not None:
        return
    if strategy == "usage-based-routing":
        # LiteLLM selects synchronously for this one, past most of its filters: compare with that.
        assert ours["model_info"]["id"] in {e["model_info"]["id"] for e in entries}
        return
    left = candidates(made, model, request)
    if isinstance(left, dict):
        assert ours == theirs == left
        return
    expected = shares(strategy, left)
    assert ours["model_info"]["id"] in expected
    if fast:
        assert any(ours is listed for listed in made.model_list)
    several = 40 * len(expected)

    async def repeat() -> Counter[str]:
        answers = [await select(model=model, request_kwargs=copy.deepcopy(request), messages=MESSAGES) for _ in span]
        return Counter(str(answer["model_info"]["id"]) for answer in answers)

    span = range(several)
    found = asyncio.run(repeat())
    if strategy in ("latency-based-routing", "usage-based-routing-v2", "least-busy"):
        # Nothing is in flight or known, so all are equal.
        expected = dict.fromkeys((f["model_info"]["id"] for f in left), 1 / len(left))
    assert set(found) <= set(expected)
    for id_, share in expected.items():
        sigma = math.sqrt(several * share * (1 - share))
        assert abs(found[id_] - several * share) <= 6 * sigma + 1, (found, expected)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(deployments(), st.sampled_from(STRATEGIES), options, names, requests(), cooling)
def test_synchronous(entries, strategy, extra, model, request, resting):
    discard()
    made = router(*entries, routing_strategy=strategy, **extra)
    rest(made, resting)
    core = core_of(made)
    own = litellms_own(core.get_available_deployment.__func__)
    theirs_request, ours_request = copy.deepcopy(request), copy.deepcopy(request)

    def ask(function: Any, kwargs: dict[str, Any]) -> Any:
        return function(core, model=model, messages=MESSAGES, request_kwargs=kwargs)

    ours, our_error = outcome(lambda: ask(type(core).get_available_deployment, ours_request))
    theirs, their_error = outcome(lambda: ask(own, theirs_request))
    if strategy == "cost-based-routing" and our_error is None:
        # LiteLLM has no synchronous cost-based strategy and always fails; ours picks the cheapest.
        assert ours["model_info"]["id"] in {e["model_info"]["id"] for e in entries}
        return
    if FIRST_ONLY and isinstance(their_error, ZeroDivisionError):
        assert our_error is None
        return
    assert type(our_error) is type(their_error), (our_error, their_error)
    if their_error is not None:
        return
    for metadata in ("metadata", "litellm_metadata"):
        for seen in (ours_request, theirs_request):
            if isinstance(seen.get(metadata), dict):
                seen[metadata].pop("_latency_per_deployment", None)
    assert ours_request == theirs_request
    theirs_found = {ask(own, copy.deepcopy(request))["model_info"]["id"] for _ in range(60)}
    ours_found = {
        ask(type(core).get_available_deployment, copy.deepcopy(request))["model_info"]["id"] for _ in range(60)
    }
    if strategy == "simple-shuffle" and not FIRST_ONLY:
        assert ours_found == theirs_found
    else:
        # Where LiteLLM takes the first of equals, we take any of them.
        assert theirs_found <= ours_found | {theirs["model_info"]["id"]}
        assert ours_found <= {e["model_info"]["id"] for e in entries}


def test_frequencies_follow_the_weights():
    """Many picks: each share within five standard deviations of LiteLLM's rule."""
    made = router(*(entry(id_, weight=weight) for id_, weight in zip("abcd", (1, 2, 3, 0), strict=True)))
    select = asynchronous(made)
    count = 20_000

    async def run() -> Counter[str]:
        return Counter(
            [(await select(model="m", request_kwargs={}, messages=None))["model_info"]["id"] for _ in range(count)]
        )

    found = asyncio.run(run())
    for id_, share in zip("abcd", (1 / 6, 2 / 6, 3 / 6, 0), strict=True):
        assert abs(found[id_] - count * share) <= 5 * math.sqrt(count * share * (1 - share))
