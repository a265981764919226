"""Who chooses servers: one of our strategies, or an oracle."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fast_router.cache_world.requests import Request, Workload
from fast_router.cache_world.servers import Server, ServerShape
from fast_router.cluster.shared_state import calls
from fast_router.engine.prefix_cache import sharing
from fast_router.engine.prefix_cache.event import Event
from fast_router.router import AdvancedRouter

__all__ = ["Contender", "Oracle", "Proxies", "Router"]

MODEL = "fleet"


class Contender(Protocol):
    """Chooses servers; they are known by their place."""

    name: str

    def begin(self, request: Request, workload: Workload, now: float) -> tuple[int, Any]:
        """The server for a request, and a handle."""

    def first_token(self, handle: Any) -> None:
        """Its first token has come."""

    def end(self, handle: Any, request: Request, cached: int | None) -> None:
        """Its answer is complete; `cached` is what the server reported, None if it reports nothing."""

    def added(self, place: int, shape: ServerShape) -> None:
        """A server joined the fleet."""


class Oracle:
    """The earliest first token, by the true caches and queues.

    Args:
        servers: The fleet, as it lives.
    """

    name = "oracle"

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers

    def begin(self, request: Request, workload: Workload, now: float) -> tuple[int, None]:
        """Ask every server."""
        del workload
        return min((server.expected(request, now), place) for place, server in enumerate(self._servers))[1], None

    def first_token(self, handle: None) -> None:
        """It knows."""

    def end(self, handle: None, request: Request, cached: int | None) -> None:
        """It knows."""

    def added(self, place: int, shape: ServerShape) -> None:
        """It looks at the fleet itself."""


class Router:
    """One of our strategies, called as a program calls it.

    Args:
        strategy: Its name.
        shapes: The fleet.
        clock: Virtual seconds.
        seed: For its chance.
        options: Of the strategy.
    """

    def __init__(
        self, strategy: str, shapes: Sequence[ServerShape], clock: Callable[[], float], seed: int = 1, **options: Any
    ) -> None:
        self.name = strategy
        self.router = AdvancedRouter(
            strategy,
            model_list=[self._entry(s) for s in shapes],
            clock=clock,
            wall=clock,
            rng=random.Random(seed),
            **options,
        )
        self._place = {s.name: place for place, s in enumerate(shapes)}

    @staticmethod
    def _entry(shape: ServerShape) -> dict[str, Any]:
        return {"model_name": MODEL, "litellm_params": {"model": shape.name}, "model_info": {"id": shape.name}}

    def begin(self, request: Request, workload: Workload, now: float) -> tuple[int, Any]:
        """Acquire a lease."""
        del now
        lease = self.router.acquire(MODEL, key=workload.text(request), tokens=request.tokens, stream=True)
        return self._place[lease.id], lease

    def first_token(self, handle: Any) -> None:
        """Tell the lease."""
        handle.first_token()

    def end(self, handle: Any, request: Request, cached: int | None) -> None:
        """Release the lease."""
        handle.release(
            completion_tokens=request.output,
            total_tokens=request.tokens + request.output,
            prompt_tokens=request.tokens,
            cached_tokens=cached,
        )

    def added(self, place: int, shape: ServerShape) -> None:
        """Add it to the list."""
        self._place[shape.name] = place
        self.router.add_deployment(self._entry(shape))


class Proxies:
    """Several processes with one of our strategies, each with its part of the arrivals.

    What they tell each other goes through the very messages that travel over Redis, in batches and late.

    Args:
        strategy: Its name.
        shapes: The fleet.
        clock: Virtual seconds.
        count: How many.
        interval: Seconds between two batches of one process; None: they tell each other nothing.
        delay: Seconds that a batch travels.
        seed: For chance.
    """

    def __init__(
        self,
        strategy: str,
        shapes: Sequence[ServerShape],
        clock: Callable[[], float],
        *,
        count: int = 2,
        interval: float | None = 0.1,
        delay: float = 0.1,
        seed: int = 1,
    ) -> None:
        self.name = f"{strategy} × {count}" + ("" if interval is not None else ", alone")
        self.members = [Router(strategy, shapes, clock, seed + place) for place in range(count)]
        self._random = random.Random(f"proxies {seed}")
        self._clock = clock
        self._interval, self._delay = interval, delay
        self._due = interval or 0.0
        self._outboxes: list[deque[Event]] = [deque(maxlen=calls.MOST) for _ in range(count)]
        # (when it arrives, whose, what).
        self._travelling: deque[tuple[float, int, calls.Calls]] = deque()
        self._share()

    def begin(self, request: Request, workload: Workload, now: float) -> tuple[int, Any]:
        """Have one of them pick."""
        self._exchange()
        member = self.members[int(self._random.random() * len(self.members))]
        place, lease = member.begin(request, workload, now)
        return place, (member, lease)

    def first_token(self, handle: Any) -> None:
        """Tell the one that picked."""
        self._exchange()
        handle[0].first_token(handle[1])

    def end(self, handle: Any, request: Request, cached: int | None) -> None:
        """Tell the one that picked."""
        self._exchange()
        handle[0].end(handle[1], request, cached)

    def added(self, place: int, shape: ServerShape) -> None:
        """Tell all of them."""
        for member in self.members:
            member.added(place, shape)
        self._share()

    def _share(self) -> None:
        if self._interval is not None:
            for member, outbox in zip(self.members, self._outboxes, strict=True):
                sharing.share(member.router.engine, outbox, 2 * self._interval + self._delay)

    def _exchange(self) -> None:
        """Do what was due until now, each at its time."""
        if self._interval is None:
            return
        now, travelling = self._clock(), self._travelling
        while True:
            if travelling and travelling[0][0] <= min(now, self._due):
                at, place, batch = travelling.popleft()
                for other, member in enumerate(self.members):
                    if other != place:
                        self._hear(member, str(place), batch, at)
            elif self._due <= now:
                for place, outbox in enumerate(self._outboxes):
                    while outbox:
                        batch = calls.pack(outbox, self._due, str)
                        travelling.append((self._due + self._delay, place, batch))
                self._due += self._interval
            else:
                return

    def _hear(self, member: Router, source: str, batch: calls.Calls, at: float) -> None:
        deployments = member.router.engine.deployments
        # By the sender's account of how long ago it was, and what it travelled.
        heard = [
            (deployments[event.server], event._replace(at=event.at - self._delay)) for event in calls.unpack(batch, at)
        ]
        sharing.hear(member.router.engine, source, heard, at)
