"""Beginnings of texts tied to blocks of tokens, with a real tokenizer and a real chat template."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("msgspec")

from fast_router.errors import ConfigurationError
from fast_router.kv_events.matching import Ties, tokens_within
from fast_router.kv_events.server_cache import keys
from fast_router.kv_events.tokenizer import LocalTokenizer
from fast_router.testing.prompts import rendered, tokenizer
from tests.support.tokenizer import model_folder

SIZE = 16


@pytest.fixture(scope="module")
def local():
    return LocalTokenizer(model_folder())


def text_of(messages):
    """A router's own way to write a chat down, unlike any template."""
    return "".join(f"[{message['role']}] {message['content']}\n\n" for message in messages)


def steps(text, step=64):
    data = text.encode()
    ends = list(range(step, len(data) + 1, step))
    return [hash(data[:end]) for end in ends], ends


def chat(*said):
    return [{"role": role, "content": content} for role, content in zip(("system", "user"), said, strict=False)]


CHATS = [
    chat("Answer shortly.", "What is a router?"),
    chat("Sei höflich. ¿Qué tal? 你好 🙂 " * 30, "Und weiter? " * 50),
    chat("  spaces around  ", "\n\nlines\n\n" * 30),
]


@pytest.mark.parametrize("messages", CHATS)
def test_our_template_engine_renders_what_the_servers_render(local, messages):
    """The servers of the tests render ChatML in Python; the model's folder says the same in Jinja."""
    tools = [{"type": "function", "function": {"name": "read"}}]
    assert local.render(messages) == rendered({"messages": messages})
    assert local.render(messages, tools) == rendered({"messages": messages, "tools": tools})
    assert local.encode(local.render(messages), special=False)[0] == tokenizer(model_folder())(local.render(messages))


@pytest.mark.parametrize("messages", CHATS)
def test_counts_are_the_tokens_within(local, messages):
    text = text_of(messages)
    _, ends = steps(text, 7)  # within characters, too
    ids, counts = tokens_within(local, ends, text, {"messages": messages})
    whole = local.render(messages)
    assert ids == local.encode(whole, special=False)[0]
    assert counts == sorted(counts)
    stops = local.encode(whole, special=False)[1]
    for end, count in zip(ends, counts, strict=False):
        beginning = text.encode()[:end].decode(errors="ignore")
        within = whole[: stops[count - 1]] if count else ""
        # What the tokens spell is in the beginning, but for the template's own and the blanks around a message.
        for message in messages:
            content = message["content"].strip()
            at = whole.find(content)
            spelt = within[at : at + len(content)] if len(within) > at else ""
            assert spelt in beginning


def test_plain_text_is_tied_as_it_is(local):
    text = "It depends on what was computed before. " * 20
    numbers, ends = steps(text)
    ties = Ties(local)
    ties.tie(numbers, ends, text, None, SIZE)
    tied = ties.blocks
    chain = keys(tokenizer(model_folder())(text), SIZE)
    assert list(tied.values()) == sorted(tied.values(), key=chain.index)
    assert set(tied.values()) <= set(chain)
    assert tied[numbers[-1]] == chain[-1] or tied[numbers[-1]] == chain[-2]


def test_two_chats_with_the_same_beginning_meet_in_the_same_blocks(local):
    ties = Ties(local)
    system = "You are careful and you look twice. " * 40
    one, other = chat(system, "First question. " * 20), chat(system, "Something else. " * 20)
    tied = []
    for messages in (one, other):
        text = text_of(messages)
        ties.tie(*steps(text), text, {"messages": messages}, SIZE)
        tied.append({number: ties.blocks[number] for number in steps(text)[0] if number in ties.blocks})
    shared = tied[0].keys() & tied[1].keys()
    assert len(shared) >= len(system) // 64 - 1
    chain = set(keys(tokenizer(model_folder())(rendered({"messages": other})), SIZE))
    assert all(tied[0][number] in chain for number in shared)
    assert all(tied[0][number] == tied[1][number] for number in shared)


def test_what_is_remembered_is_bounded(local):
    ties = Ties(local, kept=50)
    for number in range(20):
        text = f"{number} is another text. " * 60
        ties.tie(*steps(text), text, None, SIZE)
        assert len(ties) <= 50


contents = st.one_of(
    st.none(),
    st.text(max_size=40),
    st.integers(),
    st.lists(st.one_of(st.text(max_size=20), st.none(), st.just({"text": "x"}))),
)


@given(
    st.lists(
        st.one_of(st.none(), st.fixed_dictionaries({"role": st.text(max_size=5), "content": contents})), max_size=4
    )
)
@settings(max_examples=60, deadline=None)
def test_any_messages_are_tied_or_left_alone(messages):
    local = LocalTokenizer(model_folder())
    text = "a text of the router's own. " * 10
    Ties(local).tie(*steps(text), text, {"messages": messages, "tools": None}, SIZE)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"tokenizer: no .*tokenizer\.json"):
        LocalTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        LocalTokenizer(tmp_path)


def test_templates_in_every_place_they_come_in(tmp_path):
    shutil.copy(f"{model_folder()}/tokenizer.json", tmp_path)
    assert not LocalTokenizer(tmp_path).renders_chats
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ bos_token }}default"}]
    config = {"chat_template": named, "bos_token": {"content": "<s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert LocalTokenizer(tmp_path).render([]) == "<s>default"
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    assert LocalTokenizer(tmp_path).render([]) is None
    (tmp_path / "chat_template.jinja").write_text("{{ ''.__class__.__mro__ }}")  # the sandbox holds
    assert LocalTokenizer(tmp_path).render([]) is None
