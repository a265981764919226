"""What the outcome of one attempt means for the next ones.

`FailoverPolicy` listens to an `Engine`. A failed attempt is asked whom it blames, and how much it proves; what speaks
against its deployment goes to that one's breaker, and a breaker that opens lets it rest (`rests`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fast_router.engine.deployment import PROBING, RESTING
from fast_router.engine.failover.blame import Blame, Case, Charge, blame
from fast_router.engine.failover.breaker import IN_A_ROW, Breaker, BreakerOptions, BreakerState, Change
from fast_router.engine.failover.budgets import BudgetOptions, RetryBudgets
from fast_router.engine.failover.ejection import (
    EjectionOptions,
    OvertakenTimeoutError,
    SilentTimeoutError,
)
from fast_router.engine.failover.evidence import Evidence
from fast_router.engine.failover.failures import FailureKind, certain, classify
from fast_router.engine.failover.outliers import GroupOutliers, OutlierOptions
from fast_router.engine.failover.rests import Rests
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


class FailoverPolicy(Rests):
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
        filtered: Tells of a deployment whether there may be requests that can use no other one of its group. None: of
            none.
        retry_after: For a failure, the seconds for which its provider asks to stay away. None: what its headers say.
        why: For a rest that somebody else ordered, the reason in words for an operator.
        on_silent: Told of a deployment whose calls are to be asked elsewhere as well, and which of its leases wait;
            outside of the engine's lock.
        on_change: Told about each state change: the place for a log line. A change from open to open is a
            deadline that has become later.
        wall_clock: Unix time in seconds, for the dates in Retry-After headers.
        rng: Source of the jitter.

    Attributes:
        budgets: The retry budgets of its groups.
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
        filtered: Callable[[Deployment], bool] | None = None,
        retry_after: Callable[[Deployment, BaseException], float | None] | None = None,
        why: Callable[[Deployment], str] | None = None,
        on_silent: Callable[[Deployment, Callable[[Lease], bool]], None] | None = None,
        on_change: Callable[[Deployment, Change], None] | None = None,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(
            engine,
            members,
            options=options,
            ejection=ejection or EjectionOptions(),
            why=why,
            on_change=on_change,
            rng=rng,
        )
        self.budgets = RetryBudgets(budget)
        self._outliers = GroupOutliers(outliers)
        self._decides = decides
        self._filtered = filtered
        self._retry_after = retry_after or self._from_headers
        self._on_silent = on_silent
        self._wall_clock = wall_clock
        self._evidence = Evidence(self.breaker, self._members, self._take_back)
        engine.on_release.append(self._released)
        engine.untold = self.disputes
        self._silences = (
            None
            if silence is None
            else Silences(engine, members, self.doubtful, self._fell_silent, silence, calls, self._is_late)
        )

    def close(self) -> None:
        """Stop listening to the engine; what rests now rests on until its deadline."""
        self.engine.on_release.remove(self._released)
        super().close()
        if self._silences is not None:
            self._silences.close()

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

    def _fell_silent(self, deployment: Deployment, reason: str, alone: Hashable | None = None) -> None:
        if self._decides is None or self._decides(deployment, SilentTimeoutError(), FailureKind.TIMEOUT):
            with self.engine.lock:
                breaker = self.breaker(deployment)
                if callable(self._options):
                    breaker.configure(self._options(deployment))
                if alone is not None:
                    self._evidence.believe(deployment, alone)
            self.trip(deployment, reason, silent=True)
            if self._on_silent is not None:
                self._on_silent(deployment, lambda _lease: True)

    def _is_late(self, deployment: Deployment, before: float) -> None:
        """Have those rescued that wait on one which has proven to be slow, and began before then."""
        breaker = self._breakers.get(deployment.id)
        if self._on_silent is None or breaker is None or breaker.state is BreakerState.CLOSED:
            return
        if breaker.last_failure is FailureKind.TIMEOUT:
            self._on_silent(deployment, lambda lease: lease.started <= before)

    def _released(self, lease: Lease, error: BaseException | None, cancelled: bool) -> None:
        deployment = lease.deployment
        breaker = self._breakers.get(deployment.id)
        if self._outliers and not cancelled:
            self._compare(lease, error)
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
            breaker = self.breaker(lease.deployment)
            probed = breaker.state is BreakerState.HALF_OPEN
            self._failure(lease.deployment, breaker, error, lease.generation, lease)
            failed = probed and breaker.state is BreakerState.OPEN
        self._tell()
        if failed and self._on_silent is not None:
            # A probe that takes too long makes room for others, which meet the same.
            self._on_silent(lease.deployment, lambda _lease: True)

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
        untold = self.disputes(deployment.id)
        asked = self._retry_after(deployment, error)
        if asked is not None and case is not None:
            # What does not count by itself may yet bear out what another one is told.
            breaker.testimony.asked(case.voice, now + asked)
        if callable(self._options):
            breaker.configure(self._options(deployment))
        if not self._evidence.hear(case, deployment, kind, now, certain=certain(error)):
            self._unlearn(deployment, lease)
            self._cancelled(deployment, breaker, generation)
            return
        seconds = None if asked is None else self.believed(deployment, case, asked)
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
        if breaker.state is BreakerState.HALF_OPEN and generation == breaker.generation:
            self._evidence.probed(case, deployment, certain=certain(error))
        self._opens(deployment, breaker, kind, generation, seconds)
        if breaker.state is BreakerState.OPEN:
            self._may_appeal(deployment, breaker, case)
        self.charged(case, deployment)
        if untold:
            self._told_at_last(deployment, breaker)

    def _opens(
        self, deployment: Deployment, breaker: Breaker, kind: FailureKind, generation: int, retry_after: float | None
    ) -> None:
        now = self.engine.clock()
        rule = breaker.options.consecutive if kind in IN_A_ROW else breaker.options.consecutive_server
        change = breaker.failure(now, kind, generation, retry_after, may_open=lambda: self.may_rest(deployment, rule))
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

    def _opened(self, deployment: Deployment, breaker: Breaker, change: Change) -> None:
        super()._opened(deployment, breaker, change)
        self._evidence.opened(deployment, self._members(deployment))

    def may_rest(self, deployment: Deployment, rule: int | None = None) -> bool:
        """Tell whether what speaks against a deployment is enough to let it rest beside those that rest already.

        Args:
            deployment: Who.
            rule: Failures in a row that a rule of ours rests it for; None for a rule of LiteLLM's.
        """
        with self.engine.lock:
            breaker = self.breaker(deployment)
            if breaker.state is not BreakerState.CLOSED:
                return True
            group, now = self._members(deployment), self.engine.clock()
            filtered = len(group) > 1 and self._filtered is not None and self._filtered(deployment)
            if filtered and not self._evidence.may_rest_alone(deployment, rule, now):
                return False
            needed = breaker.options.consecutive_server
            return self._evidence.may_rest(deployment, self._ejection.ejected(group), needed, now)

    def believed(self, deployment: Deployment, case: Case | None, seconds: float) -> float | None:
        """Tell for how long a deployment rests that has asked a request's caller for so many seconds.

        Args:
            deployment: Who.
            case: The request; None where a program of its own makes the calls: it is believed.
            seconds: How long it wants to be left alone.

        Returns:
            Seconds, or None for as long as it would rest without having asked for anything.
        """
        with self.engine.lock:
            breaker, now = self.breaker(deployment), self.engine.clock()
            testimony = breaker.testimony
            if case is None:
                return seconds
            testimony.asked(case.voice, now + seconds)
            ordinary = breaker.options.cooldown
            if seconds <= ordinary:
                return seconds
            agreed = min(seconds, testimony.agreed - now)
            if agreed > ordinary:
                return agreed
            if testimony.corroborated(case.voice):
                return None  # that it is ill, but not for how long
            testimony.lone = max(testimony.lone, now + seconds)
            return seconds

    def _may_appeal(self, deployment: Deployment, breaker: Breaker, case: Case | None) -> None:
        """Let others appeal against a rest that is as long as its one caller says."""
        if case is None or case.caller is None or breaker.testimony.lone <= self.engine.clock():
            return
        if not breaker.testimony.corroborated(case.voice):
            self._evidence.believe(deployment, case.voice)

    def may_rest_for(self, deployment: Deployment, case: Case, seconds: float) -> float | None:
        """Tell for how long LiteLLM may let a deployment rest after a request's failure; None for not at all.

        Args:
            deployment: Who.
            case: The request.
            seconds: How long LiteLLM would.
        """
        if not self.may_rest(deployment):
            return None
        with self.engine.lock:
            found, breaker = self.believed(deployment, case, seconds), self.breaker(deployment)
            self._may_appeal(deployment, breaker, case)
            return min(seconds, breaker.options.cooldown) if found is None else found

    @property
    def disputed(self) -> bool:
        """Whether somebody rests on the word of one caller; `appeal` is only worth asking then."""
        return bool(self._evidence.alone)

    def disputes(self, id_: str) -> bool:
        """Tell whether a deployment rests, or is about to, on the word of one caller: nobody else is told then.

        Each of several processes may let one rest on such a word: if they told each other, that were the whole group.
        """
        found = self._breakers.get(id_)
        return found is not None and (found.testimony.disputed or found.testimony.unproven)

    def _told_at_last(self, deployment: Deployment, breaker: Breaker) -> None:
        """Let the others know of a rest that was this process's own affair until now."""
        if breaker.state is BreakerState.OPEN and deployment.held & RESTING and not self.disputes(deployment.id):
            enough = max(self.engine.clock() + breaker.options.cooldown, breaker.testimony.agreed) + _LATER
            if min(breaker.until, breaker.testimony.lone) > enough:
                # So long on the first one's word alone, and the second was told nothing of the kind.
                breaker.testimony.lone = 0.0
                self._probe_again(deployment, breaker, "nobody else was asked to stay away so long")
                return
            self._rest(deployment, deployment.resting_until - self.engine.clock())
            until, kind = breaker.until, breaker.last_failure
            self._changes.append((deployment, Change(breaker.state, breaker.state, breaker.reason, until, kind)))

    def appeal(self, name: str | None, caller: Hashable | None) -> None:
        """Wake those of a group that rest on the word of another caller: this one finds out for itself.

        Where that one's word is a probe that failed, one more probe may leave.

        Args:
            name: The group; None for any, where it is not known which one will be asked.
            caller: Who asks; None for one that is not known.
        """
        with self.engine.lock:
            names = self._evidence.appeal(name, caller, self.engine.clock())
            for deployment in list(self.engine.deployments.values()) if names else ():
                breaker = self._breakers.get(deployment.id)
                if deployment.name in names and breaker is not None and breaker.testimony.disputed:
                    self._doubted(deployment, breaker, "another caller asks")
        self._tell()

    def _doubted(self, deployment: Deployment, breaker: Breaker, reason: str) -> None:
        if not breaker.testimony.probes or not self._probe_again(deployment, breaker, reason):
            self._woken(deployment, breaker, reason, gently=False)

    def _probe_again(self, deployment: Deployment, breaker: Breaker, reason: str) -> bool:
        change = breaker.again(self.engine.clock(), reason)
        if change is not None:
            self.engine.wake(deployment, quiet=True)
            self._changes.append((deployment, change))
        return change is not None

    def charged(self, case: Case | None, deployment: Deployment) -> None:
        """Note that a request's charge has opened its deployment's breaker, if it has; see `Charge.opened`."""
        charge = None if case is None else case.charge
        breaker = self._breakers.get(deployment.id)
        if charge is not None and charge.deployment is deployment and charge.opened is None and breaker is not None:
            charge.opened = breaker.generation if breaker.state is BreakerState.OPEN else None

    def vindicated(self, case: Case, by: Deployment) -> None:
        """Note that a request that had failed was answered elsewhere: its failures were not its own."""
        with self.engine.lock:
            charge = case.charge
            untold = charge is not None and self.disputes(charge.deployment.id)
            found = self._evidence.vindicated(case, by)
            if charge is not None and untold:
                self._told_at_last(charge.deployment, self.breaker(charge.deployment))
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
        self._outliers.take_back(deployment)
        change = breaker.take_back(self.engine.clock(), charge.kind, charge.before, charge.opened)
        if change is not None:
            self._closed(deployment, breaker, change, gently=False)
        if charge.on_take_back is not None:
            charge.on_take_back()

    def _unlearn(self, deployment: Deployment, lease: Lease | None) -> None:
        before = getattr(lease, "before", None)
        if before is not None:
            unlearn(deployment, before)
        self._outliers.take_back(deployment)

    def _cancelled(self, deployment: Deployment, breaker: Breaker, generation: int) -> None:
        if breaker.state is BreakerState.HALF_OPEN and generation == breaker.generation:
            breaker.cancelled(generation)
            self.engine.free(deployment, PROBING)

    def _compare(self, lease: Lease, error: BaseException | None) -> None:
        """Compare a deployment with its siblings; those that stand out rest."""
        if error is not None and lease.blame is not Blame.DEPLOYMENT:
            return
        engine = self.engine
        with engine.lock:
            started, now = lease.started, engine.clock()
            found = self._outliers.record(lease.deployment, ok=error is None, started=started, now=now)
        for outlier in found:
            other = engine.deployments.get(outlier.id)
            if other is not None and self.may_rest(other, 0):
                self.trip(other, outlier.reason)
