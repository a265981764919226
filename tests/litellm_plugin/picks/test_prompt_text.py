"""What of a request counts as its prompt."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litellm.types.utils import ModelResponse, Usage

from fast_router.engine.deployment import Deployment
from fast_router.engine.group import ModelGroup
from fast_router.litellm_plugin.answers import cached_of
from fast_router.litellm_plugin.picks.prompt_text import prompt_of
from fast_router.litellm_plugin.picks.request_facts import ask_of

READS = ModelGroup("m", [Deployment("d", "m")], "cache_aware", random.Random(1))
LONG = "You answer briefly and in the language of the question. " * 40
TOOLS = [{"type": "function", "function": {"name": "look_up", "description": LONG, "parameters": {"type": "object"}}}]


def hashes(messages: Any = None, text: Any = None, **request: Any) -> list[int]:
    found = prompt_of(request, (messages, text))
    return [] if found is None else found.hashes


def shared(one: list[int], other: list[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def test_tools_come_before_messages() -> None:
    """As servers render them: the same tools are a common beginning, other tools leave none."""
    one = hashes(user(LONG + "a"), tools=TOOLS)
    other = hashes(user("b" + LONG), tools=TOOLS)
    assert 0 < shared(one, other) < len(one)
    assert shared(one, hashes(user(LONG + "a"))) == 0


def test_whole_prompt_counts_not_its_first_characters() -> None:
    """Sessions that share 24,000 characters differ after them."""
    system = {"role": "system", "content": LONG * 12}
    one = hashes([system, *user("first " * 500)])
    other = hashes([system, *user("other " * 500)])
    assert len(LONG * 12) > 24_000
    assert 0 < shared(one, other) < len(one)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"messages": user(LONG)}, {"messages": user([{"type": "text", "text": LONG}])}),
        ({"text": LONG}, {"text": [LONG]}),
        ({"text": LONG, "instructions": LONG}, {"text": LONG, "instructions": LONG, "temperature": 1}),
    ],
)
def test_forms_of_the_same_prompt_are_the_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Text or parts, one input or a list of it; what is no part of the prompt does not count."""
    assert hashes(**left) == hashes(**right) != []


@pytest.mark.parametrize("word", ["instructions", "system"])
def test_what_the_system_says_comes_first(word: str) -> None:
    """Responses have `instructions`, Anthropic's messages `system`."""
    one = hashes(text="q" * 600, **{word: LONG})
    other = hashes(text="r" * 600, **{word: LONG})
    assert 0 < shared(one, other) < len(one)


def test_images_count_by_their_url_or_their_digest() -> None:
    """Another picture is another prompt; a megabyte of base64 is a short digest."""

    def picture(url: str) -> list[int]:
        return hashes(user([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": LONG}]))

    assert picture("https://a/1.png") != picture("https://a/2.png")
    large = "data:image/png;base64," + "A" * 1_000_000
    assert picture(large) == picture(large) != picture(large + "B")
    assert len(picture(large)) < 20


@pytest.mark.parametrize("word", ["cache_salt", "extra_key"])
def test_salts_keep_prompts_apart(word: str) -> None:
    """Also in `extra_body`, where OpenAI's client puts what it does not know."""
    assert shared(hashes(user(LONG), **{word: "a"}), hashes(user(LONG), **{word: "b"})) == 0
    assert hashes(user(LONG), **{word: "a"}) == hashes(user(LONG), extra_body={word: "a"})


@pytest.mark.parametrize("word", ["prompt_cache_key", "litellm_session_id", "user"])
def test_who_asks_does_not_keep_prompts_apart(word: str) -> None:
    """Servers share what agents have in common, whatever their sessions are called."""
    assert hashes(user(LONG), **{word: "a"}) == hashes(user(LONG), **{word: "b"}) == hashes(user(LONG))


def test_token_ids_are_a_prompt_too() -> None:
    assert hashes(text=list(range(2000)))
    assert shared(hashes(text=list(range(2000))), hashes(text=[*range(1000), *range(1000)])) > 0


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "tool_calls", "image_url"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(anything, anything, anything)
def test_malformed_contents_never_fail(messages: Any, text: Any, tools: Any) -> None:
    """It is LiteLLM that refuses a request, with its own words."""
    prompt_of({"tools": tools, "system": tools, "extra_body": tools}, (messages, text))
    loop: list[Any] = []
    loop.append(loop)
    assert prompt_of({}, (loop, None)) is None


def test_nothing_of_the_text_is_kept() -> None:
    ask = ask_of(READS, {"stream": True}, (user("secret " * 200), None), counts=False)
    assert ask is not None
    assert ask.key is None
    assert ask.prompt is not None
    assert all(
        isinstance(value, (int, float, list, tuple)) for value in (getattr(ask.prompt, s) for s in ask.prompt.__slots__)
    )


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}}, (10.0, 4.0)),
        ({"input_tokens": 10, "input_tokens_details": {"cached_tokens": 0}}, (10.0, 0.0)),
        ({"prompt_tokens": 10, "prompt_tokens_details": None}, (10.0, None)),
        ({}, (0.0, None)),
    ],
)
def test_cached_tokens_are_read_where_answers_say_them(
    usage: dict[str, Any], expected: tuple[float, float | None]
) -> None:
    assert cached_of({"usage": usage}) == expected


def test_cached_tokens_of_litellms_own_answers() -> None:
    answer = ModelResponse(
        usage=Usage(prompt_tokens=9, completion_tokens=1, prompt_tokens_details={"cached_tokens": 8})
    )
    assert cached_of(answer) == (9.0, 8.0)
    assert cached_of(None) == (0.0, None)
