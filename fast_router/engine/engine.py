"""The engine: deployments, groups and leases of one router, under one lock.

Who may be picked is kept up to date as it changes (`eligibility`), so that a pick recomputes nothing.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fast_router.engine.ask import Ask, Rng
from fast_router.engine.deployment import CLOSED, FULL, QOS, SPENT, Deployment
from fast_router.engine.eligibility import Eligibility
from fast_router.engine.failover.blame import Blame, blamed
from fast_router.engine.group import ModelGroup
from fast_router.engine.learning import count_kind, learnt, observe
from fast_router.engine.lease import Lease
from fast_router.engine.slow_start import instead_of
from fast_router.engine.strategies.split import Contender

__all__ = ["Engine"]

_NEVER = float("inf")
# A deployment beyond its quality limit is tried again after this many seconds: without calls it could not improve.
QOS_PAUSE = 10.0

ReleaseHook = Callable[[Lease, "BaseException | None", bool], None]
FirstTokenHook = Callable[[Lease], None]
ConfiguredHook = Callable[["Engine", Deployment], None]


def _told(_id: str) -> bool:
    return False


class Engine(Eligibility):
    """Deployments, groups and leases of one router.

    Args:
        clock: Monotonic seconds.
        wall: Seconds since the epoch; rpm and tpm windows are its minutes.
        rng: The source of chance; given the same seed, clocks and calls, the picks are the same.

    Attributes:
        on_release: Called after each release, outside the lock: (lease, error, cancelled).
        on_first_token: Called when a stream has begun to answer, outside the lock.
        untold: Tells of an id whether its rest is this process's own affair; failover knows.
        on_configured: Called with each deployment whose configuration was read, before it is picked by it.
        contender: The strategy that groups compiled from now on have beside their own, None for none.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: Rng | None = None,
    ) -> None:
        super().__init__(clock, wall)
        self.rng: Rng = rng if rng is not None else random.Random()
        # A `with` on the lock costs three times as much as these two calls: leases use them.
        self._lock = self.lock.acquire
        self._unlock = self.lock.release
        self.deployments: dict[str, Deployment] = {}
        self.on_release: list[ReleaseHook] = []
        self.on_first_token: list[FirstTokenHook] = []
        self.on_configured: list[ConfiguredHook] = []
        self.untold: Callable[[str], bool] = _told
        self.contender: Contender | None = None
        # Leases dropped by a finaliser, which may run inside our own critical section: they wait here.
        self._abandoned: deque[Lease] = deque()
        # Those of them that are closed, but of which the hooks have not heard.
        self._dropped: list[Lease] = []

    # -- membership ------------------------------------------------------------------------------

    def compile_group(
        self,
        name: str,
        members: Sequence[Deployment],
        strategy: str,
        options: Mapping[str, Any] | None = None,
        *,
        replaces: ModelGroup | None = None,
    ) -> ModelGroup:
        """Build a group over `members` and keep its eligible sets from now on.

        Raises:
            UnknownStrategyError: Nobody registered `strategy`; nothing has changed then.
        """
        group = ModelGroup(name, members, strategy, self.rng, options, self.contender)
        with self.lock:
            for order, tier in group.tiers.items():
                for rank, deployment in enumerate(tier.members):
                    deployment.rank = rank
                    deployment.strategies += (tier,)
                    if tier.follows_load:
                        deployment.counters += (tier,)
                    if tier.respects_limits and (deployment.rpm is not None or deployment.tpm is not None):
                        deployment.limited = True
                    deployment.refresh()
                    if not deployment.held:
                        tier.add(deployment)
                former = replaces.tiers.get(order) if replaces is not None else None
                for part in former.parts() if former is not None else ():
                    tier.resume(part)
            for deployment in group.members:
                # A limit of 0 is used up from the beginning.
                if deployment.limited and self._spent(deployment):
                    self.hold(deployment, SPENT)
            if replaces is not None:
                self.drop_group(replaces)
        return group

    def drop_group(self, group: ModelGroup) -> None:
        """Stop keeping the eligible sets of `group`."""
        tiers = set(group.tiers.values())
        with self.lock:
            for deployment in group.members:
                deployment.strategies = tuple(s for s in deployment.strategies if s not in tiers)
                deployment.counters = tuple(s for s in deployment.counters if s not in tiers)
                if not any(strategy.reads_prompts for strategy in deployment.strategies):
                    deployment.work = None
                deployment.refresh()

    def apply_limits(self, deployment: Deployment) -> None:
        """Hold or free `deployment` according to limits that its configuration has just changed."""
        with self.lock:
            limit = deployment.max_parallel
            for bit, applies in (
                (CLOSED, limit == 0),
                (FULL, limit is not None and 0 < limit <= deployment.in_flight),
            ):
                if applies:
                    self.hold(deployment, bit)
                else:
                    self.free(deployment, bit)
            deployment.limited = (deployment.rpm is not None or deployment.tpm is not None) and any(
                strategy.respects_limits for strategy in deployment.strategies
            )
            if not deployment.limited:
                self.free(deployment, SPENT)
            elif self._spent(deployment):
                self.hold(deployment, SPENT)
            deployment.refresh()
        for hook in self.on_configured:
            hook(self, deployment)

    # -- leases ----------------------------------------------------------------------------------

    def acquire(self, group: ModelGroup, ask: Ask | None = None) -> Lease | None:
        """Pick from `group` and take a lease; None if nobody is eligible."""
        now = self.clock()
        try:
            # Inside the block: Ctrl-C right after it must not leave the lock taken.
            self._lock()
            if now >= self._due:
                self._tick(now)
            # One tier is the rule: spare it the walk.
            tier = group.only
            if tier is None:
                deployment = group.pick(now, ask)
            else:
                if tier.takes:
                    deployment = tier.take(ask)
                    if deployment is not None:
                        return Lease(self, deployment, now)
                deployment = tier.pick(now, ask)
            if deployment is None:
                return None
            if deployment.plain:
                deployment.in_flight += 1
                deployment.picks += 1
                return Lease(self, deployment, now)
            if deployment.slow_until:
                deployment = instead_of(self, deployment, group, now, ask)
            return self._lease(deployment, now, ask)
        finally:
            self._unlock()

    def acquire_from(self, group: ModelGroup, candidates: Sequence[Deployment], ask: Ask | None = None) -> Lease | None:
        """As `acquire`, among candidates that somebody else filtered (they need not be eligible here)."""
        now = self.clock()
        with self.lock:
            self._settle(now)
            deployment = group.pick_from(candidates, now, ask)
            if deployment is None:
                return None
            if deployment.slow_until:
                deployment = instead_of(self, deployment, group, now, ask, candidates)
            return self._lease(deployment, now, ask)

    def acquire_deployment(self, deployment: Deployment, ask: Ask | None = None) -> Lease:
        """A lease on a deployment that somebody else picked."""
        now = self.clock()
        with self.lock:
            self._settle(now)
            return self._lease(deployment, now, ask)

    def peek(self, group: ModelGroup, ask: Ask | None = None) -> Deployment | None:
        """A pick without a lease."""
        now = self.clock()
        try:
            self._lock()
            if now >= self._due:
                self._tick(now)
            return group.pick(now, ask)
        finally:
            self._unlock()

    def _lease(self, deployment: Deployment, now: float, ask: Ask | None) -> Lease:
        in_flight = deployment.in_flight = deployment.in_flight + 1
        deployment.picks += 1
        lease = Lease(self, deployment, now)
        if deployment.work is not None:
            deployment.work.begins(lease, ask, now)
        for strategy in deployment.counters:
            strategy.moved(deployment)
        if deployment.max_parallel is not None and in_flight >= deployment.max_parallel:
            self.hold(deployment, FULL)
        if deployment.limited:
            self._count(deployment, 1.0, 0.0)
        if deployment.on_lease is not None:
            deployment.on_lease(lease)
        return lease

    def release(
        self,
        lease: Lease,
        error: BaseException | None = None,
        completion_tokens: float = 0,
        total_tokens: float = 0,
        cancelled: bool = False,  # noqa: FBT001, FBT002, RUF100 - on the hot path, positionally
        observe: bool = True,  # noqa: FBT001, FBT002, RUF100
        prompt_tokens: float = 0,
        cached_tokens: float | None = None,
    ) -> bool:
        """Close a lease; see `Lease.release`."""
        now = self.clock()
        try:
            self._lock()
            work = lease.deployment.work
            if work is not None and lease._open:
                failed = error is not None and observe and not cancelled
                spoken = lease._first_token is not None
                work.ended(lease, now, failed, spoken, prompt_tokens, cached_tokens)
            closed = self._close(lease, now, error, completion_tokens, total_tokens, cancelled, observe)
            if now >= self._due:
                self._tick(now)
        finally:
            self._unlock()
        if closed and self.on_release:
            for hook in self.on_release:
                hook(lease, error, cancelled)
        if self._available or self._dropped:
            self._announce()
        return closed

    def first_token(self, lease: Lease) -> None:
        """Note that a lease's stream has begun to answer; see `Lease.first_token`."""
        with self.lock:
            if lease._first_token is not None:
                return
            lease._first_token = self.clock() - lease.started
            if not lease._open:
                return
            deployment = lease.deployment
            deployment.talking += 1
            if deployment.work is not None:
                deployment.work.spoke(lease, self.clock())
                for strategy in deployment.counters:
                    strategy.moved(deployment)
        for hook in self.on_first_token:
            hook(lease)

    def disown(self, lease: Lease, *, elsewhere: bool) -> None:
        """Take back what a lease has used up; see `Lease.disown`."""
        deployment = lease.deployment
        with self.lock:
            if not lease._open:
                return
            if deployment.limited:
                self._count(deployment, -1.0, 0.0)
                if deployment.held & SPENT and not self._spent(deployment):
                    self.free(deployment, SPENT)
            if elsewhere and deployment.work is not None:
                deployment.work.withdrawn(lease, self.clock())
        if elsewhere:
            self.release(lease, cancelled=True, observe=False)

    def abandon(self, lease: Lease) -> None:
        """Close a lease from a finaliser: lock-free, done at the next call; counts as cancelled."""
        if lease._open:
            self._abandoned.append(lease)
            # Makes the next call tick. Whoever stores a later time under the lock looks for abandoned leases
            # after storing, so this store is never lost.
            self._due = -_NEVER

    def _close(
        self,
        lease: Lease,
        now: float,
        error: BaseException | None,
        completion_tokens: float,
        total_tokens: float,
        cancelled: bool,
        learn: bool,
    ) -> bool:
        if not lease._open:
            return False
        lease._open = False
        deployment = lease.deployment
        deployment.in_flight -= 1
        if lease._first_token is not None:
            deployment.talking -= 1
        if deployment.held & FULL and (
            deployment.max_parallel is None or deployment.in_flight < deployment.max_parallel
        ):
            self.free(deployment, FULL)
        if not cancelled:
            if error is None:
                deployment.successes += 1
            else:
                count_kind(deployment, error)
                lease.blame = blamed(error, lease)
                if lease.blame is Blame.DEPLOYMENT:
                    deployment.failures += 1
                    deployment.last_failure = type(error).__name__
                    lease.before = learnt(deployment, now)
                else:
                    learn = False
            if learn:
                observe(deployment, now, now - lease.started, error, completion_tokens, lease._first_token)
                self._learnt(deployment)
        for strategy in deployment.counters:
            strategy.moved(deployment)
        if total_tokens:
            self._count(deployment, 0.0, total_tokens)
        return True

    def observe(
        self,
        deployment: Deployment,
        seconds: float,
        *,
        completion_tokens: float = 0,
        total_tokens: float = 0,
        first_token: float | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Learn from an attempt whose lease was released with `observe=False`, or that had none.

        Args:
            deployment: Who answered.
            seconds: The whole attempt.
            completion_tokens: Tokens of the answer.
            total_tokens: Prompt and answer together.
            first_token: Seconds to the first token of a stream.
            error: What failed.
        """
        now = self.clock()
        with self.lock:
            self._settle(now)
            observe(deployment, now, seconds, error, completion_tokens, first_token)
            self._learnt(deployment)
            if total_tokens:
                self._count(deployment, 0.0, total_tokens)

    def record_tokens(self, deployment: Deployment, total_tokens: float) -> None:
        """Count tokens that became known after the lease was released (the end of a stream)."""
        with self.lock:
            self._settle(self.clock())
            self._count(deployment, 0.0, total_tokens)

    def _learnt(self, deployment: Deployment) -> None:
        for strategy in deployment.strategies:
            if strategy.follows_latency:
                strategy.observed(deployment)
        metric = deployment.qos_metric
        if metric is not None and deployment.qos_limit is not None:
            # Time to first token, the whole answer, or the time a token: all in seconds.
            value = {
                "ttft": deployment.first_token,
                "latency": deployment.ewma,
                "performance": deployment.latency,
            }.get(metric)
            if value is not None and value > deployment.qos_limit:
                self.hold(deployment, QOS)
                self._later(self.clock() + QOS_PAUSE, deployment, QOS)

    # -- leases that were dropped ----------------------------------------------------------------

    def _set_due(self, when: float) -> None:
        self._due = when
        if self._abandoned:
            self._due = -_NEVER

    def _tick(self, now: float) -> None:
        self._drain()
        super()._tick(now)

    def _drain(self) -> None:
        now = self.clock()
        while self._abandoned:
            lease = self._abandoned.popleft()
            if lease._open and lease.deployment.work is not None:
                lease.deployment.work.ended(lease, now, False, lease._first_token is not None)
            if self._close(lease, now, None, 0, 0, True, False):
                self._dropped.append(lease)

    def _announce(self) -> None:
        if self._dropped:
            with self.lock:
                dropped, self._dropped = self._dropped, []
            for lease in dropped:
                for released in self.on_release:
                    released(lease, None, True)
        super()._announce()
