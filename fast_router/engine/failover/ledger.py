"""What one request has tried, and where it should try next.

`AttemptLedger` belongs to one request: it says which deployments the next attempt should avoid. Deployments
that it has not tried go first; when all were tried, the one whose failure is oldest and worth repeating. Whether it
may try again at all is for `budgets` to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fast_router.engine.failover.blame import Case
from fast_router.engine.failover.failures import FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Sequence

    from fast_router.engine.deployment import Deployment

__all__ = ["AttemptLedger", "Attempted"]


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

    def welcomes(self, deployment: Deployment) -> bool:
        """Tell whether an attempt on one who may be picked is as good as on anybody else of the same tier."""
        return deployment.id not in self._by_id and (self._doubtful is None or not self._doubtful(deployment.id))

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
