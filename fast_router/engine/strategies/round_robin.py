"""round_robin: smooth weighted round robin, one schedule per group.

Earliest deadline first: the k-th turn of a member with weight w is due at virtual time (k - 1/2) / w; the
member whose turn is due first takes it. Over a period of sum(weights) turns each gets exactly its weight, spread
evenly (nginx's smooth weighted round robin gives the same shares; Envoy's EDF scheduler is this one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.engine.ask import Ask, Rng
from fast_router.engine.strategies.base import Strategy

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["RoundRobin"]


class _Turn:
    """A member's place in the schedule: its next turn is due at `start + (turns - 1/2) / weight`."""

    __slots__ = ("deployment", "due", "epoch", "serial", "start", "turns", "weight")

    def __init__(self, deployment: Deployment, serial: float, weight: float) -> None:
        self.deployment = deployment
        self.serial = serial
        self.weight = weight
        self.start = 0.0
        self.turns = 1
        self.epoch = 0
        self.due = 0.5 / weight

    def advance(self) -> None:
        # Counted, not added up: a quotient has no rounding drift, so a period is exact however long it runs.
        self.turns += 1
        self.due = self.start + (self.turns - 0.5) / self.weight


class RoundRobin(Strategy):
    """Each in its turn, in proportion to weight. O(log n)."""

    name = "round_robin"
    accepts: ClassVar[frozenset[str] | None] = frozenset()

    def __init__(self, members: Sequence[Deployment], rng: Rng, options: Mapping[str, Any]) -> None:
        super().__init__(members, rng, options)
        self._now = 0.0
        # A random order among equals: many processes started together must not walk in step.
        self._turns = {d: _Turn(d, rng.random(), _weight(d)) for d in self.members}
        self._heap: list[tuple[float, float, int, _Turn]] = []

    def added(self, deployment: Deployment) -> None:
        """Join at the present virtual time: a member that comes back has no turns to catch up on."""
        turn = self._turns.get(deployment)
        if turn is None:
            turn = self._turns[deployment] = _Turn(deployment, self.random(), _weight(deployment))
        if turn.due <= self._now:
            turn.start, turn.turns = self._now, 1
            turn.due = self._now + 0.5 / turn.weight
        self._schedule(turn)

    def removed(self, deployment: Deployment) -> None:
        """Forget its place; the heap entry dies by its epoch."""
        self._turns[deployment].epoch += 1

    def _schedule(self, turn: _Turn) -> None:
        turn.epoch += 1
        heappush(self._heap, (turn.due, turn.serial, turn.epoch, turn))

    def pick(self, now: float, ask: Ask | None) -> Deployment | None:
        """The member whose turn it is."""
        if ask is not None and ask.exclude:
            return self.pick_from(self.ready, now, ask)
        heap = self._heap
        while heap:
            due, serial, epoch, turn = heap[0]
            if epoch != turn.epoch:
                heappop(heap)
                continue
            self._now = due
            turn.advance()
            turn.epoch += 1
            heapreplace(heap, (turn.due, serial, turn.epoch, turn))
            return turn.deployment
        return None

    def choose(self, candidates: Sequence[Deployment], now: float, ask: Ask | None) -> Deployment:  # noqa: ARG002
        """The candidate whose turn is due first; the others keep theirs."""
        turns = self._turns
        for candidate in candidates:
            if candidate not in turns:
                turns[candidate] = _Turn(candidate, self.random(), _weight(candidate))
        turn = min((turns[d] for d in candidates), key=lambda t: (t.due, t.serial))
        self._now = max(self._now, turn.due) if len(candidates) == len(self.ready) else self._now
        turn.advance()
        if turn.deployment in self._at:
            self._schedule(turn)
        return turn.deployment

    def resume(self, previous: Strategy) -> None:
        """Go on with the schedule of the group's former self, by deployment."""
        if not isinstance(previous, RoundRobin):
            return
        self._now = previous._now
        for deployment, turn in self._turns.items():
            former = previous._turns.get(deployment)
            if former is not None and former.weight == turn.weight:
                turn.start, turn.turns, turn.due, turn.serial = (
                    former.start,
                    former.turns,
                    former.due,
                    former.serial,
                )
            else:
                turn.start, turn.due = self._now, self._now + 0.5 / turn.weight
        self._heap.clear()
        for deployment in self.ready:
            self._schedule(self._turns[deployment])


def _weight(deployment: Deployment) -> float:
    # A weight of 0 means "never" for a shuffle; a round without a turn would be no round robin.
    return float(deployment.share) if deployment.share and deployment.share > 0 else 1.0
