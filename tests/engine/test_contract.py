"""One contract, every strategy."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fast_router.engine import Ask, Deployment, Engine, known_strategies
from tests.engine.contract import STRATEGIES, Bench

pytestmark = pytest.mark.parametrize("strategy", STRATEGIES)


def test_the_contract_covers_every_strategy_of_ours(strategy):
    """A strategy that is registered and not in this list would escape the contract."""
    assert strategy in known_strategies()


def test_none_when_nobody_is_eligible_and_never_none_while_somebody_is(strategy):
    bench = Bench(strategy, 4)
    for resting in range(4):
        lease = bench.acquire()
        assert lease is not None
        lease.release(cancelled=True)
        bench.engine.rest(bench.members[resting], 10)
    assert bench.acquire() is None
    bench.clock.advance(10)
    assert bench.acquire() is not None


def test_a_resting_member_is_not_picked_and_comes_back_by_itself(strategy):
    bench = Bench(strategy, 3)
    bench.engine.rest(bench.members[1], 5)
    assert bench.shares(60)[1] == 0
    bench.clock.advance(5)
    # In flight on the others, so that least-busy rules too turn to the one that is back.
    held = {bench.acquire().id for _ in range(40)}
    assert "d1" in held


def test_a_longer_rest_is_never_shortened(strategy):
    bench = Bench(strategy, 2)
    bench.engine.rest(bench.members[0], 60)
    bench.engine.rest(bench.members[0], 1)
    bench.clock.advance(30)
    assert bench.shares(20)[0] == 0
    bench.clock.advance(30)
    bench.engine.settle()
    assert bench.members[0].eligible


def test_equal_members_are_equally_likely(strategy):
    """A tie is broken at random, never by list order: over many fresh starts the first pick is uniform."""
    counts = Counter()
    for seed in range(900):
        bench = Bench(strategy, 3, seed=seed)
        counts[bench.acquire().id] += 1
    # Binomial(900, 1/3): mean 300, standard deviation 14.1; five of those either way.
    assert all(230 < counts[f"d{i}"] < 370 for i in range(3)), counts


def test_in_flight_is_the_number_of_open_leases(strategy):
    bench = Bench(strategy, 3)
    leases = [bench.acquire() for _ in range(30)]
    assert sum(d.in_flight for d in bench.members) == 30
    for index, lease in enumerate(leases):
        error = ValueError("x") if index % 3 == 0 else None
        assert lease.release(error) is True
        assert lease.release(error) is False
    assert [d.in_flight for d in bench.members] == [0, 0, 0]


def test_an_abandoned_lease_is_closed_by_the_next_call(strategy):
    bench = Bench(strategy, 1)
    bench.acquire().abandon()
    assert bench.members[0].in_flight == 1
    bench.engine.settle()
    assert bench.members[0].in_flight == 0


def test_excluded_ids_are_not_picked(strategy):
    bench = Bench(strategy, 3)
    for _ in range(30):
        lease = bench.acquire(Ask({"d0", "d2"}))
        assert lease.id == "d1"
        lease.release()
    assert bench.acquire(Ask({"d0", "d1", "d2"})) is None


def test_lower_order_goes_first_and_those_without_come_last(strategy):
    bench = Bench(strategy, [{"order": 2}, {"order": 1}, {}, {"order": 1}])
    picked = set()
    for _ in range(40):
        lease = bench.acquire()
        picked.add(lease.id)
        lease.release()
    assert picked == {"d1", "d3"}
    for index in (1, 3):
        bench.engine.rest(bench.members[index], 100)
    assert bench.acquire().id == "d0"
    bench.engine.rest(bench.members[0], 100)
    assert bench.acquire().id == "d2"
    assert bench.acquire(Ask(order=7)) is None


def test_a_full_member_is_passed_over_until_a_lease_ends(strategy):
    bench = Bench(strategy, [{"max_parallel": 1}, {"max_parallel": 2}])
    leases = [bench.acquire() for _ in range(3)]
    assert sorted(lease.id for lease in leases) == ["d0", "d1", "d1"]
    assert bench.acquire() is None
    next(lease for lease in leases if lease.id == "d0").release()
    assert bench.acquire().id == "d0"


def test_the_same_seed_clock_and_calls_answer_the_same(strategy):
    def run() -> list[str]:
        bench = Bench(strategy, 5, seed=3)
        script = random.Random(99)
        out, leases = [], []
        for _ in range(300):
            bench.clock.advance(script.random() / 10)
            if leases and script.random() < 0.5:
                leases.pop(script.randrange(len(leases))).release(completion_tokens=script.randrange(9))
            else:
                leases.append(bench.acquire())
                out.append(leases[-1].id)
        return out

    assert run() == run()


def test_pick_from_keeps_to_its_candidates(strategy):
    bench = Bench(strategy, 4)
    allowed = bench.members[1:3]
    seen = {bench.engine.acquire_from(bench.group, allowed).id for _ in range(60)}
    assert seen == {"d1", "d2"}


def test_a_recompiled_group_goes_on_with_what_is_known(strategy):
    """Deployments keep their numbers; the former group's sets are no longer kept."""
    bench = Bench(strategy, 2)
    lease = bench.acquire()
    newcomer = Deployment("d9", "g", {})
    group = bench.engine.compile_group("g", [*bench.members, newcomer], strategy, replaces=bench.group)
    assert all(len(d.strategies) == 1 for d in (*bench.members, newcomer))
    assert lease.deployment.in_flight == 1
    seen = {bench.engine.acquire(group).id for _ in range(60)}
    assert "d9" in seen
    lease.release()


def test_a_member_of_two_groups_counts_in_both(strategy):
    engine = Engine(rng=random.Random(1))
    one, two, shared = Deployment("a", "g", {}), Deployment("b", "h", {}), Deployment("s", "g", {})
    left = engine.compile_group("g", [one, shared], strategy)
    right = engine.compile_group("h", [two, shared], strategy)
    engine.rest(shared, 60)
    assert {engine.acquire(left).id for _ in range(10)} == {"a"}
    assert {engine.acquire(right).id for _ in range(10)} == {"b"}
