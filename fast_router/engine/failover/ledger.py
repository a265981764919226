"""What one request has tried, and whether it may try again.

`AttemptLedger` belongs to one request: it says which deployments the next attempt should avoid. Deployments
that it has not tried go first; when all were tried, the one whose failure is oldest and worth repeating.
`RetryBudget` belongs to one model group, or to one caller in it: it keeps an outage from being multiplied by retries
(Finagle's rule: a share of the requests plus a floor per second).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from fast_router.engine.failover.blame import Case
from fast_router.engine.failover.failures import FailureKind
from fast_router.engine.failover.windows import SlidingCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Sequence

    from fast_router.engine.deployment import Deployment

__all__ = ["AttemptLedger", "Attempted", "BudgetOptions", "CallersPart", "CallersShares", "RetryBudget"]


class Attempted(NamedTuple):
    """One failed attempt.

    Attributes:
        id: The deployment's id.
        kind: Why it failed.
        at: Clock time of the failure, in seconds.
        retry_after: Seconds for which the provider asked to stay away, None if it did not.
    """

    id: str
    kind: FailureKind
    at: float
    retry_after: float | None = None


class AttemptLedger:
    """The failed attempts of one request, over retries, order tiers and fallback groups.

    Args:
        doubtful: Tells of an id whether its deployment has yet to prove that it is back. A request that has
            failed once is no good probe: it would meet every member that is coming back, one after the other.

    Attributes:
        attempts: The failed attempts, the latest one last.
        terms: What the caller chose, as `engine.failover.blame.Terms`.
    """

    __slots__ = ("_by_id", "_case", "_doubtful", "attempts", "terms")

    def __init__(self, doubtful: Callable[[str], bool] | None = None) -> None:
        self._doubtful = doubtful
        self._case: Case | None = None
        self.terms = 0
        self.attempts: list[Attempted] = []
        self._by_id: dict[str, Attempted] = {}

    def failed(self, id_: str, kind: FailureKind, at: float, retry_after: float | None = None) -> None:
        """Note a failed attempt; see `Attempted`."""
        attempt = Attempted(id_, kind, at, retry_after)
        self.attempts.append(attempt)
        self._by_id[id_] = attempt

    @property
    def case(self) -> Case:
        """What the request has to say about the deployments that it fails at; made at its first failure."""
        if self._case is None:
            self._case = Case(self.caller(), self.terms)
        return self._case

    def caller(self) -> Hashable | None:
        """Tell who makes the request, None if that is not known."""
        return None

    @property
    def tried(self) -> Collection[str]:
        """The ids that the next pick should avoid."""
        return self._by_id.keys()

    def last(self) -> Attempted | None:
        """Give the latest failure."""
        return self.attempts[-1] if self.attempts else None

    def knows(self, id_: str) -> Attempted | None:
        """Give the latest failure of a deployment in this request."""
        return self._by_id.get(id_)

    def narrow(self, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """Keep the best candidates for the next attempt.

        The order tiers come first: a tried deployment of a lower tier gives way to an untried one of the
        same tier, and the next tier is used only when everybody in this one was tried. When all were tried,
        the deployment whose failure is oldest and retryable is kept, and only if none is retryable the oldest
        of all: a pick never says "none" where LiteLLM would try again.

        Args:
            candidates: Those that may take the attempt now.

        Returns:
            A part of ``candidates``, never empty if they are not; the same object if nothing was tried.
        """
        known = self._by_id
        if not known or len(candidates) < 2:
            return candidates
        untried = [d for d in candidates if d.id not in known]
        if untried:
            if len(untried) < len(candidates):
                untried = _lowest_tier(untried)
            if self._doubtful is not None:
                doubtful = self._doubtful
                untried = [d for d in untried if not doubtful(d.id)] or untried
            return untried
        retryable = [d for d in candidates if known[d.id].kind.retryable]
        return [min(retryable or candidates, key=lambda d: known[d.id].at)]


def _lowest_tier(deployments: list[Deployment]) -> list[Deployment]:
    orders = [d.order for d in deployments if d.order is not None]
    if not orders:
        return deployments
    lowest = min(orders)
    return [d for d in deployments if d.order == lowest]


@dataclass(frozen=True)
class BudgetOptions:
    """How many retries a group may make.

    Attributes:
        share: Retries per request (0.2 = 20 %).
        per_second: Retries that are always allowed, so that a quiet group can retry at all.
        window: Seconds over which both are counted.
    """

    share: float = 0.2
    per_second: float = 10.0
    window: float = 10.0

    def __post_init__(self) -> None:
        if self.share < 0 or self.per_second < 0 or self.window <= 0:
            raise ValueError("a retry budget needs a share ≥ 0, retries/second ≥ 0 and a window > 0 seconds")


_REQUEST, _RETRY = 0, 1


class RetryBudget:
    """Retries in proportion to requests: at most ``share`` of them plus ``per_second``, over ``window`` seconds.

    Args:
        options: The proportions.
    """

    __slots__ = ("_counts", "_options", "refused")

    def __init__(self, options: BudgetOptions | None = None) -> None:
        self._options = options or BudgetOptions()
        self._counts = SlidingCounts(self._options.window)
        self.refused = 0

    def request(self, now: float) -> None:
        """Count a request's first attempt."""
        self._counts.add(now, _REQUEST)

    def retry(self, now: float) -> bool:
        """Ask for one retry; True if there is budget, which is then spent."""
        requests, retries = self._counts.read(now)
        if retries + 1 > self._options.share * requests + self._options.per_second * self._options.window:
            self.refused += 1
            return False
        self._counts.add(now, _RETRY)
        return True

    def refuse(self) -> None:
        """Count a refusal."""
        self.refused += 1

    def left(self, now: float) -> float:
        """Give the retries that would be allowed right now."""
        requests, retries = self._counts.read(now)
        options = self._options
        return max(0.0, options.share * requests + options.per_second * options.window - retries)


