"""Whose turn it is among callers that wait: each has the same share, however many requests it lets wait.

The line is served in rounds, and a caller has one request in each: a newcomer's first is in the round that comes next,
behind those that have waited for it longer. This is start-time fair queueing (Goyal, Vin, Cheng: *Start-time Fair
Queueing*, SIGCOMM 1996) for requests of one length, but for that "next": with the round that is served now, ever new
callers would starve a backlog.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

__all__ = ["FairTurns", "Place"]

_FEW = 64


class Place(NamedTuple):
    """Where a request stands; the lesser goes first.

    Attributes:
        priority: Lower goes first.
        turn: Lower goes first within a priority.
        order: First come, first served within a turn.
    """

    priority: int
    turn: int
    order: int


class FairTurns:
    """The turns of one line. Not for several threads at a time."""

    __slots__ = ("_next", "_now", "_order", "_prune_at")

    def __init__(self) -> None:
        self._order = 0
        self._now = 0
        self._next: dict[Hashable, int] = {}
        self._prune_at = _FEW

    def place(self, caller: Hashable | None, priority: int = 0) -> Place:
        """Give the place of a newcomer.

        Args:
            caller: Who makes the request; None if that is not known: then each request is a caller of its own.
            priority: Lower goes first.
        """
        self._order += 1
        turn = self._now + 1
        if caller is not None:
            turn = max(turn, self._next.get(caller, 0))
            self._next[caller] = turn + 1
            if len(self._next) > self._prune_at:
                self._next = {who: after for who, after in self._next.items() if after > self._now + 1}
                self._prune_at = max(_FEW, 2 * len(self._next))
        return Place(priority, turn, self._order)

    def served(self, place: Place) -> None:
        """Note that a request has its turn."""
        self._now = max(self._now, place.turn)
