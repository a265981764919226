"""One deployment's circuit breaker: closed → open → half-open → closed with a slow start.

* **Closed**: picked like any other. Opens at a rate limit, a refused key or a missing model at once; after
  so many connection errors, timeouts or server errors in a row; or at an error rate over a window with a
  minimum of requests (Envoy's and gRPC's outlier rules, gRFC A50). Where the user set LiteLLM's
  ``allowed_fails``, that rule alone decides.
* **Open**: rests until a deadline: what the provider asked for, else base × growth^openings with jitter,
  capped. No later failure makes the deadline earlier.
* **Half-open**: the deadline is over, and one attempt (the probe) may try. Its success closes the breaker,
  its failure opens it again. Each opening has a generation number: an attempt that began under an older one
  says nothing about the deployment's health now, so its late success closes nothing.
* **Closed again**: its share ramps up over the slow start instead of jumping to full.

No timer runs: every state is worked out from the clock when somebody asks.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fast_router.engine.failover.failures import FailureKind
from fast_router.engine.failover.testimony import Testimony
from fast_router.engine.failover.windows import SlidingCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["IN_A_ROW", "Breaker", "BreakerOptions", "BreakerState", "Change"]


class BreakerState(enum.Enum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True)
class BreakerOptions:
    """How a breaker decides.

    Attributes:
        cooldown: First rest, in seconds (LiteLLM's ``cooldown_time``).
        growth: Each opening in a row rests this many times longer; 1 keeps it constant.
        max_cooldown: Longest rest without the provider asking for it, in seconds.
        max_retry_after: Longest rest that a provider is believed, in seconds.
        jitter: Up to this share is added at random, so that several processes do not come back at once.
        consecutive: Connection errors and timeouts in a row that open it; 0 switches the rule off.
        consecutive_server: Server errors in a row that open it; 0 switches the rule off.
        error_rate: Share of failures in ``window`` above which it opens.
        min_requests: Attempts in ``window`` below which the share says nothing.
        window: Seconds that the share covers.
        immediate: Kinds of failure that open it at once.
        allowed_fails: Failures within ``cooldown`` seconds that are tolerated; one more opens it. None: not set.
        allowed_fails_by_kind: The same for single kinds.
        probe_timeout: Seconds after which a probe without an outcome makes room for another one.
        slow_start: Seconds over which a recovered deployment's share grows from ``slow_start_floor`` to full.
        slow_start_floor: Share at the beginning of the slow start (Envoy: 10 %).
        decay: Seconds without a new opening that take one step off the growth.
    """

    cooldown: float = 5.0
    growth: float = 2.0
    max_cooldown: float = 300.0
    max_retry_after: float = 86400.0
    jitter: float = 0.1
    consecutive: int = 2
    consecutive_server: int = 5
    error_rate: float = 0.5
    min_requests: int = 5
    window: float = 30.0
    immediate: frozenset[FailureKind] = frozenset({FailureKind.RATE_LIMIT, FailureKind.AUTH, FailureKind.NOT_FOUND})
    allowed_fails: int | None = None
    allowed_fails_by_kind: Mapping[FailureKind, int] = field(default_factory=dict)
    probe_timeout: float = 5.0
    slow_start: float = 2.0
    slow_start_floor: float = 0.1
    decay: float = 30.0

    def __post_init__(self) -> None:
        if self.cooldown < 0 or self.max_cooldown < 0 or self.max_retry_after < 0:
            raise ValueError("a cooldown cannot be negative: give seconds ≥ 0")
        if self.growth < 1:
            raise ValueError("growth must be at least 1 (1 keeps every cooldown the same)")
        if not 0 <= self.jitter <= 1:
            raise ValueError("jitter is a share between 0 and 1")
        if not 0 <= self.error_rate <= 1:
            raise ValueError("error_rate is a share between 0 and 1")
        if self.window <= 0 or self.probe_timeout <= 0:
            raise ValueError("window and probe_timeout must be more than 0 seconds")
        if not 0 < self.slow_start_floor <= 1 or self.slow_start < 0:
            raise ValueError("slow_start is seconds ≥ 0, slow_start_floor a share above 0 and at most 1")


@dataclass(frozen=True)
class Change:
    """A state change, for the log line.

    Attributes:
        old: State before.
        new: State after.
        reason: Why, in words for an operator.
        until: Clock time in seconds at which an open breaker lets a probe through, else 0.
        failure: The kind of failure that opened it, None where no failure did.
        ordered: Whether somebody else ordered it.
        early: Whether a rest ended before its deadline so that one more probe may leave.
    """

    old: BreakerState
    new: BreakerState
    reason: str
    until: float = 0.0
    failure: FailureKind | None = None
    ordered: bool = False
    early: bool = False


_OK, _FAILED = 0, 1
IN_A_ROW: Final = frozenset({FailureKind.CONNECTION, FailureKind.TIMEOUT})
"""Kinds that are counted in a row by themselves."""


class Breaker:
    """The breaker of one deployment. Not thread-safe by itself: its owner holds a lock.

    Args:
        options: How it decides.
        rng: Source of the jitter.
    """

    __slots__ = (
        "_allowed",
        "_closed_at",
        "_counts",
        "_in_a_row",
        "_openings",
        "_options",
        "_probe_until",
        "_rng",
        "_server_in_a_row",
        "_silent",
        "generation",
        "last_failure",
        "reason",
        "state",
        "testimony",
        "until",
    )

    def __init__(self, options: BreakerOptions | None = None, *, rng: random.Random | None = None) -> None:
        self._options = options or BreakerOptions()
        self._rng = rng or random.Random()
        self.state = BreakerState.CLOSED
        self.generation = 0
        self.until = 0.0
        self.reason = ""
        self.last_failure: FailureKind | None = None
        self.testimony = Testimony()
        self._openings = 0
        self._closed_at: float | None = None
        self._probe_until: float | None = None
        self._in_a_row = 0
        self._server_in_a_row = 0
        self._silent = False
        self._counts = SlidingCounts(self._options.window)
        # LiteLLM counts allowed_fails over one cooldown time.
        self._allowed: SlidingCounts | None = None

    @property
    def options(self) -> BreakerOptions:
        """How it decides."""
        return self._options

    def configure(self, options: BreakerOptions) -> None:
        """Decide by other options from now on; the window keeps its length until it opens next."""
        if options != self._options:
            if options.window != self._options.window:
                self._counts = SlidingCounts(options.window)
            self._allowed = None
            self._options = options

    # What the picks ask.

    def may_probe(self, now: float) -> bool:
        """Tell whether a probe may leave now, without taking it."""
        if self.state is BreakerState.OPEN:
            return now >= self.until
        if self.state is BreakerState.HALF_OPEN:
            return self._probe_until is None or now >= self._probe_until
        return False

    def admit(self, now: float) -> tuple[bool, Change | None]:
        """Ask for one attempt.

        Args:
            now: Clock time in seconds.

        Returns:
            Whether the attempt may go there, and the state change that this made. In the half-open state
            the attempt that is let through is the probe.
        """
        if self.state is BreakerState.CLOSED:
            return True, None
        if not self.may_probe(now):
            return False, None
        change = None
        if self.state is BreakerState.OPEN:
            change = Change(self.state, BreakerState.HALF_OPEN, "cooldown over, one probe may try")
            self.state = BreakerState.HALF_OPEN
            self.testimony.rested()
        self._probe_until = now + self._options.probe_timeout
        return True, change

    def next_probe(self) -> float:
        """Give the clock time in seconds from which a probe may leave; 0 when closed or free now."""
        if self.state is BreakerState.OPEN:
            return self.until
        if self.state is BreakerState.HALF_OPEN and self._probe_until is not None:
            return self._probe_until
        return 0.0

    def share(self, now: float) -> float:
        """Give the share of its normal traffic it may take now: 0 open, 0.1…1 in the slow start, else 1."""
        if self.state is not BreakerState.CLOSED:
            return 0.0
        started, length = self._closed_at, self._options.slow_start
        if started is None or length <= 0 or now >= started + length:
            return 1.0
        return max(self._options.slow_start_floor, (now - started) / length)

    # What the outcomes say.

    def success(self, now: float, generation: int) -> Change | None:
        """Note that an attempt succeeded.

        Args:
            now: Clock time in seconds.
            generation: The breaker's generation when that attempt began.

        Returns:
            The state change, None for none.
        """
        if generation != self.generation:
            if self._silent and generation == self.generation - 1:
                return self._close(now, "it has answered")
            return None
        self._in_a_row = 0
        self._server_in_a_row = 0
        self.testimony.clear()
        self._counts.add(now, _OK)
        if self.state is BreakerState.HALF_OPEN:
            return self._close(now, "the probe succeeded")
        if self.state is BreakerState.OPEN:
            # It was sent here although open: in a panic, or by its id. Still the best news there is.
            return self._close(now, "an attempt succeeded")
        return None

    def failure(
        self,
        now: float,
        kind: FailureKind,
        generation: int,
        retry_after: float | None = None,
        *,
        may_open: Callable[[], bool] | None = None,
    ) -> Change | None:
        """Note that an attempt failed.

        Args:
            now: Clock time in seconds.
            kind: Why it failed. A failure that is not the deployment's fault only gives a probe back.
            generation: The breaker's generation when that attempt began.
            retry_after: Seconds for which the provider asked to stay away.
            may_open: Asked, if it would open, whether the evidence is enough; if not, it stays one failure away from
                that. None: it is.

        Returns:
            The state change, None for none (a longer deadline of an open breaker is no change of state).
        """
        if not kind.blames_deployment:
            self.cancelled(generation)
            return None
        if generation != self.generation or self.state is BreakerState.OPEN:
            # A stale attempt may still bring news of a later deadline, never of an earlier one.
            if self.state is BreakerState.OPEN and retry_after is not None:
                self.until = max(self.until, now + min(retry_after, self._options.max_retry_after))
            return None
        if self.state is BreakerState.HALF_OPEN:
            return self._open(now, f"the probe failed ({kind.value})", kind, retry_after)
        self._counts.add(now, _FAILED)
        reason = self._reason_to_open(now, kind)
        if reason is None or (may_open is not None and not may_open()):
            return None
        return self._open(now, reason, kind, retry_after)

    @property
    def in_a_row(self) -> tuple[int, int]:
        """Failures in a row: connection errors and timeouts, and all."""
        return self._in_a_row, self._server_in_a_row

    def take_back(self, now: float, kind: FailureKind, before: tuple[int, int], opened: int | None) -> Change | None:
        """Undo one failure that turned out not to be the deployment's.

        Args:
            now: Clock time in seconds.
            kind: Why it failed.
            before: Failures in a row before it, see `in_a_row`.
            opened: The generation that it opened, None if it opened nothing.

        Returns:
            The state change: an opening that nothing has followed is closed again.
        """
        if opened is None:
            # A success in between has forgotten it already.
            if self.state is BreakerState.CLOSED and self._server_in_a_row:
                self._in_a_row = max(0, self._in_a_row - (kind in IN_A_ROW))
                self._server_in_a_row -= 1
                self._counts.add(now, _FAILED, -min(1.0, self._counts.read(now)[_FAILED]))
                self._forgive(now, kind)
            return None
        if opened != self.generation or self.state is not BreakerState.OPEN:
            return None
        change = self._close(now, "its failure followed the request elsewhere")
        self._openings = max(0, self._openings - 1)
        self._closed_at = None
        self._in_a_row, self._server_in_a_row = before
        return change

    def _forgive(self, now: float, kind: FailureKind) -> None:
        if self._allowed is not None:
            column = list(FailureKind).index(kind) + 1 if kind in self._options.allowed_fails_by_kind else 0
            self._allowed.add(now, column, -min(1.0, self._allowed.read(now)[column]))

    def cancelled(self, generation: int) -> None:
        """Note that an attempt ended without an outcome: a probe makes room for the next one."""
        if generation == self.generation and self.state is BreakerState.HALF_OPEN:
            self._probe_until = None

    def trip(
        self,
        now: float,
        reason: str,
        *,
        seconds: float | None = None,
        failure: FailureKind | None = None,
        silent: bool = False,
    ) -> Change | None:
        """Open it from outside: an outlier, a shared cooldown, LiteLLM's own rule.

        Args:
            now: Clock time in seconds.
            reason: Why, in words for an operator.
            seconds: How long; None takes the breaker's own rule.
            failure: The kind of failure behind it, if one is.
            silent: Whether nothing was heard of the calls that are under way: an answer to one of them, otherwise
                stale, closes it then.

        Returns:
            The state change; None if it was open already (its deadline may have become later).
        """
        if self.state is BreakerState.OPEN and now < self.until:
            if seconds is not None:
                self.until = max(self.until, now + seconds)
            return None
        change = self._open(now, reason, failure, seconds)
        self._silent = silent
        return change

    def again(self, now: float, reason: str) -> Change | None:
        """Let one more probe leave, although the last one has failed; None unless it is open."""
        if self.state is not BreakerState.OPEN:
            return None
        self.state = BreakerState.HALF_OPEN
        self.until = now
        self._probe_until = None
        return Change(BreakerState.OPEN, self.state, reason, early=True)

    def wake(self, now: float, reason: str) -> Change | None:
        """Close it from outside, for example because a health check succeeded."""
        return None if self.state is BreakerState.CLOSED else self._close(now, reason)

    # The rules.

    def _reason_to_open(self, now: float, kind: FailureKind) -> str | None:
        options = self._options
        allowed = options.allowed_fails_by_kind.get(kind, options.allowed_fails)
        if allowed is not None:
            if self._allowed is None:
                kinds = list(FailureKind)
                self._allowed = SlidingCounts(max(options.cooldown, 1.0), width=len(kinds) + 1)
            own_limit = kind in options.allowed_fails_by_kind
            column = list(FailureKind).index(kind) + 1 if own_limit else 0
            self._allowed.add(now, column)
            fails = int(self._allowed.read(now)[column])
            return f"{fails} failures ({kind.value}), {allowed} allowed" if fails > allowed else None
        if kind in options.immediate:
            return kind.value.replace("_", " ")
        if kind in IN_A_ROW:
            self._in_a_row += 1
            if options.consecutive and self._in_a_row >= options.consecutive:
                return f"{self._in_a_row} connection errors or timeouts in a row"
        self._server_in_a_row += 1
        if options.consecutive_server and self._server_in_a_row >= options.consecutive_server:
            return f"{self._server_in_a_row} failures in a row"
        succeeded, failed = self._counts.read(now)
        total = succeeded + failed
        if total >= options.min_requests and failed > options.error_rate * total:
            return f"{failed:.0f} of {total:.0f} attempts failed within {options.window:g} s"
        return None

    def _open(self, now: float, reason: str, kind: FailureKind | None, seconds: float | None) -> Change:
        options = self._options
        if self._closed_at is not None and options.decay > 0:
            healthy = int((now - self._closed_at) / options.decay)
            self._openings = max(0, self._openings - healthy)
            self._closed_at = None
        self._openings += 1
        if seconds is None:
            # A small exponent bound keeps growth ** n a finite number; the cap has long been reached by then.
            rest = options.cooldown * options.growth ** min(self._openings - 1, 64)
            rest = min(rest, options.max_cooldown) if options.growth > 1 else rest
            rest *= 1.0 + options.jitter * self._rng.random()
        else:
            rest = min(seconds, options.max_retry_after)
        change = Change(self.state, BreakerState.OPEN, reason, max(self.until, now + rest), kind)
        self.state = BreakerState.OPEN
        self.until = change.until
        self.reason = reason
        self.generation += 1
        self._reset_counts()
        return change

    def _close(self, now: float, reason: str) -> Change:
        self.testimony.clear()
        change = Change(self.state, BreakerState.CLOSED, reason)
        self.state = BreakerState.CLOSED
        self.until = 0.0
        self.reason = ""
        self._closed_at = now
        self.generation += 1
        self._reset_counts()
        return change

    def _reset_counts(self) -> None:
        self._probe_until = None
        self._silent = False
        self._in_a_row = 0
        self._server_in_a_row = 0
        self._counts.clear()
        if self._allowed is not None:
            self._allowed.clear()
