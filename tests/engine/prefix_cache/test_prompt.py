"""Prompts as numbers: equal beginnings, equal numbers, in every process."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_router.engine.prefix_cache.prompt import Prompt

TEXT = "".join(random.Random(1).choices("abcdefghij klmnop", k=60_000))


@given(st.integers(0, 60_000), st.integers(0, 60_000))
def test_two_prompts_share_what_their_texts_share(length: int, differs: int) -> None:
    """All blocks before the first difference are equal, none after it."""
    one = Prompt(TEXT[:length])
    other = Prompt(TEXT[:differs] + "#" + TEXT[differs + 1 :])
    for place, (left, right) in enumerate(zip(one.hashes, other.hashes, strict=False)):
        assert (left == right) == (one.ends[place] <= differs)
    assert one.ends[: len(one.hashes)] == tuple(end for end in one.ends if end <= length)


def test_blocks_grow_with_the_prompt() -> None:
    """A long prompt has few blocks, and none is longer than half of what is before it."""
    long = Prompt("x" * 1_000_000)
    assert len(Prompt("x" * 24_000).hashes) <= 40
    assert len(Prompt("x" * 100_000).hashes) <= 80
    assert len(long.hashes) < 260
    for before, end in zip(long.ends[4:], long.ends[5:], strict=False):
        assert end - before <= before / 2


def test_numbers_are_the_same_in_every_process() -> None:
    """They are sent to others, so they must not depend on a process's own hash seed."""
    code = "from fast_router.engine.prefix_cache.prompt import Prompt; print(Prompt('abc ' * 300, 0, 'salt').hashes)"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


def test_namespaces_share_nothing() -> None:
    """A cache salt keeps equal prompts apart."""
    text = TEXT[:5000]
    assert set(Prompt(text).hashes).isdisjoint(Prompt(text, namespace="tenant").hashes)


@pytest.mark.parametrize("text", ["", "é" * 999, "\ud800" * 700, "\x00" * 3000, "漢字" * 2000])
def test_any_text_will_do(text: str) -> None:
    """Lone surrogates, zero bytes and wide characters are text like any other."""
    assert Prompt(text).hashes == Prompt(text).hashes


def test_ids_in_place_of_words_are_cut_finer() -> None:
    """64 characters for 512 tokens: a block of ours is not eight of theirs."""
    prompt = Prompt("x" * 640, tokens=5120)
    assert len(prompt.hashes) >= 10


def test_nothing_of_a_prompt_is_shown() -> None:
    """Neither text nor numbers."""
    prompt = Prompt("secret " * 100)
    assert "secret" not in repr(prompt)
    assert str(prompt.hashes[0]) not in repr(prompt)
