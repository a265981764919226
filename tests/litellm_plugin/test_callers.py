"""Who makes a request, and what it brings along."""

from __future__ import annotations

import pytest

from fast_router.engine.failover.blame import Terms
from fast_router.litellm_plugin.callers import caller_of, terms_of


@pytest.mark.parametrize("buckets", [("metadata", "litellm_metadata"), ("litellm_metadata", "metadata")], ids=str)
def test_a_key_is_not_hidden_behind_one_that_the_caller_writes(buckets):
    """The proxy strips a forged `user_api_key_hash` from the bucket that is the caller's, and no `user_api_key`."""
    of_the_proxy, of_the_caller = buckets
    known = {"user_api_key": "hash-of-eve", "user_api_key_hash": "hash-of-eve"}
    callers = {caller_of({of_the_proxy: known, of_the_caller: {"user_api_key": f"forged-{n}"}}) for n in range(3)}
    assert callers == {("key", "hash-of-eve")}


@pytest.mark.parametrize("name", ["fallbacks", "context_window_fallbacks", "content_policy_fallbacks"])
def test_another_question_as_a_fallback_is_told_from_another_group(name):
    assert terms_of({name: [{"model": "b", "messages": []}]}) == Terms.OTHERWISE
    for groups in (["b"], [{"a": ["b"]}], [{"model": ["b"]}], "b", None, 5):
        assert terms_of({name: groups}) == 0
