"""vLLM's events off the wire: both spellings, what is passed over, what is refused without showing a prompt."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

msgspec = pytest.importorskip("msgspec")

from fast_router.kv_events.messages import Cleared, MalformedBatchError, Removed, Stored, decode  # noqa: E402

pack = msgspec.msgpack.Encoder().encode


def test_arrays_as_older_servers_write_them():
    events = [["BlockStored", [7, 8], None, [1, 2, 3, 4], 2, None, "GPU"], ["BlockRemoved", [9]], ["AllBlocksCleared"]]
    batch = decode(pack([12.5, events, 3]))
    stored, removed, cleared = batch.events
    assert (stored.names, stored.parent, stored.tokens, stored.size, stored.plain) == (
        [7, 8], None, [1, 2, 3, 4], 2, True,
    )  # fmt: skip
    assert removed == Removed([9])
    assert cleared == Cleared()
    assert (batch.rank, batch.at) == (3, 12.5)


def test_maps_as_newer_servers_write_them():
    stored = {
        "type": "BlockStored",
        "block_hashes": [b"\x01" * 32],
        "parent_block_hash": b"\x02" * 32,
        "token_ids": [5, 6],
        "block_size": 2,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "kv_cache_spec_kind": "full_attention",
    }
    (event,) = decode(pack({"ts": 1.0, "events": [stored]})).events
    assert isinstance(event, Stored)
    assert (event.names, event.parent, event.plain) == ([b"\x01" * 32], b"\x02" * 32, True)


@pytest.mark.parametrize("extra", [{"lora_name": "x"}, {"lora_id": 1}, {"extra_keys": [["salt"]]}])
def test_what_more_than_tokens_tells_apart_is_not_plain(extra):
    stored = {
        "type": "BlockStored",
        "block_hashes": [1],
        "parent_block_hash": None,
        "token_ids": [5],
        "block_size": 1,
        **extra,
    }
    (event,) = decode(pack({"ts": 1.0, "events": [stored]})).events
    assert not event.plain


def test_other_tiers_other_layers_and_the_unknown_are_passed_over():
    base = {"block_hashes": [1], "parent_block_hash": None, "token_ids": [5], "block_size": 1}
    events = [
        {"type": "BlockStored", **base, "medium": "CPU"},
        {"type": "BlockStored", **base, "group_idx": 1},
        {"type": "BlockRemoved", "block_hashes": [1], "medium": "CPU"},
        {"type": "BlockMoved", "whatever": 1},
    ]
    assert decode(pack({"ts": 1.0, "events": events})).events == []


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        pack(3),
        pack(None),
        pack([1.0]),
        pack([1.0, 5]),
        pack([1.0, [[]]]),
        pack([1.0, [["BlockStored", [1], None, [424242], 0]]]),
        pack([1.0, [["BlockStored", [1], None, [424242, 424242], 1]]]),
        pack([1.0, [["BlockStored", ["name"], None, [424242], 1]]]),
        pack({"ts": "424242", "events": {"a": 1}}),
    ],
)
def test_what_is_no_batch_is_refused_without_its_content(payload):
    with pytest.raises(MalformedBatchError) as refused:
        decode(payload)
    assert "424242" not in str(refused.value)
    assert refused.value.__cause__ is None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_refused(payload):
    with contextlib.suppress(MalformedBatchError):
        decode(payload)
