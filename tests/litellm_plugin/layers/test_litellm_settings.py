"""LiteLLM's retry, fallback and cooldown settings mean what its documentation says: one table, without us and with us.

Each row says what a Router with these settings does when its servers fail in this way. Stock LiteLLM has to do it, too:
otherwise the row would be a wrong reading of its documentation. Versions from before some of these settings do what
they do, and so do we.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import litellm
import pytest
from litellm import Router
from litellm.router_utils.cooldown_handlers import _async_get_cooldown_deployments
from litellm.types.router import AllowedFailsPolicy, RetryPolicy

import fast_router
from fast_router import settings
from fast_router.testing import Fleet

DOCUMENTED = tuple(int(part) for part in version("litellm").split(".")[:2]) >= (1, 106)
MESSAGES = [{"role": "user", "content": "hello"}]
BROKEN = {"error_rate": 1.0}
UNAVAILABLE = {"error_rate": 1.0, "error_status": 503}
BUSY = {"throttle_rate": 1.0}
REFUSED = {"error_rate": 1.0, "error_status": 401}
WRONG = {"error_rate": 1.0, "error_status": 400}
LONG = {**WRONG, "error_message": "This model's maximum context length is 10 tokens."}
IMPOLITE = {**WRONG, "error_message": "invalid_request_error: content_policy_violation"}
FINE: dict[str, Any] = {
    "error_rate": 0.0,
    "throttle_rate": 0.0,
    "error_status": 500,
    "error_message": "Ordered to fail.",
    "retry_after": None,
}
STILL = {"disable_cooldowns": True}
EACH = {"m": [0, 1], "b": [2]}
ALONE = {"m": [0], "b": [2]}
# All calls go to the first one, which is not alone in its group: LiteLLM is lenient with those that are.
FIRST = {"m0": {"weight": 1000000}, "m1": {"weight": 1}}


@dataclass
class Row:
    """One line of the table.

    Attributes:
        router: The Router's settings.
        faults: What each group's servers do; a group that is not named answers.
        outcomes: How each call ends: the group that answered, or the class of the error.
        attempts: Requests that reached each group's servers, over all calls.
        resting: Deployments that rest after it, and for how many seconds.
        groups: Which servers belong to which group.
        params: `litellm_params` of single deployments.
        info: `model_info` of single deployments.
        request: Arguments of each call.
    """

    router: dict[str, Any]
    faults: dict[str, dict[str, Any]]
    outcomes: list[str]
    attempts: dict[str, int]
    resting: dict[str, float] = field(default_factory=dict)
    groups: dict[str, list[int]] = field(default_factory=lambda: EACH)
    params: dict[str, dict[str, Any]] = field(default_factory=dict)
    info: dict[str, dict[str, Any]] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)


def fails(error, times=1):
    return [error] * times


ROWS = {
    # num_retries
    "num_retries: 0": Row({"num_retries": 0, **STILL}, {"m": BROKEN}, fails("InternalServerError"), {"m": 1}),
    "num_retries: 3": Row({"num_retries": 3, **STILL}, {"m": BROKEN}, fails("InternalServerError"), {"m": 4}),
    "num_retries of the call": Row(
        {"num_retries": 3, **STILL}, {"m": BROKEN}, fails("InternalServerError"), {"m": 2}, request={"num_retries": 1}
    ),
    "num_retries of the deployment": Row(
        {"num_retries": 0, **STILL},
        {"m": BROKEN},
        fails("InternalServerError"),
        {"m": 3},
        groups=ALONE,
        params={"m0": {"num_retries": 2}},
    ),
    "num_retries: a bad request is not repeated": Row(
        {"num_retries": 3, **STILL}, {"m": WRONG}, fails("BadRequestError"), {"m": 1}
    ),
    # retry_policy
    "retry_policy: InternalServerErrorRetries": Row(
        {"num_retries": 0, "retry_policy": RetryPolicy(InternalServerErrorRetries=3), **STILL},
        {"m": BROKEN},
        fails("InternalServerError"),
        {"m": 4},
    ),
    "retry_policy: RateLimitErrorRetries": Row(
        {"num_retries": 3, "retry_policy": RetryPolicy(RateLimitErrorRetries=1), **STILL},
        {"m": {**BUSY, "retry_after": 0}},
        fails("RateLimitError"),
        {"m": 2},
    ),
    "retry_policy: AuthenticationErrorRetries": Row(
        {"num_retries": 3, "retry_policy": RetryPolicy(AuthenticationErrorRetries=0), **STILL},
        {"m": REFUSED},
        fails("AuthenticationError"),
        {"m": 1},
    ),
    "retry_policy: BadRequestErrorRetries": Row(
        {"num_retries": 0, "retry_policy": RetryPolicy(BadRequestErrorRetries=2), **STILL},
        {"m": WRONG},
        fails("BadRequestError"),
        {"m": 3},
    ),
    "model_group_retry_policy": Row(
        {"num_retries": 0, "model_group_retry_policy": {"m": RetryPolicy(InternalServerErrorRetries=2)}, **STILL},
        {"m": BROKEN},
        fails("InternalServerError"),
        {"m": 3},
    ),
    # allowed_fails, allowed_fails_policy
    "allowed_fails: 1 tolerates one": Row(
        {"num_retries": 0, "allowed_fails": 1, "cooldown_time": 90},
        {"m": BROKEN},
        fails("InternalServerError"),
        {"m": 1},
        params=FIRST,
    ),
    "allowed_fails: 1 rests at the second": Row(
        {"num_retries": 0, "allowed_fails": 1, "cooldown_time": 90},
        {"m": BROKEN},
        fails("InternalServerError", 2),
        {"m": 2},
        resting={"m0": 90},
        params=FIRST,
    ),
    "allowed_fails: 6 tolerates six": Row(
        {"num_retries": 0, "allowed_fails": 6, "cooldown_time": 90},
        {"m": BROKEN},
        fails("InternalServerError", 6),
        {"m": 6},
        params=FIRST,
    ),
    "allowed_fails: 0 rests at the first": Row(
        {"num_retries": 0, "allowed_fails": 0, "cooldown_time": 90},
        {"m": BROKEN},
        fails("InternalServerError"),
        {"m": 1},
        resting={"m0": 90},
        params=FIRST,
    ),
    "allowed_fails of the deployment": Row(
        {"num_retries": 0, "allowed_fails": 50, "cooldown_time": 90},
        {"m": BROKEN},
        fails("InternalServerError", 2),
        {"m": 2},
        resting={"m0": 90},
        params=FIRST,
        info={"m0": {"allowed_fails": 1}},
    ),
    "allowed_fails_policy: InternalServerErrorAllowedFails": Row(
        {
            "num_retries": 0,
            "allowed_fails_policy": AllowedFailsPolicy(InternalServerErrorAllowedFails=2),
            "cooldown_time": 90,
        },
        {"m": BROKEN},
        fails("InternalServerError", 3),
        {"m": 3},
        resting={"m0": 90},
        groups=ALONE,
    ),
    "allowed_fails_policy: a limit of another kind says nothing": Row(
        {
            "num_retries": 0,
            "allowed_fails_policy": AllowedFailsPolicy(
                InternalServerErrorAllowedFails=9, AuthenticationErrorAllowedFails=0
            ),
            "cooldown_time": 90,
        },
        {"m": BROKEN},
        fails("InternalServerError", 6),
        {"m": 6},
        groups=ALONE,
    ),
    "allowed_fails_policy: RateLimitErrorAllowedFails": Row(
        {
            "num_retries": 0,
            "allowed_fails_policy": AllowedFailsPolicy(RateLimitErrorAllowedFails=1),
            "cooldown_time": 90,
        },
        {"m": BUSY},
        fails("RateLimitError", 2),
        {"m": 2},
        resting={"m0": 90},
        groups=ALONE,
    ),
    # cooldown_time, disable_cooldowns
    "cooldown_time": Row(
        {"num_retries": 0, "cooldown_time": 45},
        {"m": REFUSED},
        fails("AuthenticationError"),
        {"m": 1},
        resting={"m0": 45},
        groups=ALONE,
    ),
    "cooldown_time of the deployment": Row(
        {"num_retries": 0, "cooldown_time": 45},
        {"m": REFUSED},
        fails("AuthenticationError"),
        {"m": 1},
        resting={"m0": 20},
        groups=ALONE,
        params={"m0": {"cooldown_time": 20}},
    ),
    "cooldown_time gives way to Retry-After": Row(
        {"num_retries": 0, "cooldown_time": 45, "allowed_fails": 0},
        {"m": {**BUSY, "retry_after": 70}},
        fails("RateLimitError"),
        {"m": 1},
        resting={"m0": 70},
        params=FIRST,
    ),
    "cooldown_time: who rests is not asked": Row(
        {"num_retries": 0, "cooldown_time": 45},
        {"m": REFUSED},
        ["AuthenticationError", "RouterRateLimitError"],
        {"m": 1},
        resting={"m0": 45},
        groups=ALONE,
    ),
    "disable_cooldowns": Row(
        {"num_retries": 0, "cooldown_time": 45, "allowed_fails": 0, **STILL},
        {"m": REFUSED},
        fails("AuthenticationError", 5),
        {"m": 5},
        groups=ALONE,
    ),
    "a bad request rests nobody": Row(
        {"num_retries": 0, "cooldown_time": 45}, {"m": WRONG}, fails("BadRequestError", 6), {"m": 6}, groups=ALONE
    ),
    # fallbacks
    "fallbacks": Row({"num_retries": 0, "fallbacks": [{"m": ["b"]}], **STILL}, {"m": BROKEN}, ["b"], {"m": 1, "b": 1}),
    "fallbacks after the retries": Row(
        {"num_retries": 2, "fallbacks": [{"m": ["b"]}], **STILL}, {"m": BROKEN}, ["b"], {"m": 3, "b": 1}
    ),
    "fallbacks that fail, too": Row(
        {"num_retries": 1, "fallbacks": [{"m": ["b"]}], **STILL},
        {"m": BROKEN, "b": UNAVAILABLE},
        fails("InternalServerError"),
        {"m": 2, "b": 2},
    ),
    "fallbacks of the call": Row(
        {"num_retries": 0, **STILL}, {"m": BROKEN}, ["b"], {"m": 1, "b": 1}, request={"fallbacks": ["b"]}
    ),
    "default_fallbacks": Row(
        {"num_retries": 0, "default_fallbacks": ["b"], **STILL}, {"m": BROKEN}, ["b"], {"m": 1, "b": 1}
    ),
    "fallbacks when everybody rests": Row(
        {"num_retries": 0, "cooldown_time": 45, "fallbacks": [{"m": ["b"]}]},
        {"m": REFUSED},
        ["b", "b"],
        {"m": 1, "b": 2},
        resting={"m0": 45},
        groups=ALONE,
    ),
    "max_fallbacks": Row(
        {"num_retries": 0, "fallbacks": [{"m": ["b", "c"]}, {"b": ["c"]}], "max_fallbacks": 1, **STILL},
        {"m": BROKEN, "b": BROKEN},
        ["c"],
        {"m": 1, "b": 1, "c": 1},
        groups={"m": [0], "b": [1], "c": [2]},
    ),
    "context_window_fallbacks": Row(
        {"num_retries": 0, "context_window_fallbacks": [{"m": ["b"]}], **STILL}, {"m": LONG}, ["b"], {"m": 1, "b": 1}
    ),
    "context_window_fallbacks are for nothing else": Row(
        {"num_retries": 0, "context_window_fallbacks": [{"m": ["b"]}], **STILL},
        {"m": BROKEN},
        fails("InternalServerError"),
        {"m": 1},
    ),
    "content_policy_fallbacks": Row(
        {"num_retries": 0, "content_policy_fallbacks": [{"m": ["b"]}], **STILL},
        {"m": IMPOLITE},
        ["b"],
        {"m": 1, "b": 1},
    ),
    "content_policy_fallbacks are for nothing else": Row(
        {"num_retries": 0, "content_policy_fallbacks": [{"m": ["b"]}], **STILL},
        {"m": BROKEN},
        fails("InternalServerError"),
        {"m": 1},
    ),
    # order, enable_weighted_failover
    "order: the first tier serves": Row(
        {"num_retries": 0, **STILL},
        {},
        ["m0"] * 4,
        {"m0": 4},
        params={"m0": {"order": 1}, "m1": {"order": 2}},
    ),
    "order: the next tier when it fails": Row(
        {"num_retries": 0, **STILL},
        {"m0": BROKEN},
        ["m1"],
        {"m0": 1, "m1": 1},
        params={"m0": {"order": 1}, "m1": {"order": 2}},
    ),
    "order: the next tier while it rests": Row(
        {"num_retries": 0, "cooldown_time": 45},
        {"m0": REFUSED},
        ["m1", "m1", "m1"],
        {"m0": 1, "m1": 3},
        resting={"m0": 45},
        params={"m0": {"order": 1}, "m1": {"order": 2}},
    ),
    "order, then fallbacks": Row(
        {"num_retries": 0, "fallbacks": [{"m": ["b"]}], **STILL},
        {"m": BROKEN},
        ["b"],
        {"m0": 1, "m1": 1, "b": 1},
        params={"m0": {"order": 1}, "m1": {"order": 2}},
    ),
    "enable_weighted_failover": Row(
        {"num_retries": 0, "enable_weighted_failover": True, "routing_strategy": "simple-shuffle", **STILL},
        {"m0": BROKEN},
        ["m1"],
        {"m0": 1, "m1": 1},
        params=FIRST,
    ),
    "enable_weighted_failover: off": Row(
        {"num_retries": 0, "routing_strategy": "simple-shuffle", **STILL},
        {"m0": BROKEN},
        fails("InternalServerError"),
        {"m0": 1},
        params=FIRST,
    ),
    "enable_weighted_failover, then fallbacks": Row(
        {
            "num_retries": 0,
            "enable_weighted_failover": True,
            "fallbacks": [{"m": ["b"]}],
            **STILL,
        },
        {"m": BROKEN},
        ["b"],
        {"m0": 1, "m1": 1, "b": 1},
    ),
}


@pytest.fixture(scope="module")
def fleet():
    with Fleet(3) as running:
        yield list(running.values())


@pytest.fixture(autouse=True)
def both():
    yield
    assert fast_router.enable()
    settings.reset()


async def observed(row, servers):
    """Do what a row asks for, and see what comes of it: (outcomes, attempts, resting)."""
    names = {f"{group}{place}": servers[place] for group, places in row.groups.items() for place in places}
    for name, server in names.items():
        server.order(**{**FINE, **row.faults.get(name[:-1], {}), **row.faults.get(name, {})})
    for server in servers:
        server.reset()
    told = []
    router = Router(
        model_list=[
            {
                "model_name": name[:-1],
                "litellm_params": {
                    "model": "openai/test-model",
                    "api_base": server.api_base,
                    "api_key": "k",
                    **row.params.get(name, {}),
                },
                "model_info": {"id": name, **row.info.get(name, {})},
            }
            for name, server in names.items()
        ],
        **row.router,
    )
    litellm.failure_callback.append(lambda *call: told.append(call))
    outcomes = []
    singly = any(name in row.attempts for name in names)
    for _ in row.outcomes:
        try:
            answer = await router.acompletion(model="m", messages=MESSAGES, **row.request)
        except Exception as error:
            outcomes.append(type(error).__name__)
        else:
            name = answer._hidden_params["model_id"]
            outcomes.append(name if singly and name[:-1] == "m" else name[:-1])
        # LiteLLM judges failures in its logging callbacks, a moment later.
        failed = sum(s.records.requests - s.records.served for s in servers)
        await _until(lambda failed=failed: len(told) >= failed)
    attempts: dict[str, int] = {}
    for name, server in names.items():
        if server.records.requests:
            key = name if name in row.attempts else name[:-1]
            attempts[key] = attempts.get(key, 0) + server.records.requests
    ids = await _async_get_cooldown_deployments(litellm_router_instance=router, parent_otel_span=None)
    active = await router.cooldown_cache.async_get_active_cooldowns(list(names), None)
    return outcomes, attempts, {id_: values["cooldown_time"] for id_, values in active if id_ in ids}


async def _until(condition, seconds=5.0):
    """Wait for something that older versions of LiteLLM may not do."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("name", ROWS)
async def test_a_setting_means_what_it_says(name, fleet, monkeypatch):
    logging.getLogger("LiteLLM Router").setLevel(logging.CRITICAL)
    row = ROWS[name]
    if unknown := row.router.keys() - inspect.signature(Router.__init__).parameters.keys():
        pytest.skip(f"this LiteLLM has no {', '.join(unknown)}")
    found = {}
    for plugin in (False, True):
        monkeypatch.setattr(litellm, "failure_callback", [])
        monkeypatch.setattr(litellm, "success_callback", [])
        assert fast_router.enable() if plugin else not fast_router.disable()
        assert fast_router.status()["enabled"] is plugin
        found[plugin] = await observed(row, fleet)
    outcomes, attempts, resting = found[False]
    assert found[True][:2] == (outcomes, attempts)
    assert found[True][2] == pytest.approx(resting, abs=1.5)
    if DOCUMENTED:
        assert (outcomes, attempts) == (row.outcomes, row.attempts)
        assert resting == pytest.approx(row.resting, abs=1.5)
