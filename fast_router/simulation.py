"""A fleet in simulated time: the same arrivals for every strategy, ours and LiteLLM's, in seconds instead of hours.

A discrete-event simulator in the manner of Finagle's load-balancer tests: a heap of events, a clock that jumps from
one to the next, servers with slots, queues, service times and faults. Our side is the real engine with its real
breakers, driven by that clock. LiteLLM's side is a model of its documented rules (how it picks, counts, cools down
and retries), written here in a few lines each, because its code reads the wall clock.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Literal, Protocol

from fast_router.engine import Ask, Lease
from fast_router.engine.failover.breaker import BreakerOptions
from fast_router.engine.failover.failures import classify
from fast_router.engine.failover.ledger import AttemptLedger
from fast_router.engine.failover.silence import SilenceOptions
from fast_router.router import AdvancedRouter

__all__ = ["Contender", "Fault", "LiteLLMRules", "Ours", "Outcome", "ServerSpec", "World", "contender", "simulate"]

FaultKind = Literal["error", "throttle", "hang", "down", "slow"]
_GROUP = "fleet"


@dataclass(frozen=True)
class Fault:
    """What is wrong with a server for a while.

    Attributes:
        kind: "error" (500), "throttle" (429), "hang" (no answer), "down" (refused) or "slow".
        start: Seconds after the beginning.
        end: Seconds after the beginning.
        share: Share of the requests that meet it, 0 to 1.
        factor: For "slow": how many times longer a request takes.
        retry_after: For "throttle": seconds that the server asks for.
    """

    kind: FaultKind
    start: float = 0.0
    end: float = math.inf
    share: float = 1.0
    factor: float = 10.0
    retry_after: float | None = None


@dataclass(frozen=True)
class ServerSpec:
    """One server.

    Attributes:
        name: Its name.
        latency: Median service time, in seconds.
        spread: Standard deviation of the logarithm of the service time (0 is constant).
        slots: Requests that it works on at a time; more wait in line.
        faults: What goes wrong.
    """

    name: str
    latency: float = 0.5
    spread: float = 0.3
    slots: int = 32
    faults: Sequence[Fault] = ()


@dataclass(frozen=True)
class World:
    """Servers and load.

    Attributes:
        servers: The fleet.
        rate: Requests/second, on average (a Poisson process).
        seconds: How long requests arrive.
        timeout: Seconds after which an attempt gives up.
        retries: Attempts after the first.
        seed: The same seed gives the same arrivals and service times.
    """

    servers: Sequence[ServerSpec]
    rate: float = 40.0
    seconds: float = 60.0
    timeout: float = 10.0
    retries: int = 2
    seed: int = 1


class SimulatedError(Exception):
    """An attempt's failure, with what the routers look at."""

    def __init__(self, status: int, retry_after: float | None = None) -> None:
        super().__init__(f"status {status}")
        self.status_code = status
        self.retry_after = retry_after


@dataclass
class Outcome:
    """What a contender made of a world.

    Attributes:
        name: The contender's.
        latencies: Seconds from arrival to answer, of every request that was answered.
        errors: Requests that failed for good.
        attempts: Attempts by server.
        wasted: Attempts that failed, by server.
        timeline: Per second of arrival: (slowest answer in seconds, errors).
    """

    name: str
    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    wasted: dict[str, int] = field(default_factory=dict)
    timeline: list[tuple[float, int]] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Give a percentile of the latencies in seconds (share 0 to 1), NaN without any."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan

    @property
    def requests(self) -> int:
        """How many requests there were."""
        return len(self.latencies) + self.errors

    @property
    def amplification(self) -> float:
        """Attempts per request."""
        return sum(self.attempts.values()) / max(1, self.requests)

    def shares(self) -> dict[str, float]:
        """Give each server's share of the attempts, 0 to 1."""
        total = max(1, sum(self.attempts.values()))
        return {name: count / total for name, count in self.attempts.items()}


class Contender(Protocol):
    """A router under test; servers are known by their place in the world."""

    name: str

    def begin(self, request: int) -> tuple[int, Any] | None:
        """Pick a server for the next attempt of a request: its place and a handle; None if nobody is left."""

    def end(self, request: int, handle: Any, error: SimulatedError | None) -> None:
        """Hear how the attempt ended."""


