"""Closed-form answers: what peak_ewma must do, to the number."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.engine.contract import Bench
from tests.engine.test_oracles import CLOSE, PICKS


def _peak(members: int = 2) -> Bench:
    return Bench("peak_ewma", members)


def test_peak_ewma_jumps_to_a_slow_answer_and_decays_slowly():
    bench = _peak(1)
    member = bench.members[0]
    bench.engine.observe(member, 0.1)
    bench.engine.observe(member, 2.0)
    assert member.ewma == 2.0
    bench.clock.advance(1)
    bench.engine.observe(member, 0.1)
    # exp(-1/10) of the peak and the rest of the new sample.
    assert member.ewma == pytest.approx(2.0 * 0.904837 + 0.1 * 0.095163, rel=1e-5)


def test_peak_ewma_gives_a_server_that_fails_fast_less_not_more():
    bench = _peak(2)
    fine, failing = bench.members
    for member in bench.members:
        bench.engine.observe(member, 0.2)
    bench.engine.observe(failing, 0.001, error=ConnectionError())
    # Two different ones are drawn, so the failing one meets the fine one every time and loses.
    assert bench.shares(PICKS)[1] == 0
    assert fine.ewma < failing.ewma


def test_peak_ewma_does_not_take_a_busy_quick_server_for_slower_than_an_idle_slow_one():
    bench = _peak(2)
    quick, slow = bench.members
    bench.engine.observe(slow, 0.5)
    calls = [bench.engine.acquire_deployment(quick) for _ in range(8)]
    bench.engine.observe(quick, 0.1)
    assert quick.ewma_load == 8
    # Nine calls are more than five times one; but 0.1 s is what it takes with eight others.
    assert bench.shares(PICKS) == [1, 0]
    # With five times as much as then it is no better any more.
    calls += [bench.engine.acquire_deployment(quick) for _ in range(35)]
    assert bench.shares(PICKS) == [1, 0]
    calls += [bench.engine.acquire_deployment(quick) for _ in range(2)]
    assert bench.shares(PICKS) == [0, 1]


def test_peak_ewma_counts_a_failure_as_four_times_the_estimate_once():
    bench = _peak(2)
    fine, failing = bench.members
    for member in bench.members:
        bench.engine.observe(member, 0.2)
    for _ in range(3):
        bench.engine.observe(failing, 0.001, error=ConnectionError())
        assert failing.ewma == pytest.approx(0.8)
    assert bench.shares(PICKS)[1] == 0
    bench.clock.advance(14)  # 0.8 x exp(-1.4) is less than 0.2, which has decayed, too: fine is used meanwhile
    bench.engine.observe(fine, 0.2)
    assert bench.shares(PICKS)[1] > 0.5
    bench.engine.observe(failing, 0.1)
    bench.engine.observe(failing, 3.0)
    bench.engine.observe(failing, 0.001, error=ConnectionError())
    assert failing.ewma == 5.0, "no failure counts for longer"
    bench.engine.observe(fine, 20.0)
    bench.engine.observe(fine, 0.001, error=ConnectionError())
    assert fine.ewma == 20.0, "nor for less than a success"


def test_peak_ewma_gives_one_that_is_back_from_a_rest_its_probe_at_once():
    bench = _peak(4)
    for member, seconds in zip(bench.members, (0.1, 0.2, 0.3, 0.1), strict=True):
        bench.engine.observe(member, seconds)
    back = bench.members[3]
    bench.engine.observe(back, 0.001, error=ConnectionError())
    bench.engine.rest(back, 5)
    assert bench.shares(200)[3] == 0
    bench.clock.advance(5)
    assert bench.shares(PICKS)[3] > 0.25
    assert back.ewma == pytest.approx(0.1)


def test_peak_ewma_forgets_no_failure_because_a_slot_is_free_again():
    bench = Bench("peak_ewma", [{"max_parallel": 1}, {}])
    failing, fine = bench.members
    for member in bench.members:
        bench.engine.observe(member, 0.1)
    bench.engine.observe(failing, 30.0, error=TimeoutError())
    lease = bench.engine.acquire_deployment(failing)
    lease.release(cancelled=True)
    assert (failing.ewma, fine.ewma) == (30.0, 0.1)


def test_peak_ewma_leaves_two_slow_members_of_four():
    """Two draws would meet nobody but the slow ones one time in six, and that sixth would be the p99."""
    bench = _peak(4)
    for member, seconds in zip(bench.members, (0.1, 0.1, 1.0, 1.0), strict=True):
        bench.engine.observe(member, seconds)
    assert bench.shares(PICKS) == pytest.approx([0.5, 0.5, 0, 0], abs=CLOSE)


@pytest.mark.parametrize("size", [4, 7])
def test_peak_ewma_draws_three_different_members_each_as_likely(size):
    """The fastest is taken whenever it is drawn (3 of n), the slowest two never."""
    bench = _peak(size)
    for place, member in enumerate(bench.members):
        bench.engine.observe(member, 0.1 + place)
    shares = bench.shares(PICKS)
    assert shares[0] == pytest.approx(3 / size, abs=CLOSE)
    # The second fastest wins if it is drawn and the fastest is not: 3/n - P(both drawn).
    assert shares[1] == pytest.approx(3 / size - 6 / (size * (size - 1)), abs=CLOSE)
    assert shares[-2:] == [0, 0]


def test_peak_ewma_probes_an_unknown_member_once():
    bench = _peak(4)
    for member in bench.members[:3]:
        bench.engine.observe(member, 0.1)
    picked = Counter()
    for _ in range(200):
        lease = bench.acquire()
        picked[lease.id] += 1
        if lease.id != "d3":
            lease.release(cancelled=True)
    # After its probe it is taken only when drawn twice, 1 in 16.
    assert 1 <= picked["d3"] <= 30
    assert picked["d3"] < min(picked[f"d{i}"] for i in range(3))