_CALLERS_SHARE = 0.25
"""One caller's part of a group's retries per second, for retries that no deployment is to blame for."""
_CALLERS = 1_000
"""Callers whose shares are kept; the one that retried longest ago is forgotten."""


class CallersPart:
    """A group's budget as one known caller spends it.

    A caller that fails all the time would leave the others none. So whoever has had less than their share may draw on a
    reserve when the group's budget is spent: of the group's floor per second, over all callers.

    Args:
        group: The group's budget.
        own: The caller's share.
        reserve: What is left to those who have had little.
    """

    __slots__ = ("_group", "_own", "_reserve")

    def __init__(self, group: RetryBudget, own: RetryBudget, reserve: RetryBudget) -> None:
        self._group = group
        self._own = own
        self._reserve = reserve

    def left(self, now: float) -> float:
        """Give the retries that would be allowed right now."""
        return max(self._group.left(now), min(self._own.left(now), self._reserve.left(now)))

    def retry(self, now: float) -> bool:
        """Ask for one retry; True if there is budget, which is then spent."""
        little = self._own.left(now) >= 1 and self._own.retry(now)
        if self._group.left(now) < 1 and little and self._reserve.left(now) >= 1:
            return self._reserve.retry(now)
        return self._group.retry(now)

    def refuse(self) -> None:
        """Count a refusal."""
        self._group.refuse()


class CallersShares:
    """The budgets of single callers. Safe from several threads."""

    __slots__ = ("_budgets", "_lock")

    def __init__(self) -> None:
        self._budgets: OrderedDict[tuple[str, Hashable], RetryBudget] = OrderedDict()
        self._lock = Lock()

    def of(self, name: str, caller: Hashable, options: BudgetOptions) -> RetryBudget:
        """Give the share of a caller in the retries of the group `name`."""
        key = (name, caller)
        with self._lock:
            found = self._budgets.get(key)
            if found is None:
                own = replace(options, share=0.0, per_second=_CALLERS_SHARE * options.per_second)
                found = self._budgets[key] = RetryBudget(own)
                if len(self._budgets) > _CALLERS:
                    self._budgets.popitem(last=False)
            else:
                self._budgets.move_to_end(key)
            return found