class Ours:
    """Our engine with its breakers and a ledger for each request.

    Args:
        strategy: A strategy's name.
        world: Whose servers.
        clock: Simulated seconds.
    """

    def __init__(self, strategy: str, world: World, clock: Callable[[], float]) -> None:
        self.name = strategy
        self._router = AdvancedRouter(
            strategy,
            model_list=[
                {"model_name": _GROUP, "litellm_params": {"model": s.name}, "model_info": {"id": s.name}}
                for s in world.servers
            ],
            clock=clock,
            wall=clock,
            rng=random.Random(world.seed + 1),
        )
        self._policy = self._router.enable_failover(
            options=BreakerOptions(growth=1, jitter=0), silence=SilenceOptions(), wall_clock=clock
        )
        self._place = {s.name: place for place, s in enumerate(world.servers)}
        self._ledgers: dict[int, AttemptLedger] = {}
        self._clock = clock

    def begin(self, request: int) -> tuple[int, Lease] | None:
        """Pick by the engine; a request that has failed before by its ledger."""
        engine, group = self._router.engine, self._router.groups[_GROUP]
        ledger = self._ledgers.get(request)
        if ledger is None:
            lease = engine.acquire(group, Ask(key=str(request)) if "affinity" in self.name else None)
        else:
            engine.settle()
            candidates = ledger.narrow(group.eligible())
            lease = engine.acquire_from(group, candidates) if candidates else None
        return None if lease is None else (self._place[lease.id], lease)

    def end(self, request: int, handle: Lease, error: SimulatedError | None) -> None:
        """Release the lease and enter a failure in the ledger."""
        handle.release(error)
        if error is None:
            self._ledgers.pop(request, None)
        else:
            ledger = self._ledgers.setdefault(request, AttemptLedger(self._policy.doubtful))
            ledger.failed(handle.id, classify(error), self._clock(), error.retry_after)


