"""Closed-form answers: what each strategy must do, to the number."""

from __future__ import annotations

import random
from collections import Counter, deque

import pytest

from fast_router.engine import Ask, Deployment, Engine, outside, slow_start
from tests.engine.contract import Bench

PICKS = 40_000
# Five standard deviations of a share over 40,000 draws are at most 5 * sqrt(.25 / 40000) = 1.25 points.
CLOSE = 0.0125


def test_power_of_two_leaves_a_busy_one_of_three_a_ninth():
    """Two draws with replacement: the busy one is taken only if drawn twice (Envoy's 44.45/44.45/11.1)."""
    bench = Bench("power_of_two", 3)
    bench.engine.acquire_deployment(bench.members[2])
    assert bench.shares(PICKS) == pytest.approx([4 / 9, 4 / 9, 1 / 9], abs=CLOSE)


def test_power_of_two_leaves_a_busy_one_of_two_a_quarter():
    bench = Bench("power_of_two", 2)
    bench.engine.acquire_deployment(bench.members[0])
    assert bench.shares(PICKS) == pytest.approx([1 / 4, 3 / 4], abs=CLOSE)


def test_power_of_two_follows_the_weights_of_idle_members():
    bench = Bench("power_of_two", [{"weight": 2}, {"weight": 1}])
    assert bench.shares(PICKS) == pytest.approx([2 / 3, 1 / 3], abs=CLOSE)


def test_power_of_two_compares_load_over_weight():
    """Weight 2 with one in flight (1/2) is less loaded than weight 1 with one in flight."""
    bench = Bench("power_of_two", [{"weight": 2}, {"weight": 1}])
    for member in bench.members:
        bench.engine.acquire_deployment(member)
    assert bench.shares(PICKS) == pytest.approx([1 - 1 / 9, 1 / 9], abs=CLOSE)


def _with_latencies(strategy: str, *latencies: float) -> Bench:
    bench = Bench(strategy, len(latencies))
    for member, seconds in zip(bench.members, latencies, strict=True):
        bench.engine.observe(member, seconds)
    return bench


def test_power_of_two_takes_a_far_slower_one_only_if_drawn_four_times():
    bench = _with_latencies("power_of_two", 0.1, 0.1, 0.1, 1.0)
    # However busy the others are.
    for member in bench.members[:3]:
        bench.engine.acquire_deployment(member)
    others = (1 - 1 / 256) / 3
    assert bench.shares(PICKS) == pytest.approx([others, others, others, 1 / 256], abs=CLOSE)
    assert bench.shares(PICKS)[3] < 0.01


def test_power_of_two_leaves_a_far_slower_one_among_candidates_as_well():
    bench = _with_latencies("power_of_two", 0.1, 0.1, 0.1, 1.0)
    taken = Counter()
    for _ in range(PICKS):
        lease = bench.engine.acquire_from(bench.group, list(bench.members))
        taken[lease.id] += 1
        lease.release(cancelled=True)
    assert taken["d3"] / PICKS == pytest.approx(1 / 256, abs=0.002)


def test_power_of_two_goes_by_counts_among_those_that_are_alike():
    bench = _with_latencies("power_of_two", 0.1, 0.29, 0.1)
    bench.engine.acquire_deployment(bench.members[2])
    assert bench.shares(PICKS) == pytest.approx([4 / 9, 4 / 9, 1 / 9], abs=CLOSE)


def test_power_of_two_goes_by_the_time_per_token():
    """A long answer is no slow server."""
    bench = Bench("power_of_two", 2)
    short, long = bench.members
    bench.engine.observe(short, 0.1, completion_tokens=10)
    bench.engine.observe(long, 10.0, completion_tokens=1000)
    assert bench.shares(PICKS) == pytest.approx([1 / 2, 1 / 2], abs=CLOSE)


def test_power_of_two_is_not_misled_by_a_very_short_answer():
    """One token after half a second is no slow server either: the means of seconds and of tokens are compared."""
    bench = Bench("power_of_two", 2)
    for member in bench.members:
        for _ in range(5):
            bench.engine.observe(member, 5.0, completion_tokens=500)
    bench.engine.observe(bench.members[0], 0.5, completion_tokens=1)
    assert bench.shares(PICKS) == pytest.approx([1 / 2, 1 / 2], abs=CLOSE)


@pytest.mark.parametrize("strategy", ["power_of_two", "peak_ewma"])
def test_a_long_call_does_not_keep_its_server_shunned(strategy):
    bench = _with_latencies(strategy, 0.1, 0.5)
    bench.engine.acquire_deployment(bench.members[1])
    bench.clock.advance(10)
    assert bench.shares(1000)[1] < 0.3
    bench.clock.advance(90)
    bench.engine.observe(bench.members[0], 0.1)
    for _ in range(3):
        bench.engine.acquire_deployment(bench.members[0])
    assert bench.shares(1000)[1] > 0.5


