"""What one caller can do, row by row: the attacks, and what must hold for everybody else afterwards."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.attack.doors import EVE, HUNG_UP, LITELLM, Answer
from tests.attack.upstreams import MEMBERS

FEWEST, MOST = 12, 60
"""Requests of the others after the attack: until each of three deployments has served, which chance delays at times."""


@dataclass(frozen=True)
class Row:
    """One attack on one group of three deployments.

    Attributes:
        name: What the caller does.
        attack: Does it, and gives what the caller was told.
        told: What every answer to the caller must contain ("" for a success): an attack that misses proves nothing.
        since: The first LiteLLM that tells the caller so; an older one sends the request, and it is answered as usual.
        params: `litellm_params` of the group's deployments.
        info: Their `model_info`.
        groups: Groups there are; the further ones are named by a number.
        doors: Where it can be done.
        named: Whether it takes two callers that can be told apart.
        patience: Seconds until the others are asked.
        question: What the others ask.
        at_once: How many of them ask at a time.
        learns: Whether something may be learnt from it all the same: a shared server did answer.
    """

    name: str
    attack: Callable[[Any, str], Awaitable[list[Answer]]]
    told: str = ""
    since: tuple[int, int] = (0, 0)
    params: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    groups: int = 1
    doors: frozenset[str] = frozenset({"router", "sync", "proxy"})
    named: bool = False
    patience: float = 0.0
    question: str = "hi"
    at_once: int = 6
    learns: bool = False

    @property
    def slug(self) -> str:
        """Its name as the name of a model group."""
        return "".join(c if c.isalnum() else "-" for c in self.name)

    def names(self) -> list[str]:
        """The names of its groups, the attacked one first."""
        return [self.slug, *(f"{self.slug}-{number}" for number in range(1, self.groups))]


async def _ask(row: Row, door: Any, group: str, requests: int) -> list[Answer]:
    answers: list[Answer] = []
    while len(answers) < requests:
        wave = min(row.at_once, requests - len(answers))
        answers += await asyncio.gather(*(door.chat(group, row.question) for _ in range(wave)))
    return answers


async def before(row: Row, door: Any, group: str) -> None:
    """Let the others be served for a while, so that there is something to lose."""
    for answer in await _ask(row, door, group, 6):
        assert answer.error is None, answer


async def afterwards(row: Row, door: Any, group: str) -> None:
    """Ask as the others: everyone is answered, and every deployment serves."""
    answers: list[Answer] = []
    while len(answers) < MOST:
        answers += await _ask(row, door, group, FEWEST - len(answers) if len(answers) < FEWEST else row.at_once)
        refused = [answer.error for answer in answers if answer.error]
        assert not refused, f"{len(refused)} of {len(answers)} were refused, first: {refused[0]}"
        served = collections.Counter(answer.deployment for answer in answers)
        shares = {name: served.pop(f"{group}-{name}", 0) for name in MEMBERS}
        assert not served, f"the others were sent elsewhere: {served}"
        if min(shares.values()) > 0:
            return
    pytest.fail(f"not everyone serves: {shares}")


async def run(row: Row, door: Any) -> None:
    """Attack, and look what is left for the others."""
    for group in row.names():
        await before(row, door, group)
    known = door.known()
    answers = await row.attack(door, row.slug)
    assert answers, "nothing was done"
    for answer in answers:
        if row.told and row.since <= LITELLM:
            assert answer.error is not None, f"the attack was answered by {answer.deployment}"
            assert row.told in answer.error or answer.error == HUNG_UP, answer
    await asyncio.sleep(row.patience)
    learnt = door.known()
    for group in row.names():
        await afterwards(row, door, group)
    if not row.learns and row.since <= LITELLM:
        assert learnt == known, "the others are served, but something was learnt"


def once(prompt: str = "hi", *, embed: bool = False, times: int = 1, **request: Any) -> Any:
    """An attack of so many requests, one after the other, all the same."""

    async def attack(door: Any, group: str) -> list[Answer]:
        ask = door.embed if embed else door.chat
        words = {} if embed else {"prompt": prompt}
        return [await ask(group, by=EVE, **words, **request) for _ in range(times)]

    return attack


def each(prompt: str, requests: list[dict[str, Any]], **request: Any) -> Any:
    """An attack of one request with each of these arguments; whatever the caller is told of them."""

    async def attack(door: Any, group: str) -> list[Answer]:
        answers = []
        for odd in requests:
            call = door.chat(group, prompt, by=EVE, **request, **odd)
            try:
                answers.append(await asyncio.wait_for(call, _PATIENCE))
            except asyncio.TimeoutError:
                answers.append(Answer(error=HUNG_UP))
        return answers

    return attack


def _with(name: str, *values: Any) -> list[dict[str, Any]]:
    return [{name: value} for value in values]


async def _many_prompts(door: Any, group: str) -> list[Answer]:
    answers = [await door.text(group, ["hi"] * 60, by=EVE)]
    for prompt, more in (("answer-500", {}), ("answer-reset", {}), ("takes-1-s", {"timeout": 0.05})):
        answers += [await door.text(group, [prompt] * 20, by=EVE, **more) for _ in range(2)]
    return answers


def _own(door: Any) -> str:
    return door.own_endpoint


def _at_my_place(prompt: str, key: str, times: int = 1) -> Any:
    async def attack(door: Any, group: str) -> list[Answer]:
        place = {key: _own(door)} if prompt else {key: "http://127.0.0.1:9/v1"}
        return [await door.chat(group, prompt or "hi", by=EVE, **place) for _ in range(times)]

    return attack


def _everywhere(door: Any, group: str) -> Any:
    others = [f"{group}-{number}" for number in range(1, 6)]
    return once("answer-500", num_retries=14, fallbacks=others)(door, group)


async def _something_else(door: Any, group: str) -> list[Answer]:
    """Let each question fail once, and ask a harmless one instead."""
    harmless = [{"role": "user", "content": "hi"}]
    hops = [{"model": f"{group}-1", "messages": harmless}, {"model": group, "messages": harmless}]
    asked = [{"fallbacks": [hop], "num_retries": retries} for hop in hops for retries in (0, 2)]
    return [await door.chat(group, "answer-500", by=EVE, **request) for request in asked for _ in range(16)]


async def _nine_at_once(door: Any, group: str) -> list[Answer]:
    return list(await asyncio.gather(*(door.chat(group, "takes-300-ms", by=EVE) for _ in range(9))))


# A failure counts as four times the latency, so four at a time would go to the others first.
_PEAK = {"info": {"fast_router": {"strategy": "peak_ewma"}}, "question": "takes-100-ms"}
_NAN, _INFINITE = float("nan"), float("inf")
# Seconds until a caller with an odd request hangs up.
_PATIENCE = 0.5
_ODD = (_NAN, _INFINITE, -1, 0.5, 10**9, 10**400, "x", "nan", [3], {"x": {"y": [1]}})
_ODD_FALLBACKS = ("x", 5, [1], [None], {"a": "b"}, [{"a": 1}], [[["x"]]], [{"model": "nope"}], ["nowhere"] * 100)
_POLICIES = ({"InternalServerErrorRetries": 10**9}, {"InternalServerErrorRetries": "x"}, {"x": [1]}, "x", 5)
_INFOS = ("x", [1], {"id": 5}, {"id": None}, {"id": {"x": 1}}, {"id": "of-another"})
_ODD_KEYS = [
    *_with("fallbacks", *_ODD_FALLBACKS),
    *_with("context_window_fallbacks", "x", 5, [1], {"a": 1}),
    *_with("content_policy_fallbacks", "x", 5, [1]),
    *_with("mock_testing_fallbacks", True, "x", {"a": 1}),
    *_with("mock_response", "litellm.RateLimitError", "litellm.InternalServerError", {"a": 1}, 5),
    *_with("cooldown_time", -1, 0, 1e9, "x", _NAN, {"a": 1}),
    *_with("allowed_fails", 0, -1, "x", _NAN, [1]),
    *_with("retry_policy", *_POLICIES),
    *_with("retry_after", -1, "x", _NAN),
    *_with("model_info", *_INFOS),
    *_with("metadata", "x", 5, [1], {"tags": {"a": 1}}, {"model_group": "other"}, {"model_info": {"id": "x"}}),
    *_with("metadata", {"session_id": [1]}, {"user_api_key_hash": {"a": 1}}, {"x": "y" * 100_000}, {"priority": "x"}),
    *_with("tags", "x", 5, [5], [None], {"a": 1}, ["x"] * 1000),
    *_with("specific_deployment", True, "x", {"a": 1}),
    *_with("priority", "x", -(10**9), _NAN, 1.5, [1], True),
    *_with("router_settings_override", {"cooldown_time": 10**6, "allowed_fails": 0}, {"timeout": 0.01}, "x"),
    *_with("user", 5, ["x"], {"a": 1}, "x" * 100_000),
    *_with("litellm_session_id", 5, ["x"], "x" * 100_000),
    *_with("api_base", "x", "http://", "http://[::1", 5),
    *_with("extra_headers", "x", 5, {"x": "a\r\nb"}, {"x": {"y": 1}}, {"content-length": "5"}, {"x": "y" * 200_000}),
]
_HEADERS = [
    {"http_headers": {name: value}}
    for name, values in {
        "x-litellm-num-retries": ("1000000000", "-1", "0.5", "x", "", "nan"),
        "x-litellm-timeout": ("nan", "-1", "0", "1e400", "x", ""),
        "x-litellm-stream-timeout": ("nan", "-1", "x"),
        "x-litellm-tags": ("x", ",,,", b"\xff\xfe", "y" * 8000),
        "x-litellm-session-id": ("y" * 8000, b"\xc3\xa9", "{}"),
        "x-litellm-call-id": ("same", b"\xff"),
        "x-litellm-trace-id": ("y" * 8000,),
        "x-litellm-model-id": ("of-another", b"\xff"),
        "x-litellm-model-group": ("of-another",),
        "x-litellm-attempted-retries": ("1000000000", "x"),
        "x-litellm-spend-logs-metadata": ("{", "[]", "5"),
        "x-litellm-end-user-id": ("y" * 8000, b"\xff"),
        "x-litellm-enable-message-redaction": ("x",),
        "x-ratelimit-remaining-requests": ("0", "x"),
        "x-ratelimit-reset-requests": ("86400s",),
        "retry-after": ("86400",),
        "x-garbage": (b"\xff" * 100, "y" * 30_000),
    }.items()
    for value in values
]
_BOTH = frozenset({"router", "proxy"})
# The proxy is slow: of those that differ by a word alone, one goes through it.
_HERE = frozenset({"router", "sync"})

ROWS = [
    # The control: what every row says of a request that is as everybody's.
    Row("nothing out of the ordinary", once("hi", times=4), learns=True),
    Row("nothing out of the ordinary, peak_ewma", once("takes-100-ms"), learns=True, **_PEAK),
    # One request with the caller's own credentials or endpoint.
    Row("own key, 401", once("hi", api_key="sk-my-own"), "Authentication"),
    Row("own key, 429 for a day", once("own-429", api_key="sk-my-own"), "Rate"),
    Row("own key, 500", once("own-500", api_key="sk-my-own"), "Internal"),
    Row("own api_base, 401", _at_my_place("own-401", "api_base"), "Authentication", doors=_HERE),
    Row("own api_base, 429 for a day", _at_my_place("own-429", "api_base"), "Rate"),
    Row("own api_base, 500", _at_my_place("own-500", "api_base"), "Internal", doors=_HERE),
    Row("own api_base, refused", _at_my_place("", "api_base"), "Connection error"),
    Row("own base_url, 429 for a day", _at_my_place("own-429", "base_url"), "Rate", doors=_HERE),
    Row("own base_url, refused", _at_my_place("", "base_url"), "Connection error"),
    Row("own Authorization header", once(extra_headers={"Authorization": "Bearer sk-my-own"}), "Authentication"),
    Row("own Authorization header, 429 for a day",
        once("own-429", extra_headers={"Authorization": "Bearer sk-my-own"}), "Rate", doors=_HERE),
    Row("own headers", once(headers={"Authorization": "Bearer sk-my-own"}), "Authentication", doors=_HERE),
    Row("own organization", once(organization="org-of-mine"), "Authentication"),
    # One request that tries again and again.
    Row("temperature NaN, 14 retries", once(temperature=_NAN, num_retries=14), "Out of range"),
    Row("header of a number, 14 retries", once(extra_headers={"x": 1}, num_retries=14), "Internal"),
    Row("prompt answered 500, 14 retries", once("answer-500", num_retries=14), "Internal", learns=True),
    Row("prompt answered 500, 14 retries by header",
        once("answer-500", http_headers={"x-litellm-num-retries": "14"}), "Internal", learns=True),
    Row("prompt answered 503, 14 retries", once("answer-503", num_retries=14), "503", learns=True, doors=_HERE),
    Row("prompt that resets the connection, 14 retries", once("answer-reset", num_retries=14), "Connection error",
        learns=True),
    Row("prompt answered 500 in six groups", _everywhere, "Internal", groups=6, doors=_BOTH, learns=True),
    Row("prompt answered 500, something else as a fallback", _something_else, groups=2, doors=_BOTH, named=True,
        learns=True),
    Row("429 meant for an end user", once("end-user-429", user="an-end-user"), "Rate", learns=True),
    # Arguments that are none, and those that a caller's body brings along.
    # Of those that are tried once, two in a row may meet the same server, which one caller's word lets rest for a
    # moment (docs/failover.md); the last one, which is retried, takes that back.
    Row("prompt answered 500, odd num_retries", each("answer-500", _with("num_retries", *_ODD[:5], [3], 2)),
        learns=True, doors=_BOTH, named=True),
    Row("odd timeouts", each("hi", _with("timeout", *_ODD, 1e-9, 0)), learns=True, doors=_HERE),
    Row("odd stream timeouts", each("hi", _with("stream_timeout", *_ODD, 1e-9, 0), stream=True), learns=True,
        doors=frozenset({"router"})),
    Row("prompt answered 500, odd arguments", each("answer-500", _ODD_KEYS), learns=True, doors=frozenset({"router"}),
        named=True),
    Row("prompt answered 500, odd headers", each("answer-500", _HEADERS), learns=True, doors=frozenset({"proxy"}),
        named=True),
    Row("text completions of many prompts", _many_prompts, learns=True, doors=frozenset({"router"}), named=True),
    # Refusals made in this process.
    Row("nine calls on six slots", _nine_at_once, params={"max_parallel_requests": 2}, patience=1.0, doors=_BOTH,
        at_once=1, learns=True),
    *(
        Row(f"wrong shape, {name}", once(times=4, **request), told, doors=doors,
            since=(1, 91) if name == "content a number" else (0, 0))
        for name, request, told, doors in [
            ("messages a text", {"messages": "foo"}, "no attribute", _HERE | _BOTH),
            ("messages of numbers", {"messages": [5]}, "no attribute", _HERE),
            ("content a number", {"messages": [{"role": "user", "content": 5}]}, "not iterable", _HERE | _BOTH),
            ("timeout a word", {"timeout": "abc"}, "abc", _HERE | _BOTH),
            ("extra_body a number", {"extra_body": 5}, "object is not", _HERE),
            ("response_format a word", {"response_format": "x"}, "response_format", _HERE),
        ]
    ),
    Row("wrong shape, encoding_format a number", once(embed=True, times=4, encoding_format=5), "no attribute",
        since=(1, 100)),
    # The caller's own patience.
    Row("request_timeout 0.05", once("takes-1-s", times=4, request_timeout=0.05, num_retries=0), "imed out"),
    Row("timeout 0.05", once("takes-1-s", times=4, timeout=0.05, num_retries=0), "imed out"),
    Row("stream_timeout 0.05", once("takes-1-s", times=4, stream_timeout=0.05, stream=True, num_retries=0), "imed out"),
    Row("stream timeout by header", once("takes-1-s", times=4, stream=True, num_retries=0,
        http_headers={"x-litellm-stream-timeout": "0.05"}), "imed out"),
    Row("timeout 0.05, retries", once("takes-1-s", times=4, timeout=0.05), "imed out"),
    Row("timeout that runs out inside a stream", once("drips", times=4, timeout=0.2, stream=True), "ime"),
    # The caller's content.
    Row("ten 403 for content", once("answer-403", times=10), "rdered to fail", named=True, learns=True),
    Row("six streams that break with 400", once("break-400", times=6, stream=True), "rdered to fail", named=True,
        learns=True),
    Row("six streams that break with 400 at once", once("break-400-at-once", times=6, stream=True),
        "rdered to fail", named=True, learns=True, doors=_HERE),
    Row("peak_ewma, 400", once("answer-400"), "400", **_PEAK),
    Row("peak_ewma, 413", once("answer-413"), "rdered to fail", **_PEAK, doors=_HERE),
    Row("peak_ewma, timeout of the caller", once("takes-1-s", timeout=0.05, num_retries=0), "imed out", **_PEAK),
    # Successes that are the caller's own.
    Row("peak_ewma, own slow endpoint", _at_my_place("own-slow", "api_base", 3), **_PEAK),
    Row("rpm used up at an endpoint of one's own", _at_my_place("hi", "api_base", 60), params={"rpm": 20},
        info={"fast_router": {"strategy": "usage_based"}}, doors=_BOTH),
]  # fmt: skip
