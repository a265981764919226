"""The last picks with candidates, choice and outcome: switched on for a while, and nothing at all otherwise.

While it is on, the picks of each engine go through a function that notes them; off, it has its own methods back.
No prompt is in reach here, and no key: what is noted are ids, names and numbers.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from fast_router.explain import compared
from fast_router.naming import server_of, short_id

if TYPE_CHECKING:
    from fast_router.engine import Deployment, Engine, Lease, ModelGroup
    from fast_router.engine.ask import Ask
    from fast_router.router import AdvancedRouter

__all__ = ["LONGEST", "Trace", "trace"]

LONGEST = 3600.0
"""Seconds that a trace may be on at the most."""
_KEPT = 500
_CANDIDATES = 20
_UNKNOWN = ("in_flight", "latency", "weight")  # of a strategy that is not ours
_METHODS = ("acquire", "acquire_from", "acquire_deployment")


class _Tracer:
    """One engine's picks."""

    def __init__(self, router: AdvancedRouter, kept: deque[dict[str, Any]]) -> None:
        self.engine: Engine = router.engine
        self._reread = router.reader
        self._kept = kept
        self._open: weakref.WeakKeyDictionary[Lease, dict[str, Any]] = weakref.WeakKeyDictionary()

    def on(self) -> None:
        engine = self.engine
        acquire, acquire_from, acquire_deployment = (getattr(engine, name) for name in _METHODS)

        def traced(group: ModelGroup, ask: Any = None) -> Lease | None:
            seen = self._seen(group, [m for m in group.members if not m.held], ask)
            return self._note(acquire(group, ask), group.name, seen, len(group.members))

        def traced_from(group: ModelGroup, candidates: Any, ask: Any = None) -> Lease | None:
            seen = self._seen(group, list(candidates), ask)
            return self._note(acquire_from(group, candidates, ask), group.name, seen, len(group.members))

        def traced_deployment(deployment: Deployment, ask: Any = None) -> Lease:
            lease: Lease = acquire_deployment(deployment, ask)
            self._note(lease, deployment.name, None, 0)
            return lease

        for name, function in zip(_METHODS, (traced, traced_from, traced_deployment), strict=True):
            vars(engine)[name] = function
        engine.on_release.append(self._released)
        if self._reread is not None:
            self._reread()  # compiled plans hold the method

    def off(self) -> None:
        for name in _METHODS:
            vars(self.engine).pop(name, None)
        if self._released in self.engine.on_release:
            self.engine.on_release.remove(self._released)
        if self._reread is not None:
            self._reread()

    def _seen(self, group: ModelGroup, candidates: list[Deployment], ask: Ask | None) -> list[dict[str, Any]]:
        ids = list(self.engine.deployments)
        with self.engine.lock:
            now = self.engine.clock()
            return [
                {
                    "id": short_id(each.id, ids),
                    "server": server_of(each.entry),
                    **compared(each, group.strategy, now, ask, _UNKNOWN),
                }
                for each in candidates[:_CANDIDATES]
            ]

    def _note(
        self, lease: Lease | None, model: str, candidates: list[dict[str, Any]] | None, size: int
    ) -> Lease | None:
        known = self.engine.deployments
        row = {
            "at": round(self.engine.wall(), 3),
            "model": model,
            "picked": None if lease is None else short_id(lease.id, list(known)),
            "server": None if lease is None or lease.id not in known else server_of(known[lease.id].entry),
            "by": "LiteLLM" if candidates is None else "fast_router",
            "candidates": candidates,
            "of": size,
            "outcome": "nobody was eligible" if lease is None else "under way",
            "seconds": None,
            "first_token": None,
        }
        self._kept.append(row)
        if lease is not None:
            self._open[lease] = row
        return lease

    def _released(self, lease: Lease, error: BaseException | None, cancelled: bool) -> None:
        row = self._open.pop(lease, None)
        if row is not None:
            row["outcome"] = "cancelled" if cancelled else "ok" if error is None else type(error).__name__
            row["seconds"] = round(self.engine.clock() - lease.started, 4)
            row["first_token"] = lease.seconds_to_first_token


class Trace:
    """The trace of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._tracers: list[_Tracer] = []
        self._timer: threading.Timer | None = None

    @property
    def active(self) -> bool:
        """Whether it is on."""
        return bool(self._tracers)

    def on(self, routers: list[AdvancedRouter], seconds: float) -> None:
        """Trace these routers from now on, for so long; on again is on anew."""
        self.off()
        with self._lock:
            self._kept.clear()
            self._tracers = [_Tracer(router, self._kept) for router in routers]
            for tracer in self._tracers:
                tracer.on()
            self._timer = threading.Timer(min(seconds, LONGEST), self.off)
            self._timer.daemon = True
            self._timer.start()

    def off(self) -> None:
        """Give each engine its own methods back; what was noted stays to be read."""
        with self._lock:
            timer, self._timer = self._timer, None
            tracers, self._tracers = self._tracers, []
            if timer is not None:
                timer.cancel()
            for tracer in tracers:
                tracer.off()

    def read(self, model: str | None = None) -> list[dict[str, Any]]:
        """What was noted, oldest first."""
        return [dict(row) for row in list(self._kept) if model in (None, row["model"])]


trace = Trace()
"""This process's."""
