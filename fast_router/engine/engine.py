"""The engine: who is eligible, who is in flight, and what happens when time passes.

One lock guards everything. Nothing is recomputed by a pick: a deployment that starts to rest, fills up or uses
up its minute leaves its groups' eligible sets then, and comes back when its time is up, which the next call that
reads the clock notices by a single comparison.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

from fast_router.engine.ask import Ask, Rng
from fast_router.engine.deployment import CLOSED, FULL, OPERATOR, PROBING, QOS, RESTING, SPENT, Deployment
from fast_router.engine.failover.blame import Blame, blamed
from fast_router.engine.group import ModelGroup
from fast_router.engine.learning import count_kind, learnt, observe
from fast_router.engine.lease import Lease
from fast_router.engine.slow_start import instead_of

__all__ = ["Engine"]

_NEVER = float("inf")
# A deployment beyond its quality limit is tried again after this many seconds: without calls it could not improve.
QOS_PAUSE = 10.0

ReleaseHook = Callable[[Lease, "BaseException | None", bool], None]
FirstTokenHook = Callable[[Lease], None]
DeploymentHook = Callable[[Deployment], None]
ConfiguredHook = Callable[["Engine", Deployment], None]


def _told(_id: str) -> bool:
    return False


class Engine:
    """Deployments, groups and leases of one router.

    Args:
        clock: Monotonic seconds.
        wall: Seconds since the epoch; rpm and tpm windows are its minutes.
        rng: The source of chance; given the same seed, clocks and calls, the picks are the same.

    Attributes:
        on_release: Called after each release, outside the lock: (lease, error, cancelled).
        on_first_token: Called when a stream has begun to answer, outside the lock.
        on_available: Called when a deployment became eligible or has room again, outside the lock.
        on_rest: Called when a deployment begins to rest or rests longer, outside the lock.
        untold: Tells of an id whether its rest is this process's own affair; failover knows.
        on_wake: Called when a rest was ended early, outside the lock of `wake`.
        on_configured: Called with each deployment whose configuration was read, before it is picked by it.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: Rng | None = None,
    ) -> None:
        self.clock = clock
        self.wall = wall
        self.rng: Rng = rng if rng is not None else random.Random()
        self.lock = threading.RLock()
        # A `with` on the lock costs three times as much as these two calls: leases use them.
        self._lock = self.lock.acquire
        self._unlock = self.lock.release
        self.deployments: dict[str, Deployment] = {}
        self.on_release: list[ReleaseHook] = []
        self.on_first_token: list[FirstTokenHook] = []
        self.on_available: list[DeploymentHook] = []
        self.on_rest: list[DeploymentHook] = []
        self.untold: Callable[[str], bool] = _told
        self.on_wake: list[DeploymentHook] = []
        self.on_configured: list[ConfiguredHook] = []
        # (when, serial, deployment, bit): what to free, and when. `_due` is the earliest of these and of the
        # end of the minute, so that a pick has one comparison to make.
        self._timers: list[tuple[float, int, Deployment, int]] = []
        self._serial = 0
        self._due = _NEVER
        self._minute_ends = _NEVER
        self._minute = -1
        self._used: dict[Deployment, None] = {}
        # Leases dropped by a finaliser, which may run inside our own critical section: they wait here.
        self._abandoned: deque[Lease] = deque()
        # Those of them that are closed, but of which the hooks have not heard.
        self._dropped: list[Lease] = []
        self._available: list[Deployment] = []

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
        group = ModelGroup(name, members, strategy, self.rng, options)
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
                if former is not None:
                    tier.resume(former)
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

    # -- eligibility -----------------------------------------------------------------------------

    def hold(self, deployment: Deployment, bit: int) -> None:
        """Take `deployment` out of every eligible set, for the reason `bit`; O(log n) per group."""
        with self.lock:
            if not deployment.held:
                for strategy in deployment.strategies:
                    strategy.remove(deployment)
            deployment.held |= bit

    def free(self, deployment: Deployment, bit: int) -> None:
        """Drop the reason `bit`; with no reason left it is eligible again."""
        with self.lock:
            if deployment.held & bit:
                deployment.held &= ~bit
                if bit == RESTING:
                    deployment.rested = True
                    if deployment.work is not None:
                        deployment.work.returns(self.clock())
                if not deployment.held:
                    for strategy in deployment.strategies:
                        strategy.add(deployment)
                    if self.on_available:
                        self._available.append(deployment)

    def rest(self, deployment: Deployment, seconds: float) -> None:
        """Let `deployment` rest for `seconds`; a rest that already lasts longer stays as it is."""
        if seconds <= 0:
            return
        with self.lock:
            until = self.clock() + seconds
            if deployment.held & RESTING and deployment.resting_until >= until:
                return
            deployment.resting_until = until
            if deployment.work is not None:
                deployment.work.rests(self.clock())
            self.hold(deployment, RESTING)
            self._later(until, deployment, RESTING)
        for hook in self.on_rest:
            hook(deployment)

    def probing(self, deployment: Deployment, seconds: float) -> None:
        """Hold `deployment` while a probe is out on it, for `seconds` at the most."""
        with self.lock:
            deployment.probing_until = self.clock() + seconds
            self.hold(deployment, PROBING)
            self._later(deployment.probing_until, deployment, PROBING)

    def wake(self, deployment: Deployment, *, quiet: bool = False) -> None:
        """End the rest of `deployment` now.

        Args:
            deployment: Who.
            quiet: True if that says nothing about its health (a panic uses what it has): `on_wake` is not called.
        """
        with self.lock:
            woken = bool(deployment.held & RESTING)
            deployment.resting_until = 0.0
            self.free(deployment, RESTING)
        if woken and not quiet:
            for hook in self.on_wake:
                hook(deployment)
        self._announce()

    def hold_by_operator(self, deployment: Deployment, seconds: float | None = None) -> None:
        """Keep `deployment` from being picked until `free_by_operator`; calls on it go on.

        Args:
            deployment: Who.
            seconds: Until then at the latest, None for no end.
        """
        with self.lock:
            deployment.operator_until = _NEVER if seconds is None else self.clock() + seconds
            self.hold(deployment, OPERATOR)
            if seconds is not None:
                self._later(deployment.operator_until, deployment, OPERATOR)

    def free_by_operator(self, deployment: Deployment) -> None:
        """Lift what `hold_by_operator` did; what else holds it stays."""
        with self.lock:
            deployment.operator_until = 0.0
            self.free(deployment, OPERATOR)
        self._announce()

    def soonest(self, members: Iterable[Deployment]) -> float | None:
        """Seconds until the first of `members` may be eligible again by itself, None if that is not known."""
        now = self.clock()
        with self.lock:
            waits = [self._until_free(d, now) for d in members]
        known = [wait for wait in waits if wait is not None]
        return max(0.0, min(known)) if known else None

    def _until_free(self, deployment: Deployment, now: float) -> float | None:
        if not deployment.held:
            return 0.0
        if deployment.held & ~(RESTING | SPENT | OPERATOR):
            return None
        waits = []
        if deployment.held & OPERATOR:
            if deployment.operator_until == _NEVER:
                return None
            waits.append(deployment.operator_until - now)
        if deployment.held & RESTING:
            waits.append(deployment.resting_until - now)
        if deployment.held & SPENT:
            waits.append(self._minute_ends - now)
        return max(waits)

    # -- time ------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Do what is due by now (wake the rested, close the abandoned): for readers that do not pick."""
        with self.lock:
            self._settle(self.clock())
        self._announce()

    def _settle(self, now: float) -> None:
        if now >= self._due:
            self._tick(now)

    def _set_due(self, when: float) -> None:
        self._due = when
        if self._abandoned:
            self._due = -_NEVER

    def _drain(self) -> None:
        now = self.clock()
        while self._abandoned:
            lease = self._abandoned.popleft()
            if lease._open and lease.deployment.work is not None:
                lease.deployment.work.ended(lease, now, False, lease._first_token is not None)
            if self._close(lease, now, None, 0, 0, True, False):
                self._dropped.append(lease)

    def _later(self, when: float, deployment: Deployment, bit: int) -> None:
        self._serial += 1
        heappush(self._timers, (when, self._serial, deployment, bit))
        self._set_due(min(self._due, when))

    def _tick(self, now: float) -> None:
        self._drain()
        timers = self._timers
        while timers and timers[0][0] <= now:
            _, _, deployment, bit = heappop(timers)
            # A timer of an earlier rest, probe or hold says nothing about the present one.
            if (
                (bit == RESTING and deployment.resting_until > now)
                or (bit == PROBING and deployment.probing_until > now)
                or (bit == OPERATOR and deployment.operator_until > now)
            ):
                continue
            self.free(deployment, bit)
        if now >= self._minute_ends:
            self._end_minute()
        self._set_due(min(timers[0][0] if timers else _NEVER, self._minute_ends))

    def _announce(self) -> None:
        if self._dropped:
            with self.lock:
                dropped, self._dropped = self._dropped, []
            for lease in dropped:
                for released in self.on_release:
                    released(lease, None, True)
        if self._available:
            with self.lock:
                available, self._available = self._available, []
            for deployment in available:
                for hook in self.on_available:
                    hook(deployment)

    # -- rpm and tpm -----------------------------------------------------------------------------

    @staticmethod
    def _spent(deployment: Deployment) -> bool:
        return (deployment.rpm is not None and deployment.minute_requests >= deployment.rpm) or (
            deployment.tpm is not None and deployment.minute_tokens >= deployment.tpm
        )

    def _count(self, deployment: Deployment, requests: float, tokens: float) -> None:
        if self._minute_ends == _NEVER:
            seconds = self.wall()
            self._minute_ends = self.clock() + 60.0 - seconds % 60.0
            self._set_due(min(self._due, self._minute_ends))
        self._used[deployment] = None
        deployment.minute_requests += requests
        deployment.minute_tokens += tokens
        if deployment.limited and self._spent(deployment):
            self.hold(deployment, SPENT)
        if tokens:
            for strategy in deployment.strategies:
                if strategy.follows_latency:
                    strategy.observed(deployment)

    def _end_minute(self) -> None:
        self._minute_ends = _NEVER
        used, self._used = self._used, {}
        for deployment in used:
            deployment.minute_requests = 0.0
            deployment.minute_tokens = 0.0
            deployment.outside_requests = 0.0
            deployment.outside_tokens = 0.0
            if not self._spent(deployment):
                self.free(deployment, SPENT)
            for strategy in deployment.strategies:
                if strategy.follows_latency:
                    strategy.observed(deployment)
