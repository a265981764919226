"""The breakers of an engine's deployments, and who of them rests: within two promises to the group.

* **Ejection cap**: never more than a share of the group rests on our word; by default all but one. A group of
  one is never emptied.
* **Panic**: when more than that are failing, nobody rests. Traffic spread over all of them finds the first that
  is back, where sending it all to the last one standing would break that one too (Envoy's panic threshold).

A rest that somebody else ordered (LiteLLM's own cooldown, another process) is taken over as it is: its deadline
opens the breaker, and the way back is the same single probe and slow start. Nothing here costs a pick anything
until a deployment has failed: a breaker is made at a deployment's first failure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fast_router.engine import slow_start
from fast_router.engine.deployment import PROBING, RESTING
from fast_router.engine.failover.breaker import Breaker, BreakerOptions, BreakerState, Change
from fast_router.engine.failover.dead_groups import DeadGroups
from fast_router.engine.failover.ejection import Ejection, EjectionOptions, in_service
from fast_router.engine.failover.failures import FailureKind

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from fast_router.engine.deployment import Deployment
    from fast_router.engine.engine import Engine
    from fast_router.engine.lease import Lease

__all__ = ["Rests"]


class Rests:
    """Breakers, and the rests that follow from them. Safe from several threads.

    Args:
        engine: Whose deployments these are.
        members: The group that a deployment belongs to, in constant time.
        options: Each breaker's options, or a function that gives them for a deployment.
        ejection: The cap.
        why: For a rest that somebody else ordered, the reason in words for an operator.
        on_change: Told about each state change. A change from open to open is a deadline that has become later.
        rng: Source of the jitter.

    Attributes:
        dead: The groups of which nobody is well.
    """

    def __init__(
        self,
        engine: Engine,
        members: Callable[[Deployment], Sequence[Deployment]],
        *,
        options: BreakerOptions | Callable[[Deployment], BreakerOptions] | None,
        ejection: EjectionOptions,
        why: Callable[[Deployment], str] | None,
        on_change: Callable[[Deployment, Change], None] | None,
        rng: random.Random | None,
    ) -> None:
        self.engine = engine
        self._members = in_service(members)
        self._options = options
        self._why = why
        self._on_change = on_change
        self._rng = rng
        self._breakers: dict[str, Breaker] = {}
        self._ejection = Ejection(engine, self._breakers, ejection)
        self._resting_by_us = False
        self._changes: list[tuple[Deployment, Change]] = []
        self.dead = DeadGroups(engine, self._breakers, lambda *change: self._changes.append(change))
        engine.on_rest.append(self._rested)

    def close(self) -> None:
        """Stop listening to the engine; what rests now rests on until its deadline."""
        self.engine.on_rest.remove(self._rested)

    # What others ask.

    def breaker(self, deployment: Deployment) -> Breaker:
        """Give the deployment's breaker; one that never failed gets a closed one."""
        with self.engine.lock:
            found = self._breakers.get(deployment.id)
            if found is None:
                options = self._options(deployment) if callable(self._options) else self._options
                found = self._breakers[deployment.id] = Breaker(options, rng=self._rng)
            return found

    def state(self, id_: str) -> BreakerState:
        """Give a deployment's state."""
        found = self._breakers.get(id_)
        return BreakerState.CLOSED if found is None else found.state

    def doubtful(self, id_: str) -> bool:
        """Tell whether a deployment has yet to prove that it is back; for `AttemptLedger`."""
        found = self._breakers.get(id_)
        return found is not None and found.state is not BreakerState.CLOSED

    def in_panic(self, name: str) -> bool:
        """Tell whether a group spreads over all its members because too many fail."""
        return name in self._ejection.panics

    def describe(self, id_: str) -> dict[str, Any]:
        """Tell why a deployment rests and until when.

        Args:
            id_: The deployment's id.

        Returns:
            ``state``, and unless closed ``reason`` and ``seconds_left`` until a probe may leave.
        """
        with self.engine.lock:
            found = self._breakers.get(id_)
            if found is None or found.state is BreakerState.CLOSED:
                return {"state": BreakerState.CLOSED.value}
            left = max(0.0, found.next_probe() - self.engine.clock())
            return {"state": found.state.value, "reason": found.reason, "seconds_left": round(left, 3)}

    def forget(self, id_: str) -> None:
        """Drop what is known about a deployment that was removed."""
        with self.engine.lock:
            self._breakers.pop(id_, None)

    # What others order.

    def wake(self, deployment: Deployment, reason: str) -> None:
        """Bring a deployment back early, for example because a health check succeeded."""
        with self.engine.lock:
            self._woken(deployment, self.breaker(deployment), reason)
        self._tell()

    def prolong(self, deployment: Deployment, seconds: float) -> bool:
        """Let a deployment that rests go on resting, because a health check has just failed.

        Otherwise the request of a user would be the probe that finds out the same.

        Args:
            deployment: Who.
            seconds: How long from now, at the least.

        Returns:
            Whether it rests at least that long: not if it does not rest, or nobody else is there to serve.
        """
        with self.engine.lock:
            breaker = self._breakers.get(deployment.id)
            if breaker is None or breaker.state is not BreakerState.OPEN:
                return False
            group = self._members(deployment)
            if all(m.held for m in group if m is not deployment):
                return False
            if not deployment.held & RESTING and self._ejection.exceeded(group):
                return False  # it serves all the same: more have failed than may rest
            now = self.engine.clock()
            if breaker.until < now + seconds:
                breaker.until = now + seconds
                self._rest(deployment, seconds)
                longer = Change(breaker.state, breaker.state, "its health check failed", breaker.until)
                self._changes.append((deployment, longer))
        self._tell()
        return True

    def _woken(self, deployment: Deployment, breaker: Breaker, reason: str, *, gently: bool = True) -> None:
        change = breaker.wake(self.engine.clock(), reason)
        if change is not None:
            self._closed(deployment, breaker, change, gently=gently)
        elif deployment.held & RESTING:
            self.engine.wake(deployment)

    def trip(self, deployment: Deployment, reason: str, seconds: float | None = None, *, silent: bool = False) -> bool:
        """Let a deployment rest if the ejection cap allows it.

        Args:
            deployment: Who.
            reason: Why, in words for an operator.
            seconds: How long; None takes the breaker's own rule.
            silent: Whether it is because nothing is heard of it: any answer ends the rest then.

        Returns:
            Whether it rests now.
        """
        with self.engine.lock:
            group = self._members(deployment)
            breaker = self.breaker(deployment)
            if breaker.state is BreakerState.CLOSED and self._ejection.full(group):
                return False
            kind = FailureKind.TIMEOUT if silent else None
            breaker.last_failure = kind or breaker.last_failure
            change = breaker.trip(self.engine.clock(), reason, seconds=seconds, failure=kind, silent=silent)
            if change is not None:
                self._opened(deployment, breaker, change)
            resting = bool(deployment.held & RESTING)
        self._tell()
        return resting

    # What follows.

    def _opened(self, deployment: Deployment, breaker: Breaker, change: Change) -> None:
        self._watch(deployment)
        group = self._members(deployment)
        self.engine.free(deployment, PROBING)
        if self._ejection.exceeded(group):
            self._ejection.panic(deployment.name, group)
        else:
            self._rest(deployment, breaker.until - self.engine.clock())
        self._ejection.somebody(group)
        self.dead.look(deployment, group)
        self._changes.append((deployment, change))

    def _closed(self, deployment: Deployment, breaker: Breaker, change: Change, *, gently: bool = True) -> None:
        group = self._members(deployment)
        self.engine.free(deployment, PROBING)
        self.dead.look(deployment, group)
        if deployment.held & RESTING:
            self.engine.wake(deployment)
        seconds = breaker.options.slow_start
        if gently and len(group) > 1 and seconds > 0 and deployment.name not in self._ejection.panics:
            slow_start.begin(self.engine, deployment, seconds)
        self._changes.append((deployment, change))
        for member, left in self._ejection.calmed(deployment.name, group):
            self._rest(member, left)

    def _rest(self, deployment: Deployment, seconds: float) -> None:
        self._resting_by_us = True
        try:
            self.engine.rest(deployment, seconds)
        finally:
            self._resting_by_us = False

    def _rested(self, deployment: Deployment) -> None:
        with self.engine.lock:
            if self._resting_by_us:
                return
            reason = "cooldown" if self._why is None else self._why(deployment)
            self.ordered(deployment, deployment.resting_until - self.engine.clock(), reason)

    def ordered(self, deployment: Deployment, seconds: float, reason: str) -> None:
        """Take over a rest that somebody else ordered: no cap applies to it.

        Args:
            deployment: Who rests.
            seconds: How long from now.
            reason: Why, in words for an operator.
        """
        with self.engine.lock:
            breaker = self.breaker(deployment)
            change = breaker.trip(self.engine.clock(), reason, seconds=max(0.0, seconds))
            self._watch(deployment)
            self._rest(deployment, seconds)
            if change is not None:
                self._changes.append((deployment, replace(change, ordered=True)))
            self._ejection.somebody(self._members(deployment))
            self.dead.look(deployment, self._members(deployment))
        self._tell()

    def _watch(self, deployment: Deployment) -> None:
        if deployment.on_lease is None:
            deployment.on_lease = self._leased
            deployment.refresh()

    def _leased(self, lease: Lease) -> None:
        """Stamp a lease with the breaker's generation and take the probe; the engine's lock is held."""
        deployment = lease.deployment
        breaker = self._breakers.get(deployment.id)
        if breaker is None:
            deployment.on_lease = None
            deployment.refresh()
            return
        lease.generation = breaker.generation
        if breaker.state is BreakerState.CLOSED:
            return
        now = self.engine.clock()
        probing, change = breaker.admit(now)
        if change is not None:
            self._changes.append((deployment, change))
        if probing and any(not m.held for m in self._members(deployment) if m is not deployment):
            # One probe is out: the others of the group serve until it is known. Where there are no others,
            # holding this one back would turn requests away that it may well serve.
            self.engine.probing(deployment, breaker.options.probe_timeout)

    def _tell(self) -> None:
        if not self._changes:
            return
        with self.engine.lock:
            changes, self._changes = self._changes, []
        if self._on_change is not None:
            for deployment, change in changes:
                self._on_change(deployment, change)