def test_power_of_two_tries_a_slow_one_again():
    bench = _with_latencies("power_of_two", 0.1, 1.0)
    bench.clock.advance(12)  # 1.0 x exp(-12/10) is a little more than three times 0.1
    assert bench.shares(PICKS)[1] < 0.2
    bench.clock.advance(0.1)
    assert bench.shares(PICKS) == pytest.approx([1 / 2, 1 / 2], abs=CLOSE)
    # Its call is out: until that has told, it gets no more.
    bench.engine.acquire_deployment(bench.members[1])
    assert bench.shares(PICKS)[1] < 0.2


@pytest.mark.parametrize("weights", [[5, 1, 1], [3, 2, 1], [1, 1, 1, 1], [10, 3]])
def test_round_robin_is_exact_over_a_period_and_smooth_within_it(weights):
    bench = Bench("round_robin", [{"weight": w} for w in weights])
    period = sum(weights)
    picks = []
    for _ in range(5 * period):
        lease = bench.acquire()
        picks.append(int(lease.id[1:]))
        lease.release()
    for start in range(0, len(picks), period):
        counts = Counter(picks[start : start + period])
        assert [counts[i] for i in range(len(weights))] == weights
    # Smooth: in any prefix, each member is within one turn of its fair share.
    seen = Counter()
    for turn, member in enumerate(picks, 1):
        seen[member] += 1
        for i, weight in enumerate(weights):
            assert abs(seen[i] - turn * weight / period) <= 1 + 1e-9


def test_round_robin_lets_a_member_that_was_away_have_no_turns_in_arrears():
    bench = Bench("round_robin", 3)
    bench.engine.rest(bench.members[0], 50)
    bench.shares(90)
    bench.clock.advance(50)
    counts = Counter()
    for _ in range(9):
        lease = bench.acquire()
        counts[lease.id] += 1
        lease.release()
    assert counts["d0"] == pytest.approx(3, abs=1)


def test_round_robin_resumes_its_schedule_when_the_group_is_recompiled():
    bench = Bench("round_robin", 3)
    first = bench.acquire().id
    group = bench.engine.compile_group("g", bench.members, "round_robin", replaces=bench.group)
    rest = [bench.engine.acquire(group).id for _ in range(2)]
    assert {first, *rest} == {"d0", "d1", "d2"}


def test_simple_shuffle_follows_weights_then_rpm_then_tpm():
    assert Bench("simple_shuffle", [{"weight": 3}, {"weight": 1}]).shares(PICKS) == pytest.approx(
        [0.75, 0.25], abs=CLOSE
    )
    assert Bench("simple_shuffle", [{"rpm": 9}, {"rpm": 1}]).shares(PICKS) == pytest.approx([0.9, 0.1], abs=CLOSE)
    assert Bench("simple_shuffle", [{"tpm": 1}, {"tpm": 1}]).shares(PICKS) == pytest.approx([0.5, 0.5], abs=CLOSE)
    mixed = [{"weight": 1, "rpm": 1}, {"rpm": 99}]
    assert Bench("simple_shuffle", mixed).shares(200) == [1.0, 0.0]


def test_simple_shuffle_takes_the_next_kind_when_the_only_carrier_rests():
    """The weight is on d0 alone; while it rests, the others' rpm decide, as LiteLLM's filter-then-weigh does."""
    bench = Bench("simple_shuffle", [{"weight": 1}, {"rpm": 3}, {"rpm": 1}])
    bench.engine.rest(bench.members[0], 60)
    assert bench.shares(PICKS) == pytest.approx([0, 0.75, 0.25], abs=CLOSE)


def test_simple_shuffle_keeps_proportions_while_nearly_all_weight_rests():
    bench = Bench("simple_shuffle", [{"weight": 1000}, {"weight": 3}, {"weight": 1}])
    bench.engine.rest(bench.members[0], 60)
    assert bench.shares(PICKS) == pytest.approx([0, 0.75, 0.25], abs=CLOSE)


def test_simple_shuffle_takes_the_requests_own_weights():
    bench = Bench("simple_shuffle", 2)
    assert bench.shares(PICKS, Ask(weights={"d0": 1, "d1": 4})) == pytest.approx([0.2, 0.8], abs=CLOSE)


def test_least_busy_fills_evenly_and_spreads_a_burst():
    bench = Bench("least_busy", 4)
    for _ in range(40):
        bench.acquire()
    assert [d.in_flight for d in bench.members] == [10, 10, 10, 10]


