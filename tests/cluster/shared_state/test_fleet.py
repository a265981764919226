from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from fast_router.cluster.shared_state.fleet import Fleet
from fast_router.cluster.shared_state.message import Message

EXPIRY = 3.0
loads = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 5), max_size=3)
usages = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.tuples(st.integers(0, 9), st.integers(0, 99)), max_size=3)


class FleetMachine(RuleBasedStateMachine):
    """Messages in any order, silence, crashes, returns: the sums are those of who is alive, never less than 0."""

    names = Bundle("names")

    def __init__(self):
        super().__init__()
        self.fleet = Fleet("me", expiry=EXPIRY)
        self.now = 100.0
        self.alive = {}  # name -> (sequence, heard, load)
        self.seen_load = {}

    @rule(target=names, name=st.sampled_from(["x", "y", "z"]))
    def name(self, name):
        return name

    @rule(name=names, sequence=st.integers(0, 20), load=loads, kind=st.sampled_from(["load", "full"]))
    def say(self, name, sequence, load, kind):
        known = self.alive.get(name)
        fresh = known is None or sequence > known[0]
        assert self.fleet.apply(Message(kind, name, sequence, load=load), self.now) is fresh
        if fresh:
            self.alive[name] = (sequence, self.now, load)

    @rule(load=loads)
    def say_myself(self, load):
        assert not self.fleet.apply(Message("full", "me", 99, load=load), self.now)

    @rule(name=names, load=loads, age=st.floats(0, 10))
    def read_from_the_key(self, name, load, age):
        known = self.alive.get(name)
        sequence = 0 if known is None else known[0] + 1
        if self.fleet.apply(Message("full", name, sequence, load=load), self.now, age=age):
            assert age <= EXPIRY
            self.alive[name] = (sequence, self.now - age, load)

    @rule(name=names)
    def leave(self, name):
        self.fleet.apply(Message("bye", name, 0), self.now)
        self.alive.pop(name, None)

    @rule(seconds=st.floats(0, 4))
    def wait(self, seconds):
        self.now += seconds
        gone = {n for n, (_, heard, _) in self.alive.items() if self.now - heard > EXPIRY}
        assert set(self.fleet.expire(self.now)) == gone
        for name in gone:
            del self.alive[name]

    @rule()
    def drain(self):
        self.seen_load.update(self.fleet.drain_load())
        assert {k: v for k, v in self.seen_load.items() if v} == self.fleet.load()

    @invariant()
    def sums(self):
        expected = {}
        for _, _, load in self.alive.values():
            for key, count in load.items():
                expected[key] = expected.get(key, 0) + count
        assert self.fleet.load() == {key: n for key, n in expected.items() if n}
        assert len(self.fleet) == len(self.alive)


TestFleet = FleetMachine.TestCase
TestFleet.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_who_left_still_counts_against_this_minute():
    fleet = Fleet("me", expiry=EXPIRY)
    fleet.apply(Message("full", "x", 1, load={"a": 2}, minute=7, usage={"a": (3, 30)}), 0.0)
    fleet.apply(Message("full", "y", 1, minute=7, usage={"a": (1, 10)}), 0.0)
    assert fleet.usage(["a"], 7) == {"a": (4, 40)}
    assert sorted(fleet.expire(10.0)) == ["x", "y"]
    assert fleet.load() == {}
    assert fleet.usage(["a"], 7) == {"a": (4, 40)}
    assert fleet.usage(["a"], 8) == {"a": (0, 0)}


def test_who_comes_back_is_not_counted_twice():
    fleet = Fleet("me", expiry=EXPIRY)
    fleet.apply(Message("full", "x", 1, minute=7, usage={"a": (3, 30)}), 0.0)
    fleet.forget()
    fleet.apply(Message("full", "x", 2, minute=7, usage={"a": (5, 50)}), 1.0)
    assert fleet.usage(["a"], 7) == {"a": (5, 50)}


def test_a_load_message_names_only_the_usage_that_changed():
    fleet = Fleet("me", expiry=EXPIRY)
    fleet.apply(Message("full", "x", 1, minute=7, usage={"a": (3, 30), "b": (1, 1)}), 0.0)
    fleet.apply(Message("load", "x", 2, minute=7, usage={"a": (4, 40)}), 0.1)
    assert fleet.usage(["a", "b"], 7) == {"a": (4, 40), "b": (1, 1)}
    fleet.apply(Message("load", "x", 3, minute=8, usage={"b": (1, 2)}), 0.2)
    assert fleet.usage(["a", "b"], 8) == {"a": (0, 0), "b": (1, 2)}


def test_latency_merges_by_the_number_of_samples():
    fleet = Fleet("me", expiry=EXPIRY)
    fleet.apply(Message("full", "x", 1, latency={"a": (1.0, 9, 0.5, 1)}), 0.0)
    fleet.apply(Message("full", "y", 1, latency={"a": (2.0, 1, 0.0, 0)}), 0.0)
    merged = fleet.latency(["a", "b"])
    assert merged["a"] == (1.1, 10, 0.5, 1)
    assert merged["b"] == (0.0, 0, 0.0, 0)


def test_sums_stay_right_over_many_instances():
    fleet = Fleet("me", expiry=EXPIRY)
    for round_ in range(5):
        for n in range(50):
            fleet.apply(Message("load", f"i{n}", round_, load={"a": n + round_}), float(round_))
    assert fleet.load() == {"a": sum(n + 4 for n in range(50))}
