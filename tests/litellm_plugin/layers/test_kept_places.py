"""Places that a Router keeps for callers who were refused, asked for by several threads."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from fast_router.engine.failover.reserve import Reserve
from fast_router.litellm_plugin.layers.kept_places import KeptPlaces


class Lane:
    """A Router's picks, as far as kept places go."""

    def __init__(self):
        self.engine = SimpleNamespace(clock=lambda: 0.0)
        self.lock = threading.RLock()
        self.closed = 0

    def queued(self, by):
        self.closed += by


class Held:
    """A place that somebody has."""

    def __init__(self, caller):
        self.ledger = SimpleNamespace(caller=lambda: caller)


def test_what_one_thread_keeps_no_other_one_throws_out(monkeypatch):
    lane = Lane()
    kept = KeptPlaces(lane)
    attempts = {Held("greedy"), Held("greedy")}
    member = SimpleNamespace(max_parallel=2, in_flight=2, held=0, picks=2, attempts=attempts)
    group = SimpleNamespace(name="m", members=[member])
    note = Reserve.refused

    def meanwhile(self, caller, places):
        other = threading.Thread(target=kept.admits, args=(group, "greedy"))
        other.start()
        other.join(0.2)  # it may have to wait for us
        note(self, caller, places)

    monkeypatch.setattr(Reserve, "refused", meanwhile)
    kept.refused(group, "modest")
    assert lane.closed == 1
    attempts.pop()
    member.in_flight = 1
    assert not kept.admits(group, "greedy")
    assert kept.admits(group, "modest")
    kept.clear()
    assert lane.closed == 0
