"""Groups of which nobody is well: whoever can ask elsewhere need not find out once more.

The last of a group never rests, because a deployment that fails is still better than none. A request that has a
fallback has better than that: it goes there at once, and one request per rest finds out whether the group is back, or
two: a single caller's failure is that caller's word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fast_router.engine.deployment import CLOSED, OPERATOR
from fast_router.engine.failover.breaker import BreakerState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fast_router.engine.deployment import Deployment
    from fast_router.engine.engine import Engine
    from fast_router.engine.failover.breaker import Breaker, Change

__all__ = ["DeadGroups", "Verdict"]


class Verdict(NamedTuple):
    """What is to be done about a group.

    Attributes:
        dead: Nobody of it is well, and nobody is to be asked now.
        probe: Whom the asking request is to probe, None for nobody.
    """

    dead: bool
    probe: str | None = None


_WELL = Verdict(dead=False)
_DEAD = Verdict(dead=True)


class DeadGroups:
    """The groups of one engine whose every breaker is open or half-open. Its owner tells it of each change.

    Args:
        engine: Whose deployments.
        breakers: The breakers, by deployment id.
        changed: Told of the change that a probe makes.
    """

    __slots__ = ("_breakers", "_changed", "_engine", "_names")

    def __init__(
        self, engine: Engine, breakers: dict[str, Breaker], changed: Callable[[Deployment, Change], None]
    ) -> None:
        self._engine = engine
        self._breakers = breakers
        self._changed = changed
        self._names: set[str] = set()

    def __bool__(self) -> bool:
        """Whether there may be any; nothing else is worth asking otherwise."""
        return bool(self._names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def look(self, deployment: Deployment, group: Sequence[Deployment]) -> None:
        """Look at a group again, because a breaker of one of its members has opened or closed."""
        if self.holds(group):
            self._names.add(deployment.name)
        else:
            self._names.discard(deployment.name)

    def holds(self, group: Sequence[Deployment]) -> bool:
        """Tell whether nobody of a group is well. Those whom their operator holds are not asked after."""
        asked = False
        for member in group:  # up to the first that is well: this is asked at every pick while any group is dead
            if not member.held & (OPERATOR | CLOSED):
                if self._open(member) is None:
                    return False
                asked = True
        return asked

    def ask(self, group: Sequence[Deployment], *, may_probe: bool) -> Verdict:
        """Ask whether a request should pass a group by.

        Args:
            group: Its members.
            may_probe: Whether the request may be the probe of one whose rest is over; taken if it may.
        """
        with self._engine.lock:
            if not self.holds(group):
                return _WELL
            now = self._engine.clock()
            for member in group if may_probe else ():
                breaker = self._open(member)
                if breaker is None or member.held & (OPERATOR | CLOSED) or not breaker.may_probe(now):
                    continue
                _, change = breaker.admit(now)
                if change is not None:
                    self._changed(member, change)
                return Verdict(dead=False, probe=member.id)
            return _DEAD

    def _open(self, member: Deployment) -> Breaker | None:
        breaker = self._breakers.get(member.id)
        return None if breaker is None or breaker.state is BreakerState.CLOSED else breaker
