"""What the outcome of one attempt means for the next ones: the breakers of an engine's deployments.

`FailoverPolicy` listens to an `Engine`. A failed attempt goes to its deployment's breaker; a breaker that opens
lets the deployment rest, within two promises to the group:

* **Ejection cap**: never more than a share of the group rests on our word; by default all but one. A group of
  one is never emptied.
* **Panic**: when more than that are failing, nobody rests. Traffic spread over all of them finds the first that
  is back, where sending it all to the last one standing would break that one too (Envoy's panic threshold).

A rest that somebody else ordered (LiteLLM's own cooldown, another process) is taken over as it is: its deadline
opens the breaker, and the way back is the same single probe and slow start. Nothing here costs a pick anything
until a deployment has failed: a breaker is made at a deployment's first failure.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fast_router.engine import slow_start
from fast_router.engine.deployment import CLOSED, OPERATOR, PROBING, RESTING
from fast_router.engine.failover.blame import Blame, Case, Charge, blame
from fast_router.engine.failover.breaker import Breaker, BreakerOptions, BreakerState, Change
from fast_router.engine.failover.dead_groups import DeadGroups
from fast_router.engine.failover.ejection import EjectionOptions, OvertakenTimeoutError, SilentTimeoutError
from fast_router.engine.failover.evidence import Evidence
from fast_router.engine.failover.failures import FailureKind, certain, classify
from fast_router.engine.failover.ledger import BudgetOptions, CallersPart, CallersShares, RetryBudget
from fast_router.engine.failover.outliers import OutlierDetector, OutlierOptions
from fast_router.engine.failover.retry_after import retry_after_from_error
from fast_router.engine.failover.silence import OpenCall, SilenceOptions, Silences
from fast_router.engine.learning import unlearn

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from fast_router.engine.deployment import Deployment
    from fast_router.engine.engine import Engine
    from fast_router.engine.lease import Lease

__all__ = ["EjectionOptions", "FailoverPolicy", "OvertakenTimeoutError", "SilentTimeoutError"]

# A deadline that moves by less than this many seconds is the same one, read twice.
_LATER = 0.5


def _in_service(members: Callable[[Deployment], Sequence[Deployment]]) -> Callable[[Deployment], Sequence[Deployment]]:
    """Count those whom their operator holds as not there: what is left of a group must not be emptied either."""

    def serving(deployment: Deployment) -> Sequence[Deployment]:
        group = members(deployment)
        if any(member.held & (OPERATOR | CLOSED) for member in group):
            return [member for member in group if member is deployment or not member.held & (OPERATOR | CLOSED)]
        return group

    return serving


class FailoverPolicy:
    """The breakers, retry budgets and outlier detectors of one engine. Safe from several threads.

    Args:
        engine: Whose deployments these are; the policy registers itself for its releases and rests.
        members: The group that a deployment belongs to, in constant time.
        options: Each breaker's options, or a function that gives them for a deployment.
        ejection: The cap.
        budget: The retry budget of each group, None for no bound.
        outliers: The outlier rules, None for none.
        silence: When a deployment counts as silent, None for never.
        calls: A deployment's calls under way; see `Silences`.
        decides: For a failure, whether the breaker decides (True) or somebody else does (False, then only
            rests from outside open it). None: the breaker always decides.
        retry_after: For a failure, the seconds for which its provider asks to stay away. None: what its headers say.
        why: For a rest that somebody else ordered, the reason in words for an operator.
        on_change: Told about each state change: the place for a log line. A change from open to open is a
            deadline that has become later.
        wall_clock: Unix time in seconds, for the dates in Retry-After headers.
        rng: Source of the jitter.

    Attributes:
        dead: The groups of which nobody is well.
    """

    def __init__(
        self,
        engine: Engine,
        members: Callable[[Deployment], Sequence[Deployment]],
        *,
        options: BreakerOptions | Callable[[Deployment], BreakerOptions] | None = None,
        ejection: EjectionOptions | None = None,
        budget: BudgetOptions | None = None,
        outliers: OutlierOptions | None = None,
        silence: SilenceOptions | None = None,
        calls: Callable[[Deployment], Iterable[OpenCall]] | None = None,
        decides: Callable[[Deployment, BaseException, FailureKind], bool] | None = None,
        retry_after: Callable[[Deployment, BaseException], float | None] | None = None,
        why: Callable[[Deployment], str] | None = None,
        on_change: Callable[[Deployment, Change], None] | None = None,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self.engine = engine
        self.ejection = ejection or EjectionOptions()
        self._members = _in_service(members)
        self._options = options
        self._budget_options = budget
        self._budgets: dict[str, RetryBudget] = {}
        self._reserves: dict[str, RetryBudget] = {}
        self._shares = CallersShares()
        self._outlier_options = outliers
        self._detectors: dict[str, OutlierDetector] = {}
        self._decides = decides
        self._retry_after = retry_after or self._from_headers
        self._why = why
        self._on_change = on_change
        self._wall_clock = wall_clock
        self._rng = rng
        self._breakers: dict[str, Breaker] = {}
        self._evidence = Evidence(self.breaker, self._members, self._take_back)
        self._panics: set[str] = set()
        self._resting_by_us = False
        self._changes: list[tuple[Deployment, Change]] = []
        self.dead = DeadGroups(engine, self._breakers, lambda *change: self._changes.append(change))
        engine.on_release.append(self._released)
        engine.on_rest.append(self._rested)
        engine.untold = self.disputes
        self._silences = (
            None if silence is None else Silences(engine, members, self.doubtful, self._fell_silent, silence, calls)
        )

    def close(self) -> None:
        """Stop listening to the engine; what rests now rests on until its deadline."""
        self.engine.on_release.remove(self._released)
        self.engine.on_rest.remove(self._rested)
        if self._silences is not None:
            self._silences.close()

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
        return name in self._panics

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

    def budget(self, name: str, caller: Hashable | None = None) -> RetryBudget | None:
        """Give a group's retry budget, or the share of one caller in retries that no deployment is to blame for.

        Args:
            name: The group.
            caller: Whose share, None for the group's own budget.

        Returns:
            The budget, None if retries are not bounded.
        """
        options = self._budget_options
        if options is None:
            return None
        if caller is not None:
            return self._shares.of(name, caller, options)
        found = self._budgets.get(name)
        if found is None:
            found = self._budgets.setdefault(name, RetryBudget(options))
        return found

    def budget_for(self, name: str, caller: Hashable) -> CallersPart | None:
        """Give a group's retry budget as a known caller spends it, None if retries are not bounded."""
        options, group = self._budget_options, self.budget(name)
        if options is None or group is None:
            return None
        reserve = self._reserves.get(name)
        if reserve is None:
            reserve = self._reserves.setdefault(name, RetryBudget(replace(options, share=0.0)))
        return CallersPart(group, self._shares.of(name, caller, options), reserve)

    def forget(self, id_: str) -> None:
        """Drop what is known about a deployment that was removed."""
        with self.engine.lock:
            self._breakers.pop(id_, None)

    # What happens.

    def _from_headers(self, _deployment: Deployment, error: BaseException) -> float | None:
        return retry_after_from_error(error, wall_clock=self._wall_clock)

    def failed(self, deployment: Deployment, error: BaseException, *, generation: int | None = None) -> None:
        """Note a failure on a deployment, for attempts that have no lease.

        Args:
            deployment: Who failed.
            error: What it raised.
            generation: The breaker's generation when the attempt began; None means now.
        """
        with self.engine.lock:
            breaker = self.breaker(deployment)
            if blame(error) is Blame.DEPLOYMENT:
                self._failure(deployment, breaker, error, breaker.generation if generation is None else generation)
        self._tell()

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
            if not deployment.held & RESTING and self._ejected(group) > self.ejection.most(len(group)):
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
            if breaker.state is BreakerState.CLOSED and self._ejected(group) >= self.ejection.most(len(group)):
                return False
            kind = FailureKind.TIMEOUT if silent else None
            breaker.last_failure = kind or breaker.last_failure
            change = breaker.trip(self.engine.clock(), reason, seconds=seconds, failure=kind, silent=silent)
            if change is not None:
                self._opened(deployment, breaker, change)
            resting = bool(deployment.held & RESTING)
        self._tell()
        return resting

    def _fell_silent(self, deployment: Deployment, reason: str) -> None:
        if self._decides is None or self._decides(deployment, SilentTimeoutError(), FailureKind.TIMEOUT):
            if callable(self._options):
                self.breaker(deployment).configure(self._options(deployment))
            self.trip(deployment, reason, silent=True)

    def _released(self, lease: Lease, error: BaseException | None, cancelled: bool) -> None:
        deployment = lease.deployment
        breaker = self._breakers.get(deployment.id)
        if self._outlier_options is not None and not cancelled:
            self._judge(lease, error)
        if breaker is None and error is None:
            return
        case = None if error is None else getattr(lease, "case", None)
        if case is not None:
            case.counted = False
        with self.engine.lock:
            if breaker is None:
                breaker = self.breaker(deployment)
            if cancelled:
                self._cancelled(deployment, breaker, lease.generation)
            elif error is None:
                change = breaker.success(self.engine.clock(), lease.generation)
                if change is not None:
                    self._closed(deployment, breaker, change)
            elif lease.blame is not Blame.DEPLOYMENT:
                self._cancelled(deployment, breaker, lease.generation)
            else:
                self._failure(deployment, breaker, error, lease.generation, lease)
        self._tell()

    def overtaken(self, lease: Lease) -> None:
        """Note that another deployment answered first although it was asked later (a hedge won).

        It counts as a timeout: the caller has stopped waiting for it. One such attempt is chance, several in a
        row without an answer in between are a server that hangs, which nobody would notice otherwise, because
        the attempts that would run into their timeout are cancelled. A probe that is overtaken has failed.

        Args:
            lease: The slower attempt's, still open.
        """
        with self.engine.lock:
            error = OvertakenTimeoutError()
            self._failure(lease.deployment, self.breaker(lease.deployment), error, lease.generation, lease)
        self._tell()

    def first_token(self, lease: Lease) -> None:
        """Note that a stream has begun to answer: enough for a probe, whose stream may last minutes."""
        breaker = self._breakers.get(lease.deployment.id)
        if not lease.open or breaker is None or breaker.state is BreakerState.CLOSED:
            return
        with self.engine.lock:
            change = breaker.success(self.engine.clock(), lease.generation)
            if change is not None:
                self._closed(lease.deployment, breaker, change)
        self._tell()

    def _failure(
        self,
        deployment: Deployment,
        breaker: Breaker,
        error: BaseException,
        generation: int,
        lease: Lease | None = None,
    ) -> None:
        """Take in a failure that speaks against its deployment, taken by itself."""
        kind = classify(error)
        now = self.engine.clock()
        case: Case | None = getattr(lease, "case", None)
        standing = None if case is None else case.charge
        if callable(self._options):
            breaker.configure(self._options(deployment))
        if not self._evidence.hear(case, deployment, kind, now, certain=certain(error)):
            self._unlearn(deployment, lease)
            self._cancelled(deployment, breaker, generation)
            return
        breaker.last_failure = kind
        if case is not None:
            case.counted = True
            if case.charge is not None and case.charge is not standing:
                case.charge.learnt = getattr(lease, "before", None)
        if self._decides is not None and not self._decides(deployment, error, kind):
            if breaker.state is BreakerState.HALF_OPEN and generation == breaker.generation:
                # Whoever decides has let it come back; one failure more is theirs to count.
                self._woken(deployment, breaker, "cooldown over")
            if breaker.state is not BreakerState.OPEN:
                return
        self._opens(deployment, breaker, kind, generation, self._retry_after(deployment, error))
        self.charged(case, deployment)

    def _opens(
        self, deployment: Deployment, breaker: Breaker, kind: FailureKind, generation: int, retry_after: float | None
    ) -> None:
        now = self.engine.clock()
        change = breaker.failure(now, kind, generation, retry_after, may_open=self.may_rest(deployment))
        if change is not None:
            self._opened(deployment, breaker, change)
        elif (
            breaker.state is BreakerState.OPEN
            and deployment.held & RESTING
            and breaker.until > deployment.resting_until + _LATER
        ):
            self._rest(deployment, breaker.until - now)
            longer = Change(breaker.state, breaker.state, "a longer rest was asked for", breaker.until, kind)
            self._changes.append((deployment, longer))

    # What failures prove.

    def may_rest(self, deployment: Deployment) -> bool:
        """Tell whether what speaks against a deployment is enough to let it rest beside those that rest already."""
        with self.engine.lock:
            breaker = self.breaker(deployment)
            if breaker.state is not BreakerState.CLOSED:
                return True
            resting = self._ejected(self._members(deployment))
            needed = breaker.options.consecutive_server
            return self._evidence.may_rest(deployment, resting, needed, self.engine.clock())

    @property
    def disputed(self) -> bool:
        """Whether somebody rests on the word of one caller; `appeal` is only worth asking then."""
        return bool(self._evidence.alone)

    def disputes(self, id_: str) -> bool:
        """Tell whether a deployment rests, or is about to, on the word of one caller: nobody else is told then."""
        found = self._breakers.get(id_)
        return found is not None and found.testimony.disputed

    def appeal(self, name: str | None, caller: Hashable | None) -> None:
        """Wake those of a group that rest on the word of another caller: this one finds out for itself.

        Args:
            name: The group; None for any, where it is not known which one will be asked.
            caller: Who asks; None for one that is not known.
        """
        with self.engine.lock:
            names = self._evidence.appeal(name, caller)
            for deployment in list(self.engine.deployments.values()) if names else ():
                breaker = self._breakers.get(deployment.id)
                if deployment.name in names and breaker is not None and breaker.testimony.disputed:
                    self._woken(deployment, breaker, "another caller asks", gently=False)
        self._tell()

    def charged(self, case: Case | None, deployment: Deployment) -> None:
        """Note that a request's charge has opened its deployment's breaker, if it has; see `Charge.opened`."""
        charge = None if case is None else case.charge
        breaker = self._breakers.get(deployment.id)
        if charge is not None and charge.deployment is deployment and charge.opened is None and breaker is not None:
            charge.opened = breaker.generation if breaker.state is BreakerState.OPEN else None

    def vindicated(self, case: Case, by: Deployment) -> None:
        """Note that a request that had failed was answered elsewhere: its failures were not its own."""
        with self.engine.lock:
            found = self._evidence.vindicated(case, by)
            if found is not None:
                deployment, kind = found
                breaker = self.breaker(deployment)
                self._opens(deployment, breaker, kind, breaker.generation, None)
        self._tell()

    def _take_back(self, charge: Charge) -> None:
        deployment = charge.deployment
        breaker = self.breaker(deployment)
        if charge.learnt is not None:
            unlearn(deployment, charge.learnt)
        detector = self._detectors.get(deployment.name)
        if detector is not None:
            detector.take_back(deployment.id)
        change = breaker.take_back(self.engine.clock(), charge.kind, charge.before, charge.opened)
        if change is not None:
            self._closed(deployment, breaker, change, gently=False)
        if charge.on_take_back is not None:
            charge.on_take_back()

    def _unlearn(self, deployment: Deployment, lease: Lease | None) -> None:
        before = getattr(lease, "before", None)
        if before is not None:
            unlearn(deployment, before)
        detector = self._detectors.get(deployment.name)
        if detector is not None:
            detector.take_back(deployment.id)

    def _cancelled(self, deployment: Deployment, breaker: Breaker, generation: int) -> None:
        if breaker.state is BreakerState.HALF_OPEN and generation == breaker.generation:
            breaker.cancelled(generation)
            self.engine.free(deployment, PROBING)

    def _opened(self, deployment: Deployment, breaker: Breaker, change: Change) -> None:
        self._watch(deployment)
        group = self._members(deployment)
        self.engine.free(deployment, PROBING)
        if self._ejected(group) <= self.ejection.most(len(group)):
            self._rest(deployment, breaker.until - self.engine.clock())
        elif self.ejection.panic:
            self._panics.add(deployment.name)
            for member in group:
                self.engine.free(member, PROBING)
                if member.held & RESTING:
                    self.engine.wake(member, quiet=True)
        self._somebody(group)
        self._evidence.opened(deployment, group)
        self.dead.look(deployment, group)
        self._changes.append((deployment, change))

    def _closed(self, deployment: Deployment, breaker: Breaker, change: Change, *, gently: bool = True) -> None:
        group = self._members(deployment)
        self.engine.free(deployment, PROBING)
        self.dead.look(deployment, group)
        if deployment.held & RESTING:
            self.engine.wake(deployment)
        if gently and len(group) > 1 and breaker.options.slow_start > 0 and deployment.name not in self._panics:
            slow_start.begin(self.engine, deployment, breaker.options.slow_start)
        self._changes.append((deployment, change))
        if deployment.name in self._panics and self._ejected(group) <= self.ejection.most(len(group)):
            self._panics.discard(deployment.name)
            now = self.engine.clock()
            for member in group:
                other = self._breakers.get(member.id)
                if other is not None and other.state is BreakerState.OPEN and other.until > now:
                    self._rest(member, other.until - now)

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
            self._somebody(self._members(deployment))
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

    def _ejected(self, group: Sequence[Deployment]) -> int:
        breakers = self._breakers
        count = 0
        for member in group:
            breaker = breakers.get(member.id)
            if breaker is not None and breaker.state is not BreakerState.CLOSED:
                count += 1
        return count

    def _somebody(self, group: Sequence[Deployment]) -> None:
        """Never let probes be what empties a group."""
        if all(member.held for member in group):
            for member in group:
                self.engine.free(member, PROBING)

    def _judge(self, lease: Lease, error: BaseException | None) -> None:
        options = self._outlier_options
        if options is None:
            return
        deployment, engine = lease.deployment, self.engine
        if error is not None and lease.blame is not Blame.DEPLOYMENT:
            return
        now = engine.clock()
        with engine.lock:
            detector = self._detectors.get(deployment.name)
            if detector is None:
                detector = self._detectors[deployment.name] = OutlierDetector(options, now=lease.started)
            detector.record(deployment.id, ok=error is None, seconds=now - lease.started)
            found = detector.evaluate(now) if detector.due(now) else []
        for outlier in found:
            other = engine.deployments.get(outlier.id)
            if other is not None:
                self.trip(other, outlier.reason)

    def _tell(self) -> None:
        if not self._changes:
            return
        with self.engine.lock:
            changes, self._changes = self._changes, []
        if self._on_change is not None:
            for deployment, change in changes:
                self._on_change(deployment, change)
