"""Group, leases and cooldown under any order of events (hypothesis), against a plain model."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from fast_router.engine import Ask, Deployment, Engine
from fast_router.engine.strategies.split import Contender
from tests.engine.contract import STRATEGIES, Clock


class GroupMachine(RuleBasedStateMachine):
    leases = Bundle("leases")

    @initialize(
        strategy=st.sampled_from(STRATEGIES),
        contender=st.sampled_from([None, *STRATEGIES]),
        limits=st.lists(
            st.fixed_dictionaries(
                {
                    "max_parallel": st.sampled_from([None, None, 1, 3]),
                    "order": st.sampled_from([None, None, 1, 2]),
                    "rpm": st.sampled_from([None, None, 4]),
                    "weight": st.sampled_from([None, 1, 5]),
                }
            ),
            min_size=1,
            max_size=6,
        ),
        seed=st.integers(0, 2**16),
    )
    def build(self, strategy, contender, limits, seed):
        self.clock = Clock()
        self.engine = Engine(clock=self.clock, wall=self.clock, rng=random.Random(seed))
        self.members = [Deployment(f"d{i}", "g", {}, **limit) for i, limit in enumerate(limits)]
        self.engine.deployments.update({d.id: d for d in self.members})
        self.strategy = strategy
        self.tried = False
        if contender is not None:
            self.engine.contender = Contender(contender, {}, lambda: self.tried)
        self.limited = not {strategy, contender}.isdisjoint({"latency_based", "cost_based", "usage_based"})
        self.group = self.engine.compile_group("g", self.members, strategy)
        self.open: dict[str, int] = {d.id: 0 for d in self.members}
        self.rests: dict[str, float] = {}
        self.minute: dict[str, int] = {}
        self.minute_ends: float | None = None

    # The model: who may be picked, worked out from scratch.
    def _may(self, deployment: Deployment) -> bool:
        if self.rests.get(deployment.id, 0) > self.clock.now:
            return False
        if deployment.max_parallel is not None and self.open[deployment.id] >= deployment.max_parallel:
            return False
        spent = self.minute.get(deployment.id, 0) if self.minute_ends and self.clock.now < self.minute_ends else 0
        return not (self.limited and deployment.rpm is not None and spent >= deployment.rpm)

    @rule(
        target=leases,
        exclude=st.sets(st.sampled_from([f"d{i}" for i in range(6)]), max_size=3),
        tried=st.booleans(),
    )
    def acquire(self, exclude, tried):
        self.tried = tried
        allowed = [d for d in self.members if self._may(d) and d.id not in exclude]
        lease = self.engine.acquire(self.group, Ask(exclude) if exclude else None)
        if not allowed:
            assert lease is None
            return []
        assert lease is not None
        orders = [d.order for d in allowed if d.order is not None]
        best = [d for d in allowed if d.order == min(orders)] if orders else allowed
        assert lease.deployment in best
        self.open[lease.id] += 1
        if self.limited and lease.deployment.rpm is not None:
            if self.minute_ends is None or self.clock.now >= self.minute_ends:
                self.minute = {}
                self.minute_ends = self.clock.now + 60 - self.clock.now % 60
            self.minute[lease.id] = self.minute.get(lease.id, 0) + 1
        return lease

    @rule(lease=consumes(leases), how=st.sampled_from(["ok", "error", "cancel", "abandon"]), tokens=st.integers(0, 9))
    def end(self, lease, how, tokens):
        if lease == []:
            return
        if how == "abandon":
            lease.abandon()
            self.engine.settle()
        else:
            lease.release(ValueError() if how == "error" else None, cancelled=how == "cancel", completion_tokens=tokens)
        self.open[lease.id] -= 1
        assert lease.release() is False

    @rule(index=st.integers(0, 5), seconds=st.sampled_from([0.5, 3, 30]))
    def rest(self, index, seconds):
        member = self.members[index % len(self.members)]
        self.engine.rest(member, seconds)
        self.rests[member.id] = max(self.rests.get(member.id, 0), self.clock.now + seconds)

    @rule(index=st.integers(0, 5))
    def wake(self, index):
        member = self.members[index % len(self.members)]
        self.engine.wake(member)
        self.rests.pop(member.id, None)

    @rule(seconds=st.sampled_from([0.1, 1, 7, 61]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def recompile(self):
        self.group = self.engine.compile_group("g", self.members, self.strategy, replaces=self.group)

    @invariant()
    def in_flight_is_open_leases(self):
        if hasattr(self, "engine"):
            assert {d.id: d.in_flight for d in self.members} == self.open

    @invariant()
    def the_eligible_sets_hold_exactly_the_eligible(self):
        if hasattr(self, "engine"):
            self.engine.settle()
            ready = {d.id for tier in self.group.tiers.values() for d in tier.ready}
            assert ready == {d.id for d in self.members if self._may(d)}


TestGroupMachine = GroupMachine.TestCase
TestGroupMachine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
