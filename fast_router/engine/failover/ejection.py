"""How much of a group may rest at a time, and the failures that no call raises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fast_router.engine.deployment import CLOSED, OPERATOR, PROBING, RESTING
from fast_router.engine.failover.breaker import BreakerState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fast_router.engine.deployment import Deployment
    from fast_router.engine.engine import Engine
    from fast_router.engine.failover.breaker import Breaker

__all__ = ["Ejection", "EjectionOptions", "OvertakenTimeoutError", "SilentTimeoutError", "in_service"]


class OvertakenTimeoutError(TimeoutError):
    """An attempt that its caller stopped waiting for, because a second one had answered."""


class SilentTimeoutError(TimeoutError):
    """Calls of which nothing has been heard for far longer than the others of the group take."""


@dataclass(frozen=True)
class EjectionOptions:
    """How much of a group may rest at a time.

    Attributes:
        max_share: Share of a group, 0 to 1. Somebody is always left, and in a group of two or more one may
            always rest.
        panic: What happens beyond it: True wakes the whole group, False lets those rest that rest already.
    """

    max_share: float = 1.0
    panic: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.max_share <= 1:
            raise ValueError("max_share is a share between 0 and 1")

    def most(self, size: int) -> int:
        """Give the most members of a group of ``size`` that may rest at a time."""
        if size < 2 or self.max_share == 0:
            return 0
        # A hair below a whole number is that number: 0.6 × 5 is not 2.
        return min(size - 1, max(1, int(self.max_share * size + 1e-9)))


def in_service(members: Callable[[Deployment], Sequence[Deployment]]) -> Callable[[Deployment], Sequence[Deployment]]:
    """Count those whom their operator holds as not there: what is left of a group must not be emptied either."""

    def serving(deployment: Deployment) -> Sequence[Deployment]:
        group = members(deployment)
        if any(member.held & (OPERATOR | CLOSED) for member in group):
            return [member for member in group if member is deployment or not member.held & (OPERATOR | CLOSED)]
        return group

    return serving


class Ejection:
    """Who of each group may rest, and which groups are in panic. Its owner holds the engine's lock.

    Args:
        engine: Whose deployments.
        breakers: The breakers, by deployment id.
        options: How much of a group may rest.

    Attributes:
        panics: Groups that spread over all their members because too many fail.
    """

    __slots__ = ("_breakers", "_engine", "options", "panics")

    def __init__(self, engine: Engine, breakers: Mapping[str, Breaker], options: EjectionOptions) -> None:
        self._engine = engine
        self._breakers = breakers
        self.options = options
        self.panics: set[str] = set()

    def ejected(self, group: Sequence[Deployment]) -> int:
        """Count those of a group that have yet to prove that they are back."""
        found = (self._breakers.get(member.id) for member in group)
        return sum(breaker is not None and breaker.state is not BreakerState.CLOSED for breaker in found)

    def full(self, group: Sequence[Deployment]) -> bool:
        """Tell whether one more would be too many."""
        return self.ejected(group) >= self.options.most(len(group))

    def exceeded(self, group: Sequence[Deployment]) -> bool:
        """Tell whether those there are, are too many."""
        return self.ejected(group) > self.options.most(len(group))

    def panic(self, name: str, group: Sequence[Deployment]) -> None:
        """Let the whole group serve, if that is what is to be done beyond the cap."""
        if self.options.panic:
            self.panics.add(name)
            for member in group:
                self._engine.free(member, PROBING)
                if member.held & RESTING:
                    self._engine.wake(member, quiet=True)

    def calmed(self, name: str, group: Sequence[Deployment]) -> Iterator[tuple[Deployment, float]]:
        """Give those that should rest again, and for how many seconds, because a panic is over."""
        if name in self.panics and not self.exceeded(group):
            self.panics.discard(name)
            now = self._engine.clock()
            for member in group:
                breaker = self._breakers.get(member.id)
                if breaker is not None and breaker.state is BreakerState.OPEN and breaker.until > now:
                    yield member, breaker.until - now

    def somebody(self, group: Sequence[Deployment]) -> None:
        """Never let probes be what empties a group."""
        if all(member.held for member in group):
            for member in group:
                self._engine.free(member, PROBING)
