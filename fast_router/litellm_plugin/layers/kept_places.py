"""The places that a Router keeps for callers whom a quality-of-service limit has refused (`failover.reserve`)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from fast_router.engine.deployment import FULL
from fast_router.engine.failover.reserve import Places, Reserve

if TYPE_CHECKING:
    from collections.abc import Hashable

    from fast_router.engine import ModelGroup
    from fast_router.litellm_plugin.picks.binding import Binding

__all__ = ["KeptPlaces", "kept_places_of"]


class KeptPlaces:
    """The kept places of all groups of one Router.

    Args:
        binding: The Router's picks; its fast lane is closed while any place is kept.
    """

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._reserves: dict[str, Reserve] = {}
        self._lane_closed = False
        # Who holds what in a group, and for which state of it that was counted.
        self._counted: dict[str, tuple[Any, dict[Any, Hashable | None], Counter[Hashable]]] = {}

    def admits(self, group: ModelGroup, caller: Hashable | None) -> bool:
        """Tell whether a caller may have a free place of a group."""
        if not self._mind_the_lane():
            return True
        reserve = self._reserves.get(group.name)
        if reserve is None or not reserve.in_use():
            return True
        places = self._places(group)
        return places is None or reserve.admits(caller, places)

    def refused(self, group: ModelGroup, caller: Hashable | None) -> None:
        """Note that a caller found no place in a group."""
        places = None if caller is None else self._places(group)
        if places is None:
            return
        # At once: until it is noted the reserve is not in use, and another thread would throw it out.
        with self._binding.lock:
            reserve = self._reserves.get(group.name)
            if reserve is None:
                reserve = self._reserves[group.name] = Reserve(self._binding.engine.clock)
            reserve.refused(caller, places)
            self._mind_the_lane()

    def clear(self) -> None:
        """Keep none."""
        with self._binding.lock:
            self._reserves.clear()
            self._mind_the_lane()

    def _mind_the_lane(self) -> bool:
        """Close the fast lane while a place is kept; tell whether one is."""
        if not self._reserves and not self._lane_closed:
            return False  # the usual case takes no lock
        # Looked at and acted upon at once: the lane must not open over what another thread has just kept.
        with self._binding.lock:
            for name in [name for name, reserve in self._reserves.items() if not reserve.in_use()]:
                del self._reserves[name]
                self._counted.pop(name, None)
            in_use = bool(self._reserves)
            if in_use != self._lane_closed:
                self._lane_closed = in_use
                self._binding.queued(1 if in_use else -1)
        return in_use

    def _places(self, group: ModelGroup) -> Places | None:
        """The places of a group as it is; None if there is no number of them."""
        open_ = [member for member in group.members if not member.held & ~FULL]
        limits = [member.max_parallel for member in open_]
        total = sum(int(limit) for limit in limits if limit)
        if not total or not all(limits):
            return None
        taken = sum(member.in_flight for member in open_)
        return Places(total, int(total - taken), self._held(group))

    def _held(self, group: ModelGroup) -> Counter[Hashable]:
        state = (group, *((member.picks, member.in_flight) for member in group.members))
        counted, known, held = self._counted.get(group.name, (None, {}, Counter()))
        if counted == state:
            return held
        callers: dict[Any, Hashable | None] = {}
        for member in group.members:
            for attempt in list(member.attempts):
                if attempt in known:
                    callers[attempt] = known[attempt]
                else:
                    callers[attempt] = None if attempt.ledger is None else attempt.ledger.caller()
        held = Counter(caller for caller in callers.values() if caller is not None)
        self._counted[group.name] = (state, callers, held)
        return held


def kept_places_of(binding: Binding) -> KeptPlaces:
    """Give the kept places of a Router."""
    found: KeptPlaces | None = binding.kept
    if found is None:
        with binding.lock:
            found = binding.kept
            if found is None:
                found = binding.kept = KeptPlaces(binding)
    return found
