"""Two strategies over the same deployments: each is what it would be alone, and requests go by that of their arm."""

from __future__ import annotations

import random

import pytest

from fast_router.engine import Ask, Deployment, Engine
from fast_router.engine.strategies import check_options, known_strategies, register_strategy
from fast_router.engine.strategies.base import Strategy
from fast_router.engine.strategies.split import Contender, Split
from fast_router.errors import ConfigurationError
from tests.engine.contract import STRATEGIES, Clock

GOES_BY = {
    "cost_based": lambda deployment: deployment.price,
    "latency_based": lambda deployment: deployment.latency,
    "least_busy": lambda deployment: deployment.in_flight,
}


class Twins:
    """The same deployments thrice: under two strategies at once, and under each of them alone."""

    def __init__(self, old: str, new: str, seed: int) -> None:
        self.clock, self.tried = Clock(), False
        self.split = self._engine(seed, old, Contender(new, {}, lambda: self.tried))
        self.alone = {False: self._engine(seed, old), True: self._engine(seed, new)}

    def _engine(self, seed, strategy, contender=None):
        engine = Engine(clock=self.clock, wall=self.clock, rng=random.Random(seed))
        engine.contender = contender
        # Prices, latencies and loads all differ.
        members = [Deployment(f"d{n}", "g", {}, price=float((n * 7) % 5 + 1), rpm=1000) for n in range(5)]
        engine.deployments.update({d.id: d for d in members})
        for n, member in enumerate(members):
            engine.observe(member, 1.0 + (n * 3) % 5, completion_tokens=1)
            for _ in range((n * 2) % 5):
                engine.acquire_deployment(member)
        group = engine.compile_group("g", members, strategy)
        return engine, group, members

    def everywhere(self, act) -> None:
        """The same to each of the three."""
        for engine, group, members in (self.split, *self.alone.values()):
            act(engine, group, members)


@pytest.mark.parametrize("old", GOES_BY)
@pytest.mark.parametrize("new", GOES_BY)
def test_each_arm_picks_as_its_strategy_would_alone(old, new):
    rng = random.Random(5)
    for seed in range(8):
        twins = Twins(old, new, seed)
        for _ in range(60):
            twins.tried = rng.random() < 0.5
            engine, group, _ = twins.alone[twins.tried]
            ask = Ask({f"d{rng.randrange(5)}"}) if rng.random() < 0.3 else None
            wanted = engine.peek(group, ask)
            found = twins.split[0].peek(twins.split[1], ask)
            assert (found is None) == (wanted is None)
            if found is None:
                continue
            # A tie is chance.
            goes_by = GOES_BY[new if twins.tried else old]
            assert goes_by(found) == goes_by(wanted)
            place, seconds, then = int(found.id[1:]), rng.random(), rng.randrange(4)

            def act(engine, group, members, place=place, seconds=seconds, then=then):
                lease = engine.acquire_deployment(members[place])
                if then == 0:
                    engine.rest(members[place], 5 * seconds)
                elif then == 1:
                    lease.release(completion_tokens=3)
                elif then == 2:
                    engine.observe(members[place], seconds, completion_tokens=2)

            twins.everywhere(act)
            twins.clock.advance(seconds)


def test_one_that_is_the_same_is_no_experiment():
    clock = Clock()
    engine = Engine(clock=clock, wall=clock)
    engine.contender = Contender("least_busy", {}, lambda: True)
    members = [Deployment("d0", "g", {})]
    assert type(engine.compile_group("g", members, "least-busy").only).__name__ == "LeastBusy"
    assert type(engine.compile_group("g", members, "least-busy", {"load": "tokens"}).only) is Split


def test_a_schedule_goes_on_into_an_experiment_and_out_of_it():
    clock = Clock()
    engine = Engine(clock=clock, wall=clock, rng=random.Random(1))
    members = [Deployment(f"d{n}", "g", {}) for n in range(3)]
    group = engine.compile_group("g", members, "round_robin")
    first = [engine.acquire(group).id, engine.acquire(group).id]
    engine.contender = Contender("power_of_two", {}, lambda: False)
    group = engine.compile_group("g", members, "round_robin", replaces=group)
    assert {*first, engine.acquire(group).id} == {"d0", "d1", "d2"}
    engine.contender = None
    group = engine.compile_group("g", members, "round_robin", replaces=group)
    assert [engine.acquire(group).id for _ in range(2)] == first


def test_what_only_the_experiment_asked_for_goes_with_it():
    clock = Clock()
    engine = Engine(clock=clock, wall=clock)
    members = [Deployment(f"d{n}", "g", {}) for n in range(3)]
    engine.contender = Contender("cache_aware", {}, lambda: True)
    group = engine.compile_group("g", members, "simple_shuffle")
    assert group.reads_prompts
    held = engine.acquire(group, Ask(key="a prompt"))
    assert all(member.work is not None for member in members)
    engine.contender = None
    group = engine.compile_group("g", members, "simple_shuffle", replaces=group)
    assert not group.reads_prompts
    assert all(member.work is None for member in members)
    held.release()
    lease = engine.acquire(group)
    assert lease.deployment.plain
    lease.release()
    assert [member.in_flight for member in members] == [0, 0, 0]


# -- options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_of_ours_says_which_options_it_has(strategy):
    check_options(strategy, {})
    with pytest.raises(ConfigurationError, match=f"{strategy} has no option 'no_such_option'; it has "):
        check_options(strategy, {"no_such_option": 1})


def test_a_near_miss_is_asked_about_and_a_wrong_value_refused():
    with pytest.raises(ConfigurationError, match="no option 'decai'; did you mean 'decay'"):
        check_options("peak_ewma", {"decai": 3})
    with pytest.raises(ConfigurationError, match="peak_ewma: an option has a wrong value"):
        check_options("peak_ewma", {"decay": "soon"})
    with pytest.raises(ConfigurationError, match="load is 'bytes': give tokens"):
        check_options("least_busy", {"load": "bytes"})


def test_a_users_own_strategy_takes_what_it_likes():
    from fast_router.engine import strategies

    class Mine(Strategy):
        name = "mine_for_this_test"

    register_strategy(Mine)
    try:
        check_options("mine_for_this_test", {"anything": 1})
        assert "mine_for_this_test" in known_strategies()
    finally:
        del strategies._classes["mine_for_this_test"], strategies._names["mine_for_this_test"]
