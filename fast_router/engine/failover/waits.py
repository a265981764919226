"""Whose calls wait where in a group, counted once for all of its members.

What is asked of a member is always about the others: is there one caller who waits at all of them, does one of them
answer everybody else? Asked by a walk over the others, a look at a group that has fallen silent as a whole would take
the square of its size, with the engine's lock held.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from fast_router.engine.deployment import Deployment

__all__ = ["Waits"]


class Waits:
    """The calls of a group that wait, at one moment.

    Args:
        members: The group.
        voices: Gives the callers that wait at a member, one per call.
        several: Calls below which nobody hides anything.
    """

    def __init__(
        self, members: Sequence[Deployment], voices: Callable[[Deployment], Iterable[Hashable]], several: int
    ) -> None:
        self._several = several
        self._at = {member.id: Counter(voices(member)) for member in members}
        self._pickable = {member.id for member in members if not member.held}
        self._calls: Counter[Hashable] = Counter()
        # The members that may be picked: at how many of them a caller waits, and at how many nobody else does.
        self._places: Counter[Hashable] = Counter()
        self._alone: Counter[Hashable] = Counter()
        self._empty = 0
        for id_ in self._pickable:
            waits = self._at[id_]
            self._calls.update(waits)
            self._places.update(waits.keys())
            if not waits:
                self._empty += 1
            elif len(waits) == 1:
                self._alone.update(waits.keys())
        # Nobody waits at all but one who does not wait at this many.
        enough = len(self._pickable) - 1
        self._widespread = [voice for voice, places in self._places.items() if places >= enough]

    def at(self, member: Deployment) -> Counter[Hashable]:
        """Give how many calls of each caller wait at a member."""
        return self._at[member.id]

    def hiding(self, member: Deployment) -> Hashable | None:
        """Give the caller whose calls wait at all the others that may be picked, several in all; None for none.

        A second such caller hides a silence, as calls do that are long for everybody.
        """
        here, pickable = self._own(member)
        others = len(self._pickable) - pickable
        if not others:
            return None
        found = [
            voice
            for voice in self._widespread
            if self._places[voice] - (voice in here) == others and self._calls[voice] - here[voice] >= self._several
        ]
        return found[0] if len(found) == 1 else None

    def others_answer(self, member: Deployment, hiding: Hashable | None) -> bool:
        """Tell whether at another one, that may be picked, nobody waits, but who hides it."""
        here, pickable = self._own(member)
        found = self._empty - (pickable and not here)
        if hiding is not None:
            found += self._alone[hiding] - (len(here) == 1 and hiding in here)
        return found > 0

    def _own(self, member: Deployment) -> tuple[Counter[Hashable], bool]:
        """What is to be left out of all counts, and whether the member is in them."""
        pickable = member.id in self._pickable
        return self._at[member.id] if pickable else Counter(), pickable
