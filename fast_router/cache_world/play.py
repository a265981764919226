"""Let a contender serve a workload, and see what its callers waited."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from fast_router.cache_world.contenders import Contender, Oracle, Router
from fast_router.cache_world.requests import Workload
from fast_router.cache_world.servers import Server, ServerShape

__all__ = ["Change", "Outcome", "run"]


@dataclass(frozen=True)
class Change:
    """What happens to the fleet.

    Attributes:
        at: Seconds after the beginning.
        restart: The place of a server that loses its cache.
        add: A server that joins.
    """

    at: float
    restart: int | None = None
    add: ServerShape | None = None


@dataclass
class Outcome:
    """What a contender made of a workload.

    Attributes:
        name: The contender's.
        waits: (arrival, seconds to the first token) of each request, in the order of arrival.
        prompt_tokens: Of all requests.
        cached_tokens: Those of them that were in the cache of the server that got them.
        picks: Requests by server.
    """

    name: str
    waits: list[tuple[float, float]] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    picks: dict[str, int] = field(default_factory=dict)

    @property
    def hit_share(self) -> float:
        """Share of the prompt tokens that were cached, 0 to 1."""
        return self.cached_tokens / max(1, self.prompt_tokens)

    def percentile(self, share: float, since: float = 0.0) -> float:
        """A percentile (0 to 1) of the seconds to the first token of what arrived from `since` on; NaN without any."""
        ordered = sorted(seconds for at, seconds in self.waits if at >= since)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


Maker = Callable[[Sequence[Server], Callable[[], float]], Contender]


def run(
    workload: Workload,
    shapes: Sequence[ServerShape],
    contender: str | Maker,
    *,
    reports: bool = False,
    changes: Iterable[Change] = (),
    seed: int = 1,
    options: Mapping[str, Any] | None = None,
) -> Outcome:
    """Let one contender serve a workload.

    Args:
        workload: The arrivals.
        shapes: The fleet.
        contender: A strategy's name, "oracle", or what makes a contender of the servers and the clock.
        reports: Whether servers say how many tokens of a prompt were cached.
        changes: What happens to the fleet meanwhile.
        seed: For the contender's chance.
        options: Of the strategy.

    Returns:
        Its outcome.

    Raises:
        UnknownStrategyError: A name that nobody registered.
    """
    now = 0.0
    servers = [Server(s, workload.block_tokens, workload.cache_blocks) for s in shapes]

    def clock() -> float:
        return now

    picker: Contender
    if not isinstance(contender, str):
        picker = contender(servers, clock)
    elif contender == "oracle":
        picker = Oracle(servers)
    else:
        picker = Router(contender, shapes, clock, seed, **(options or {}))
    outcome = Outcome(picker.name, picks={s.name: 0 for s in shapes})
    # (when, serial, what): 0 is a change, 1 an arrival, 2 a first token, 3 the end of an answer.
    events: list[tuple[float, int, int, Any]] = []
    serial = 0
    for change in changes:
        heappush(events, (change.at, (serial := serial + 1), 0, change))
    arrivals = iter(workload.requests)
    following = next(arrivals, None)
    while events or following is not None:
        if following is not None and (not events or following.at < events[0][0]):
            request, following = following, next(arrivals, None)
            now = request.at
            place, handle = picker.begin(request, workload, now)
            server = servers[place]
            first, cached = server.take(request, now)
            outcome.waits.append((now, first - now))
            outcome.prompt_tokens += request.tokens
            outcome.cached_tokens += cached
            outcome.picks[server.shape.name] += 1
            about = (handle, request, cached if reports else None)
            heappush(events, (first, (serial := serial + 1), 2, about))
            heappush(events, (first + request.output * server.shape.decode, (serial := serial + 1), 3, about))
            continue
        now, _, kind, what = heappop(events)
        if kind == 2:
            picker.first_token(what[0])
        elif kind == 3:
            picker.end(*what)
        elif what.restart is not None:
            servers[what.restart].restart()
        else:
            servers.append(Server(what.add, workload.block_tokens, workload.cache_blocks))
            outcome.picks[what.add.name] = 0
            picker.added(len(servers) - 1, what.add)
    return outcome
