"""What has happened to a router's deployments lately: the log lines of rests and returns, and who is away since when.

A rest and the return from it are logged at one level, so that whoever sees the first sees the second.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from fast_router.engine.deployment import RESTING
from fast_router.naming import name_of, served_by
from fast_router.settings.log_level import prepare

if TYPE_CHECKING:
    from fast_router.engine import Deployment, Engine
    from fast_router.engine.failover.breaker import Change

__all__ = ["Changes"]

_log = logging.getLogger("fast_router")
_KEPT = 200


class Changes:
    """The changes of one router's deployments.

    Args:
        engine: Whose deployments these are.

    Attributes:
        counts: How often breakers went into each state: model, id, state → count.
        recent: The last changes, oldest first: when (seconds since the epoch), which deployment, and what in words.
    """

    __slots__ = ("_away", "_engine", "counts", "recent")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        prepare()
        self._away: dict[str, float] = {}
        self.counts: dict[tuple[str, str, str], int] = {}
        self.recent: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def since(self, id_: str) -> float | None:
        """When a deployment's breaker left `closed`, in seconds since the epoch; None if it has not."""
        return self._away.get(id_)

    def breaker(self, deployment: Deployment, change: Change, group: Collection[Deployment]) -> None:
        """Note a change of a deployment's breaker.

        Args:
            deployment: Whose.
            change: What happened.
            group: Its model group.
        """
        if change.new is change.old:
            return
        now, state = self._engine.wall(), change.new.value
        key = (deployment.name, deployment.id, state)
        self.counts[key] = self.counts.get(key, 0) + 1
        if state == "half_open":
            self._say(logging.INFO, deployment, f"may come back: {change.reason}")
        elif state == "open":
            first = self._away.setdefault(deployment.id, now)
            if deployment.held & RESTING:
                what = f"rests for {max(0.0, change.until - self._engine.clock()):.1f} s"
            elif len(group) == 1:
                what = "fails, and serves those who have no fallback"
            else:
                what = "fails and goes on serving, since too many others rest"
            again = "" if first == now else f", out since {time.strftime('%H:%M:%S', time.localtime(first))}"
            self._say(logging.WARNING, deployment, f"{what}: {change.reason}{again}; {_meanwhile(group, deployment)}")
        else:
            away = now - self._away.pop(deployment.id, now)
            serving = sum(1 for member in group if not member.held)
            what = f"is back after {away:.1f} s: {change.reason}; {serving} of {len(group)} serve now"
            self._say(logging.WARNING, deployment, what)

    def note(self, deployment: Deployment, what: str) -> None:
        """Note what somebody did to a deployment, in words that follow its name."""
        self._say(logging.WARNING, deployment, what)

    def _say(self, level: int, deployment: Deployment, what: str) -> None:
        name = name_of(deployment, list(self._engine.deployments))
        self.recent.append({"at": round(self._engine.wall(), 3), **name._asdict(), "what": what})
        _log.log(level, "%s %s", name, what)


def _meanwhile(group: Collection[Deployment], deployment: Deployment) -> str:
    others = [member for member in group if member is not deployment and not member.held]
    if not others:
        return "nothing else serves"
    return f"meanwhile {served_by(others)} ({len(others)} of {len(group)})"
