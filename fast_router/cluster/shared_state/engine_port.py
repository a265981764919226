"""The seam to the engine: what shared state reads from it, and what it writes into it.

Runs in the background thread. Reading takes no lock (whole numbers of a running process may be a moment
old); writing goes through the engine's own methods, which take its lock.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fast_router.cluster.shared_state.message import Digest, short_id
from fast_router.engine import outside
from fast_router.engine.deployment import RESTING

if TYPE_CHECKING:
    from fast_router.engine import Deployment, Engine

__all__ = ["EnginePort", "Sample"]

_LATENCY_AGE = 600.0
"""Seconds after which a latency that nothing renewed is no longer told to others."""


@dataclass
class Sample:
    """This process at one moment, by short deployment id.

    Attributes:
        load: Open leases; only those above 0.
        usage: Requests and tokens of this process in the server's current minute.
        picks: All picks so far; the difference of two samples is the traffic between them.
        fresh: Deployments that were not there, or were other objects, when the last sample was taken.
    """

    load: dict[str, int] = field(default_factory=dict)
    usage: dict[str, tuple[float, float]] = field(default_factory=dict)
    picks: int = 0
    fresh: list[str] = field(default_factory=list)


class EnginePort:
    """Reads and writes one engine.

    Args:
        engine: The engine behind a router.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._full: dict[str, str] = {}
        self._short: dict[str, str] = {}
        self._objects: dict[str, Deployment] = {}
        # Own usage by the server's minutes: the engine's minutes follow this machine's clock.
        self._minute = -1
        self._usage: dict[str, tuple[float, float]] = {}
        self._seen: dict[str, tuple[float, float]] = {}
        # Foreign usage that was handed to the engine already, in the same minute.
        self._given: dict[str, tuple[float, float]] = {}
        self._applying: int | None = None

    # -- ids -------------------------------------------------------------------------------------

    def short(self, deployment_id: str) -> str:
        """The id that travels."""
        known = self._short.get(deployment_id)
        if known is None:
            known = self._short[deployment_id] = short_id(deployment_id)
            self._full[known] = deployment_id
        return known

    def anew(self, shorts: list[str]) -> None:
        """New objects stand behind these ids: what was given to the old ones has to be given again."""
        for short in shorts:
            self._given.pop(short, None)
            self._seen.pop(short, None)

    def deployment(self, short: str) -> Deployment | None:
        """The deployment behind a travelling id, None if this process has none such."""
        full = self._full.get(short)
        if full is None:
            for deployment_id in list(self.engine.deployments):
                self.short(deployment_id)
            full = self._full.get(short)
        return None if full is None else self.engine.deployments.get(full)

    def prune(self) -> None:
        """Forget ids of deployments that were removed."""
        living = self.engine.deployments
        if len(self._short) > len(living):
            for full in [full for full in self._short if full not in living]:
                short = self._short.pop(full)
                self._full.pop(short, None)
                self._objects.pop(full, None)
                for kept in (self._usage, self._seen, self._given):
                    kept.pop(short, None)

    # -- what this process says ------------------------------------------------------------------

    def sample(self, minute: int) -> Sample:
        """Read the live numbers.

        Args:
            minute: The minute of the Redis server's clock.
        """
        self.engine.settle()
        if minute != self._minute:
            self._minute = minute
            self._usage = {}
            self._given = {}
        out = Sample(usage=self._usage)
        for deployment in list(self.engine.deployments.values()):
            out.picks += deployment.picks
            if self._objects.get(deployment.id) is not deployment:
                self._objects[deployment.id] = deployment
                out.fresh.append(self.short(deployment.id))
            if deployment.in_flight > 0:
                out.load[self.short(deployment.id)] = deployment.in_flight
            if deployment.minute_requests or deployment.minute_tokens:
                self._count(deployment)
            elif deployment.id in self._short:
                self._seen.pop(self._short[deployment.id], None)
        return out

    def _count(self, deployment: Deployment) -> None:
        short = self.short(deployment.id)
        with self.engine.lock:
            requests = deployment.minute_requests - deployment.outside_requests
            tokens = deployment.minute_tokens - deployment.outside_tokens
        before = self._seen.get(short, (0.0, 0.0))
        # Less than before: the engine's minute ended in between, and everything is new.
        more = requests - before[0] if requests >= before[0] else requests
        more_tokens = tokens - before[1] if tokens >= before[1] else tokens
        self._seen[short] = (requests, tokens)
        if more or more_tokens:
            sums = self._usage.get(short, (0.0, 0.0))
            self._usage[short] = (sums[0] + more, sums[1] + more_tokens)

    def latency(self) -> dict[str, Digest]:
        """This process's own latency digests, without what others told it."""
        now = self.engine.clock()
        digests: dict[str, Digest] = {}
        for deployment in list(self.engine.deployments.values()):
            whole = list(deployment.latencies)
            if whole and now - deployment.latency_at < _LATENCY_AGE:
                first = list(deployment.first_tokens)
                digests[self.short(deployment.id)] = (
                    float(f"{sum(whole) / len(whole):.6g}"),
                    len(whole),
                    float(f"{sum(first) / len(first):.6g}") if first else 0.0,
                    len(first),
                )
        return digests

    def resting(self) -> dict[str, float]:
        """Who rests, and for how many more seconds; without rests that are this process's own affair."""
        now = self.engine.clock()
        return {
            self.short(d.id): d.resting_until - now
            for d in list(self.engine.deployments.values())
            if d.held & RESTING and d.resting_until > now and not self.engine.untold(d.id)
        }

    # -- what the others say ---------------------------------------------------------------------

    def set_load(self, load: Mapping[str, int]) -> None:
        """Take over the load of the others; unnamed deployments keep theirs."""
        known = {d.id: float(n) for short, n in load.items() if (d := self.deployment(short)) is not None}
        if known:
            outside.set_loads(self.engine, known)

    def add_usage(self, usage: Mapping[str, tuple[float, float]]) -> None:
        """Take over what the others used in this minute (sums, not differences)."""
        more: dict[str, tuple[float, float]] = {}
        for short, (requests, tokens) in usage.items():
            given = self._given.get(short, (0.0, 0.0))
            if requests <= given[0] and tokens <= given[1]:
                continue
            deployment = self.deployment(short)
            if deployment is not None:
                more[deployment.id] = (max(0.0, requests - given[0]), max(0.0, tokens - given[1]))
                self._given[short] = (max(requests, given[0]), max(tokens, given[1]))
        if more:
            outside.add_usage(self.engine, more)

    def set_latency(self, digests: Mapping[str, Digest]) -> None:
        """Take over the latency that the others saw."""
        known = {d.id: digest for short, digest in digests.items() if (d := self.deployment(short)) is not None}
        if known:
            outside.set_latencies(self.engine, known)

    def rest(self, short: str, seconds: float) -> bool:
        """Let a deployment rest because somebody else says so; False if it is not ours."""
        deployment = self.deployment(short)
        if deployment is None:
            return False
        self._applying = threading.get_ident()
        try:
            if seconds > 0:
                self.engine.rest(deployment, seconds)
            elif deployment.held & RESTING:
                self.engine.wake(deployment)
        finally:
            self._applying = None
        return True

    @property
    def echo(self) -> bool:
        """True while the rest being reported is one that we are applying ourselves."""
        return self._applying == threading.get_ident()
