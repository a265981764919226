"""What this process tells and hears of calls whose prompts matter: who has a beginning, and what is queued where."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from fast_router.cluster.shared_state.calls import MOST, pack, unpack
from fast_router.engine.prefix_cache import sharing
from fast_router.engine.prefix_cache.event import Event

if TYPE_CHECKING:
    from fast_router.cluster.shared_state.calls import Calls
    from fast_router.cluster.shared_state.engine_port import EnginePort

__all__ = ["CallsExchange"]

BYTES_PER_SECOND: Final = 500_000
"""What one process tells, at the most, one message above that; the oldest is left out where there is more."""
_LOOK_EVERY: Final = 1.0
"""Seconds between two looks for deployments whose prompts have come to matter."""
_ON_THE_WAY: Final = 0.1
"""Seconds that a message takes, at the most."""


class CallsExchange:
    """One instance's side of it. Runs in the background thread.

    Args:
        port: To the engine.
        interval: Seconds between two messages.
    """

    def __init__(self, port: EnginePort, interval: float) -> None:
        self.outbox: deque[Event] = deque(maxlen=MOST)
        self._port = port
        self._delay = 2 * interval + _ON_THE_WAY
        self._looked_at = -float("inf")
        self._allowance = 0.0
        self._allowed_at = 0.0

    def collect(self, now: float, *, alone: bool) -> Calls | None:
        """What to tell now, None for nothing.

        Args:
            now: Monotonic seconds.
            alone: Nobody listens.
        """
        engine = self._port.engine
        if now - self._looked_at >= _LOOK_EVERY:
            self._looked_at = now
            sharing.share(engine, self.outbox, self._delay)
        if alone:
            self.outbox.clear()
        passed, self._allowed_at = now - self._allowed_at, now
        self._allowance = min(BYTES_PER_SECOND, self._allowance + passed * BYTES_PER_SECOND)
        if not self.outbox or self._allowance <= 0:
            return None
        told = pack(self.outbox, engine.clock(), self._port.short)
        self._allowance -= len(told.data)
        return told if told.servers else None

    def hear(self, instance: str, calls: Calls) -> None:
        """Take in what another instance told."""
        engine, port = self._port.engine, self._port
        now = engine.clock()
        events = [
            (deployment, event)
            for event in unpack(calls, now)
            if (deployment := port.deployment(event.server)) is not None
        ]
        sharing.hear(engine, instance, events, now)

    def gone(self, instance: str) -> None:
        """Another instance is no more."""
        sharing.gone(self._port.engine, instance, self._port.engine.clock())

    def close(self) -> None:
        """Tell and hear nothing any more."""
        sharing.leave(self._port.engine, self.outbox)
