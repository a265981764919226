from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_router.cluster.shared_state.message import PROTOCOL, Message, decode, encode, short_id

numbers = st.floats(min_value=0, max_value=1e12, allow_nan=False)
ids = st.text(min_size=1, max_size=24)


@given(
    load=st.dictionaries(ids, st.integers(0, 10**6), max_size=5),
    usage=st.dictionaries(ids, st.tuples(numbers, numbers), max_size=5),
    latency=st.dictionaries(ids, st.tuples(numbers, numbers, numbers, numbers), max_size=5),
    rests=st.dictionaries(ids, numbers, max_size=5),
)
def test_what_is_sent_arrives(load, usage, latency, rests):
    message = Message("full", "me", 7, stamp=12.5, load=load, minute=3, usage=usage, latency=latency, rests=rests)
    back = decode(encode(message))
    assert back is not None
    assert (back.load, back.usage, back.latency, back.rests) == (load, usage, latency, rests)
    assert (back.kind, back.instance, back.sequence, back.stamp) == ("full", "me", 7, 12.5)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("pkintlmudra"), inner, max_size=6),
    max_leaves=12,
)


@given(json_values)
def test_nothing_that_a_stranger_writes_raises_or_yields_a_bad_number(value):
    raw = json.dumps(value)
    message = decode(raw)
    assert message is None or isinstance(message.sequence, int)
    header = {"p": PROTOCOL, "k": "full", "i": "other", "n": 1}
    message = decode(json.dumps({**header, "l": value, "u": value, "d": value, "r": value}))
    assert message is not None
    every = [*message.load.values(), *message.rests.values()]
    every += [n for pair in [*message.usage.values(), *message.latency.values()] for n in pair]
    assert all(n >= 0 and math.isfinite(n) for n in every)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message(raw):
    decode(raw)


def test_a_later_version_of_the_same_protocol_is_understood():
    raw = json.dumps(
        {
            "p": PROTOCOL,
            "k": "load",
            "i": "newer",
            "n": 1,
            "l": {"d0": 2},
            "u": {"d0": [1, 2, "new"]},
            "d": {"d0": [0.1, 2, 0.2, 1, 99, 98]},
            "m": 5,
            "brand_new": {"x": []},
        }
    )
    message = decode(raw)
    assert message is not None
    assert message.load == {"d0": 2}
    assert message.usage == {"d0": (1, 2)}
    assert message.latency == {"d0": (0.1, 2, 0.2, 1)}


@pytest.mark.parametrize("protocol", [PROTOCOL + 1, 0, "1", None, True and 1.5])
def test_another_protocol_is_left_alone(protocol):
    assert decode(json.dumps({"p": protocol, "k": "load", "i": "x", "n": 1})) is None


def test_long_ids_travel_short_and_stay_apart():
    long = [f"{n:064x}" for n in range(1000)]
    shorts = {short_id(id_) for id_ in long}
    assert len(shorts) == 1000
    assert max(map(len, shorts)) == 16
    assert short_id("d1") == "d1"
