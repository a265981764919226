"""Whose calls wait where: counted once, the same as by a walk over all the others for each member."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from fast_router.engine.failover.waits import Waits


@dataclass
class Member:
    id: str
    held: int
    waiting: list[str] = field(default_factory=list)


@st.composite
def groups(draw):
    members = draw(st.lists(st.tuples(st.sampled_from([0, 0, 0, 1]), st.lists(st.sampled_from("abc"), max_size=4))))
    return [Member(f"d{n}", held, waiting) for n, (held, waiting) in enumerate(members)]


def others_of(member, members):
    return [other for other in members if other is not member and not other.held]


def hiding_by_walk(member, members, several):
    others = [Counter(other.waiting) for other in others_of(member, members)]
    everywhere = set.intersection(*map(set, others)) if others else set()
    found = [voice for voice in everywhere if sum(waits[voice] for waits in others) >= several]
    return found[0] if len(found) == 1 else None


@given(groups(), st.integers(1, 4))
def test_counted_once_is_the_same_as_a_walk_for_each_member(members, several):
    waits = Waits(members, lambda member: member.waiting, several)
    for member in members:
        assert waits.at(member) == Counter(member.waiting)
        hiding = hiding_by_walk(member, members, several)
        assert waits.hiding(member) == hiding
        for who in (None, "a", "b", "c"):
            answer = any(set(other.waiting) <= {who} for other in others_of(member, members))
            assert waits.others_answer(member, who) is answer


def test_each_member_s_calls_are_asked_for_once():
    asked = Counter()

    def voices(member):
        asked[member.id] += 1
        return member.waiting

    members = [Member(f"d{n}", 0, ["a"]) for n in range(300)]
    waits = Waits(members, voices, 2)
    assert all(waits.hiding(member) == "a" and waits.others_answer(member, "a") for member in members)
    assert asked == dict.fromkeys(asked, 1)