def test_least_busy_shares_equally_at_low_load():
    """With everybody idle it is a round robin: a random choice would be 4 points off after 100 calls."""
    bench = Bench("least_busy", 4)
    assert bench.shares(100) == [0.25] * 4


def test_least_busy_begins_somewhere_else_in_every_process():
    """Many processes that make one call each do not all make it to the same server."""
    firsts = Counter(Bench("least_busy", 4, seed=seed).acquire().id for seed in range(400))
    assert all(60 <= firsts[f"d{place}"] <= 140 for place in range(4))


def test_least_busy_takes_a_returning_member_in_its_turn():
    bench = Bench("least_busy", 3)
    bench.engine.rest(bench.members[0], 10)
    assert bench.shares(20) == [0, 0.5, 0.5]
    bench.clock.advance(10)
    assert bench.shares(30) == pytest.approx([1 / 3] * 3)


def test_least_busy_goes_to_the_one_that_became_free():
    bench = Bench("least_busy", 3)
    leases = [bench.acquire() for _ in range(6)]
    freed = leases[4]
    freed.release()
    assert bench.acquire().id == freed.id


def test_least_busy_weighs_load_by_capacity():
    bench = Bench("least_busy", [{"capacity": 3}, {"capacity": 1}])
    for _ in range(40):
        bench.acquire()
    assert [d.in_flight for d in bench.members] == [30, 10]


def test_least_busy_counts_load_known_from_elsewhere():
    bench = Bench("least_busy", 2)
    outside.set_loads(bench.engine, {"d0": 5})
    assert [bench.acquire().id for _ in range(5)] == ["d1"] * 5
    outside.set_loads(bench.engine, {"d0": 0})
    assert [bench.acquire().id for _ in range(4)] == ["d0"] * 4


def test_latency_based_takes_the_fastest_and_shares_within_the_buffer():
    bench = Bench("latency_based", 3)
    for member, seconds in zip(bench.members, (0.2, 0.1, 0.3), strict=True):
        bench.engine.observe(member, seconds)
    assert bench.shares(100) == [0, 1, 0]
    bench = Bench("latency_based", 3, lowest_latency_buffer=0.5)
    for member, seconds in zip(bench.members, (0.14, 0.1, 0.3), strict=True):
        bench.engine.observe(member, seconds)
    assert bench.shares(PICKS) == pytest.approx([0.5, 0.5, 0], abs=CLOSE)


def test_latency_based_compares_seconds_per_token_and_first_tokens_for_streams():
    bench = Bench("latency_based", 2)
    bench.engine.observe(bench.members[0], 2.0, completion_tokens=100, first_token=0.5)
    bench.engine.observe(bench.members[1], 1.0, completion_tokens=10, first_token=0.1)
    assert bench.shares(50) == [1, 0]
    assert bench.shares(50, Ask(stream=True)) == [0, 1]


def test_latency_based_probes_an_unknown_member_once():
    bench = Bench("latency_based", 3)
    for member in bench.members[:2]:
        bench.engine.observe(member, 0.1)
    first = bench.acquire()
    assert first.id == "d2"
    assert all(bench.acquire().id != "d2" for _ in range(50))
    first.release()
    assert bench.members[2].latency is not None


def test_latency_based_forgets_after_an_hour():
    bench = Bench("latency_based", 2)
    bench.engine.observe(bench.members[0], 9.0)
    bench.clock.advance(4000)
    bench.engine.observe(bench.members[0], 0.1)
    assert bench.members[0].latency == pytest.approx(0.1)


def test_cost_based_takes_the_cheapest_and_zero_is_a_price():
    bench = Bench("cost_based", [{"price": 2e-6}, {"price": 0.0}, {"price": 1e-6}])
    assert bench.shares(50) == [0, 1, 0]
    bench.engine.rest(bench.members[1], 9)
    assert bench.shares(50) == [0, 0, 1]


def test_usage_based_takes_the_least_used_and_admits_exactly_its_rpm():
    bench = Bench("usage_based", [{"rpm": 3}, {"rpm": 5}])
    leases = [bench.acquire() for _ in range(8)]
    assert Counter(lease.id for lease in leases) == {"d0": 3, "d1": 5}
    assert bench.acquire() is None
    assert bench.engine.soonest(bench.members) == pytest.approx(60 - 1000 % 60)
    bench.clock.advance(60 - 1000 % 60)
    assert bench.acquire() is not None


def test_usage_based_balances_tokens_and_respects_room_for_the_prompt():
    bench = Bench("usage_based", [{"tpm": 100}, {"tpm": 100}])
    lease = bench.acquire()
    lease.release(total_tokens=60)
    other = "d1" if lease.id == "d0" else "d0"
    assert bench.acquire().id == other
    bench.engine.record_tokens(bench.engine.deployments[other], 90)
    assert bench.acquire(Ask(tokens=30)).id == lease.id
    assert bench.acquire(Ask(tokens=50)) is None


