"""Who may be picked: what holds a deployment back, until when, and what happens when that time comes.

Nothing is looked up by a pick: a deployment that starts to rest, fills up or uses up its minute leaves its groups'
eligible sets then, and comes back when its time is up, which the next call that reads the clock notices by a single
comparison.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from fast_router.engine.deployment import OPERATOR, PROBING, RESTING, SPENT, Deployment

__all__ = ["Eligibility"]

_NEVER = float("inf")

DeploymentHook = Callable[[Deployment], None]


class Eligibility:
    """What holds the deployments of one engine, on its clocks and under its lock.

    Args:
        clock: Monotonic seconds.
        wall: Seconds since the epoch; rpm and tpm windows are its minutes.

    Attributes:
        on_available: Called when a deployment became eligible or has room again, outside the lock.
        on_rest: Called when a deployment begins to rest or rests longer, outside the lock.
        on_wake: Called when a rest was ended early, outside the lock of `wake`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.wall = wall
        self.lock = threading.RLock()
        self.on_available: list[DeploymentHook] = []
        self.on_rest: list[DeploymentHook] = []
        self.on_wake: list[DeploymentHook] = []
        # (when, serial, deployment, bit): what to free, and when. `_due` is the earliest of these and of the
        # end of the minute, so that a pick has one comparison to make.
        self._timers: list[tuple[float, int, Deployment, int]] = []
        self._serial = 0
        self._due = _NEVER
        self._minute_ends = _NEVER
        self._used: dict[Deployment, None] = {}
        self._available: list[Deployment] = []

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

    @property
    def anybody_timed(self) -> bool:
        """Whether anybody may be resting, probed or held until some time; False is certain, as of `settle`."""
        return bool(self._timers)

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

    def _later(self, when: float, deployment: Deployment, bit: int) -> None:
        self._serial += 1
        heappush(self._timers, (when, self._serial, deployment, bit))
        self._set_due(min(self._due, when))

    def _tick(self, now: float) -> None:
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