class LiteLLMRules:
    """LiteLLM's documented rules (1.106).

    Picks: simple-shuffle draws at random; least-busy takes the first with the fewest counted, and counts a
    request only when its HTTP call begins; latency-based takes the lowest mean of the last ten. Cools down for
    five seconds (or Retry-After): after a 429, or when more than half of at least five requests of a minute failed;
    never for a refused connection. A retry picks again among all that do not cool down.

    Args:
        strategy: "simple-shuffle", "least-busy" or "latency-based-routing".
        world: Whose servers.
        clock: Simulated seconds.
    """

    # From the pick to the beginning of the HTTP call: what a burst has before it is counted.
    COUNTED_AFTER = 0.005

    def __init__(self, strategy: str, world: World, clock: Callable[[], float]) -> None:
        self.name = f"LiteLLM {strategy}"
        self._strategy = strategy
        self._size = len(world.servers)
        self._clock = clock
        self._rng = random.Random(world.seed + 1)
        self._until = [0.0] * self._size
        self._counted = [0] * self._size
        self._pending: deque[tuple[float, int]] = deque()
        self._samples: list[deque[float]] = [deque(maxlen=10) for _ in range(self._size)]
        self._minute: list[list[int]] = [[0, 0, -1] for _ in range(self._size)]

    def begin(self, request: int) -> tuple[int, tuple[int, float]] | None:
        """Pick among those that do not cool down."""
        del request
        now = self._clock()
        while self._pending and self._pending[0][0] <= now:
            self._counted[self._pending.popleft()[1]] += 1
        left = [place for place in range(self._size) if self._until[place] <= now]
        if not left:
            return None
        if self._strategy == "least-busy":
            place = min(left, key=self._counted.__getitem__)
            self._pending.append((now + self.COUNTED_AFTER, place))
        elif self._strategy == "latency-based-routing":
            means = {p: sum(self._samples[p]) / len(self._samples[p]) if self._samples[p] else 0.0 for p in left}
            lowest = min(means.values())
            place = self._rng.choice([p for p in left if means[p] <= lowest])
        else:
            place = self._rng.choice(left)
        return place, (place, now)

    def end(self, request: int, handle: tuple[int, float], error: SimulatedError | None) -> None:
        """Count down, learn, and cool down by LiteLLM's rules."""
        del request
        place, began = handle
        now = self._clock()
        if self._strategy == "least-busy":
            while self._pending and self._pending[0][0] <= now:
                self._counted[self._pending.popleft()[1]] += 1
            for entry in self._pending:
                if entry[1] == place:
                    self._pending.remove(entry)
                    break
            else:
                self._counted[place] = max(0, self._counted[place] - 1)
        minute = self._minute[place]
        if minute[2] != int(now // 60):
            minute[:] = [0, 0, int(now // 60)]
        if error is None:
            minute[0] += 1
            self._samples[place].append(now - began)
            return
        if error.status_code == 408:
            self._samples[place].append(1000.0)
        minute[1] += 1
        total = minute[0] + minute[1]
        cools = error.status_code == 429 or (total >= 5 and minute[1] > 0.5 * total)
        if cools and error.status_code != 0 and self._size > 1:
            self._until[place] = now + (5.0 if error.retry_after is None else error.retry_after)


def contender(name: str, world: World, clock: Callable[[], float]) -> Contender:
    """Make a contender by its name: one of our strategies, or `LiteLLM <strategy>`."""
    if name.startswith("LiteLLM "):
        return LiteLLMRules(name.partition(" ")[2], world, clock)
    return Ours(name, world, clock)


class _Server:
    def __init__(self, spec: ServerSpec) -> None:
        self.spec = spec
        self.busy = 0
        self.line: deque[_Attempt] = deque()

    def fault(self, now: float, draw: float) -> Fault | None:
        for fault in self.spec.faults:
            if fault.start <= now < fault.end and draw < fault.share:
                return fault
        return None


class _Attempt:
    __slots__ = ("handle", "over", "request", "server", "service")

    def __init__(self, request: int, server: _Server, handle: Any, service: float) -> None:
        self.request = request
        self.server = server
        self.handle = handle
        self.service = service
        self.over = False


class _Run:
    """One contender in one world."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.now = 0.0
        self.contender = contender(name, world, lambda: self.now)
        self.outcome = Outcome(self.contender.name)
        self.servers = [_Server(spec) for spec in world.servers]
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.serial = 0
        # Service times and faults are drawn per (request, attempt, server): alike for every contender.
        self.tries: dict[int, int] = {}
        self.arrived: dict[int, float] = {}
        seconds = int(world.seconds) + 1
        self.worst = [0.0] * seconds
        self.failed = [0] * seconds

    def at(self, when: float, what: Callable[[], None]) -> None:
        self.serial += 1
        heappush(self.events, (when, self.serial, what))

    def run(self) -> Outcome:
        rng = random.Random(self.world.seed)
        when, request = 0.0, 0
        while True:
            when += rng.expovariate(self.world.rate)
            if when >= self.world.seconds:
                break
            self.arrived[request] = when
            self.at(when, lambda request=request: self.attempt(request))  # type: ignore[misc]
            request += 1
        for server in self.servers:
            self.outcome.attempts[server.spec.name] = 0
            self.outcome.wasted[server.spec.name] = 0
        while self.events:
            self.now, _, what = heappop(self.events)
            what()
        self.outcome.timeline = list(zip(self.worst, self.failed, strict=True))
        return self.outcome

    def attempt(self, request: int) -> None:
        number = self.tries[request] = self.tries.get(request, -1) + 1
        picked = self.contender.begin(request)
        if picked is None:
            self.finish(request, failed=True)
            return
        place, handle = picked
        server = self.servers[place]
        self.outcome.attempts[server.spec.name] += 1
        rng = random.Random(f"{self.world.seed} {request} {number} {place}")
        service = (
            server.spec.latency * math.exp(rng.gauss(0, server.spec.spread))
            if server.spec.spread
            else (server.spec.latency)
        )
        fault = server.fault(self.now, rng.random())
        attempt = _Attempt(request, server, handle, service)
        if fault is not None and fault.kind != "slow":
            status, delay = {"error": (500, 0.02), "throttle": (429, 0.01), "down": (0, 0.002)}.get(
                fault.kind, (408, self.world.timeout)
            )
            error = SimulatedError(status, fault.retry_after)
            if fault.kind == "down":
                error.__cause__ = ConnectionRefusedError()
                error.status_code = 0
            self.at(self.now + delay, lambda: self.end(attempt, error))
            return
        if fault is not None:
            attempt.service *= fault.factor
        self.at(self.now + self.world.timeout, lambda: self.give_up(attempt))
        if server.busy < server.spec.slots:
            self.serve(attempt)
        else:
            server.line.append(attempt)

    def serve(self, attempt: _Attempt) -> None:
        attempt.server.busy += 1
        self.at(self.now + attempt.service, lambda: self.served(attempt))

    def served(self, attempt: _Attempt) -> None:
        server = attempt.server
        server.busy -= 1
        while server.line:
            following = server.line.popleft()
            if not following.over:
                self.serve(following)
                break
        self.end(attempt, None)

    def give_up(self, attempt: _Attempt) -> None:
        if not attempt.over:
            self.end(attempt, SimulatedError(408))

    def end(self, attempt: _Attempt, error: SimulatedError | None) -> None:
        if attempt.over:
            return
        attempt.over = True
        self.contender.end(attempt.request, attempt.handle, error)
        if error is None:
            self.finish(attempt.request, failed=False)
            return
        self.outcome.wasted[attempt.server.spec.name] += 1
        if self.tries[attempt.request] < self.world.retries:
            self.attempt(attempt.request)
        else:
            self.finish(attempt.request, failed=True)

    def finish(self, request: int, *, failed: bool) -> None:
        arrived = self.arrived[request]
        second = int(arrived)
        if failed:
            self.outcome.errors += 1
            self.failed[second] += 1
        else:
            seconds = self.now - arrived
            self.outcome.latencies.append(seconds)
            self.worst[second] = max(self.worst[second], seconds)


def simulate(world: World, names: Sequence[str]) -> list[Outcome]:
    """Let contenders serve the same arrivals.

    Args:
        world: Servers and load.
        names: Strategies of ours, or `LiteLLM simple-shuffle`, `LiteLLM least-busy` and
            `LiteLLM latency-based-routing`.

    Returns:
        An outcome each, in that order.

    Raises:
        UnknownStrategyError: A name that nobody registered.
    """
    return [_Run(world, name).run() for name in names]