@pytest.mark.parametrize("strategy", ["latency_based", "cost_based", "usage_based"])
def test_a_used_up_minute_ends_for_strategies_with_limits(strategy):
    bench = Bench(strategy, [{"rpm": 1}, {"rpm": 1}])
    assert {bench.acquire().id, bench.acquire().id} == {"d0", "d1"}
    assert bench.acquire() is None
    bench.clock.advance(60)
    assert bench.acquire() is not None


@pytest.mark.parametrize("strategy", ["simple_shuffle", "least_busy", "round_robin", "power_of_two", "peak_ewma"])
def test_other_strategies_do_not_hold_anybody_at_its_rpm(strategy):
    """As in LiteLLM, where rpm is a weight to the shuffle and nothing to least-busy."""
    bench = Bench(strategy, [{"rpm": 1}])
    assert all(bench.acquire() is not None for _ in range(5))


def test_slow_start_ramps_a_returning_member_up():
    bench = Bench("simple_shuffle", 2)
    slow_start.begin(bench.engine, bench.members[0], 100)
    bench.clock.advance(50)
    # Half of its turns are passed on.
    assert bench.shares(PICKS)[0] == pytest.approx(0.25, abs=CLOSE)
    bench.clock.advance(50)
    assert bench.shares(PICKS)[0] == pytest.approx(0.5, abs=CLOSE)


def test_quality_limit_pauses_a_member_that_is_too_slow():
    bench = Bench("simple_shuffle", [{"qos_metric": "ttft", "qos_limit": 0.5}, {}])
    bench.engine.observe(bench.members[0], 2.0, first_token=0.9)
    assert bench.shares(50) == [0, 1]
    bench.clock.advance(10)
    assert bench.shares(200)[0] > 0


@pytest.mark.parametrize(
    ("strategy", "bound"),
    [("least_busy", 1.0), ("round_robin", 1.0), ("power_of_two", 1.6), ("peak_ewma", 2.0), ("simple_shuffle", 2.0)],
)
def test_load_stays_within_twice_the_optimum(strategy, bound):
    """Finagle's bound for identical nodes: 1,000 open leases on 10 members, the fullest has at most 2 x 100."""
    engine = Engine(rng=random.Random(12345))
    bench = Bench(strategy, 10, seed=12345)
    for member in bench.members:
        bench.engine.observe(member, 0.1)
    for _ in range(1000):
        bench.acquire()
    assert max(d.in_flight for d in bench.members) <= bound * 100
    assert engine is not bench.engine


def _rebuild(bench: Bench, names: list[str]) -> None:
    """Deploy another list of members, as a configuration reload does: those that stay keep their state."""
    known = bench.engine.deployments
    bench.members = [known.get(name) or Deployment(name, "g") for name in names]
    known.clear()
    known.update({d.id: d for d in bench.members})
    bench.group = bench.engine.compile_group("g", bench.members, bench.group.strategy, replaces=bench.group)


@pytest.mark.parametrize(
    ("strategy", "bound"),
    [("least_busy", 1.5), ("round_robin", 2.0), ("power_of_two", 2.0), ("peak_ewma", 2.0)],
)
def test_load_stays_within_twice_the_optimum_through_deploy_roll_shrink_and_expand(strategy, bound):
    """Finagle's scenario: 20 calls of one second arrive each 100 ms, so 200 are open, while the members change."""
    bench = Bench(strategy, [{} for _ in range(10)], seed=99)
    calls: deque = deque()

    def run(seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            bench.clock.advance(0.1)
            while calls and calls[0][0] <= bench.clock.now + 1e-9:
                calls.popleft()[1].release()
            for _ in range(20):
                calls.append((bench.clock.now + 1.0, bench.acquire()))

    def even() -> None:
        # Two calls of grace: a bound on a share means little for the last call of it.
        most = max(d.in_flight for d in bench.members)
        assert most <= bound * sum(d.in_flight for d in bench.members) / len(bench.members) + 2

    def names(first: int, last: int) -> list[str]:
        return [f"d{i}" for i in range(first, last)]

    run(5)
    even()
    for gone in range(10):  # roll: each member is replaced by a new one, one at a time
        _rebuild(bench, names(gone + 1, gone + 11))
        run(2)
        even()
    _rebuild(bench, names(10, 15))  # shrink to half
    run(5)
    even()
    _rebuild(bench, names(10, 30))  # expand to four times that
    run(5)
    even()
    _rebuild(bench, names(30, 40))  # deploy: everybody is new at once
    run(5)
    even()
