"""Servers with a prefix cache in virtual time: an hour of traffic in seconds, the same arrivals for every strategy.

A server computes prompts one after the other (prefill: a fixed time and so many tokens per second, less what its cache
holds) and generates answers beside that. Its cache is an LRU of blocks, as in vLLM: a prompt's last blocks leave first,
so what is left of it is always a beginning. A request is a row of block ids, equal ids being equal beginnings; a router
sees it as text, as a program would send it, and knows nothing of the ids. The `Oracle` beside it knows every cache and
every queue as they are.
"""

from __future__ import annotations

import json
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from fast_router.errors import ConfigurationError
from fast_router.router import AdvancedRouter

__all__ = [
    "WORKLOADS", "Change", "Contender", "Oracle", "Outcome", "Request", "Router", "Server", "ServerShape", "Workload",
    "agents", "chat", "conversations", "mixed", "read_trace", "run", "shape", "tenants", "traffic",
]  # fmt: skip

CHARACTERS = 4
"""Characters per token, as a rule of thumb for English."""
BLOCK_TOKENS = 16
"""Tokens per block of the generated workloads (vLLM's default): 64 characters."""
TRACE_TOKENS = 512
"""Tokens per block of a published trace."""
MODEL = "fleet"
_MIX = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Request:
    """One call.

    Attributes:
        at: Seconds after the beginning.
        blocks: Ids of the prompt's blocks; a block's id says everything up to and with that block.
        tokens: Of the prompt.
        output: Tokens of the answer.
    """

    at: float
    blocks: tuple[int, ...]
    tokens: int
    output: int


@dataclass(frozen=True)
class Workload:
    """Arrivals, and what a block is.

    Attributes:
        name: What it is called.
        requests: In the order of arrival.
        block_tokens: Tokens per block.
        cache_blocks: Blocks that a server's cache holds, unless the fleet says otherwise.
    """

    name: str
    requests: Sequence[Request]
    block_tokens: int = BLOCK_TOKENS
    cache_blocks: int = 6000

    def text(self, request: Request) -> str:
        """The prompt as a program would send it, four characters per token; equal blocks are equal text."""
        repeats = max(1, self.block_tokens * CHARACTERS // 16)
        text = "".join([format((block + 1) * _MIX & _WORD, "016x") * repeats for block in request.blocks])
        return text[: request.tokens * CHARACTERS]

    def at_speed(self, speed: float) -> Workload:
        """The same requests, `speed` times as fast."""
        return replace(self, requests=[replace(r, at=r.at / speed) for r in self.requests])


@dataclass(frozen=True)
class ServerShape:
    """What a server can do.

    Attributes:
        name: Its name.
        rate: Prompt tokens computed per second.
        fixed: Seconds that every prompt takes besides.
        decode: Seconds per token of the answer, however many answers it works on.
        cache_blocks: Blocks in its cache; None for what the workload says.
    """

    name: str
    rate: float = 8000.0
    fixed: float = 0.02
    decode: float = 0.02
    cache_blocks: int | None = None


def shape(count: int, **options: Any) -> list[ServerShape]:
    """So many equal servers; `options` are attributes of `ServerShape`."""
    return [ServerShape(f"s{number}", **options) for number in range(count)]


class Server:
    """One server at work.

    Args:
        shape: What it can do.
        block_tokens: Tokens per block.
        cache_blocks: Blocks in its cache.

    Attributes:
        free_at: When it has computed all prompts that it has.
    """

    def __init__(self, shape: ServerShape, block_tokens: int, cache_blocks: int) -> None:
        self.shape = shape
        self.block_tokens = block_tokens
        self.cache_blocks = cache_blocks if shape.cache_blocks is None else shape.cache_blocks
        self.cache: OrderedDict[int, None] = OrderedDict()
        self.free_at = 0.0

    def cached(self, request: Request) -> int:
        """Tokens of the prompt that its cache holds."""
        cache, blocks = self.cache, request.blocks
        low, high = 0, len(blocks)
        # What is held of a prompt is a beginning, so its end is found by bisection.
        while low < high:
            middle = (low + high) // 2
            if blocks[middle] in cache:
                low = middle + 1
            else:
                high = middle
        return min(request.tokens, low * self.block_tokens)

    def expected(self, request: Request, now: float) -> float:
        """Seconds to the first token if it came here now."""
        uncached = request.tokens - self.cached(request)
        return max(0.0, self.free_at - now) + self.shape.fixed + uncached / self.shape.rate

    def take(self, request: Request, now: float) -> tuple[float, int]:
        """Put it in line: when its first token comes, and how many tokens of it were in the cache."""
        cached = self.cached(request)
        work = self.shape.fixed + (request.tokens - cached) / self.shape.rate
        self.free_at = max(now, self.free_at) + work
        cache = self.cache
        for block in reversed(request.blocks):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > self.cache_blocks:
            cache.popitem(last=False)
        return self.free_at, cached

    def restart(self) -> None:
        """Lose the cache."""
        self.cache.clear()


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


# -- workloads ---------------------------------------------------------------------------------------------


class _Ids:
    """New block ids."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self, count: int) -> tuple[int, ...]:
        first = self._last
        self._last += count
        return tuple(range(first, self._last))


def _blocks(rng: random.Random, characters: float, spread: float = 0.5) -> int:
    """Blocks of a text of so many characters in the median."""
    return max(1, round(rng.lognormvariate(math.log(characters), spread) / (BLOCK_TOKENS * CHARACTERS)))


def _output(rng: random.Random, tokens: float = 150) -> int:
    return max(1, round(rng.lognormvariate(math.log(tokens), 0.6)))


def conversations(
    name: str,
    *,
    seed: int,
    rate: float,
    seconds: float,
    systems: int,
    system: int,
    turns: float,
    said: float,
    pause: float,
    cache_blocks: int,
) -> Workload:
    """Sessions that share beginnings and grow with every turn.

    Args:
        name: What to call it.
        seed: The same seed gives the same requests.
        rate: Requests per second, all sessions together.
        seconds: How long sessions begin.
        systems: Different beginnings.
        system: Characters of a beginning.
        turns: Turns per session, on average (geometric).
        said: Characters that a turn adds, in the median.
        pause: Seconds between an answer and the next turn, on average.
        cache_blocks: Blocks that a server's cache holds.
    """
    rng, ids = random.Random(f"{name} {seed}"), _Ids()
    beginnings = [ids(max(1, round(system / (BLOCK_TOKENS * CHARACTERS)))) for _ in range(systems)]
    popularity = list(accumulate(1 / (1 + place) ** 0.7 for place in range(systems)))
    requests: list[Request] = []
    begins = 0.0
    while True:
        begins += rng.expovariate(rate / turns)
        if begins >= seconds:
            break
        blocks = rng.choices(beginnings, cum_weights=popularity)[0]
        at = begins
        while True:
            blocks += ids(_blocks(rng, said))
            output = _output(rng)
            if at < seconds:
                requests.append(Request(at, blocks, len(blocks) * BLOCK_TOKENS, output))
            if rng.random() < 1 / turns:
                break
            at += 0.3 + output * 0.02 + rng.expovariate(1 / pause)
    requests.sort(key=lambda request: request.at)
    return Workload(name, requests, BLOCK_TOKENS, cache_blocks)


def agents(seed: int = 1, rate: float = 14.0, seconds: float = 300.0) -> Workload:
    """Agents: one system prompt of 24,000 characters with their tools, sessions that grow quickly."""
    return conversations(
        "agents", seed=seed, rate=rate, seconds=seconds, systems=1, system=24_000, turns=8, said=1200, pause=4,
        cache_blocks=6000,
    )  # fmt: skip


def tenants(seed: int = 1, rate: float = 40.0, seconds: float = 300.0) -> Workload:
    """40 tenants with a long prompt each and single turns."""
    return conversations(
        "tenants", seed=seed, rate=rate, seconds=seconds, systems=40, system=6000, turns=1, said=500, pause=1,
        cache_blocks=3000,
    )  # fmt: skip


def chat(seed: int = 1, rate: float = 20.0, seconds: float = 300.0) -> Workload:
    """Conversations under one short system prompt."""
    return conversations(
        "chat", seed=seed, rate=rate, seconds=seconds, systems=1, system=1000, turns=6, said=1500, pause=15,
        cache_blocks=6000,
    )  # fmt: skip


def mixed(seed: int = 1, rate: float = 10.0, seconds: float = 300.0, spread: float = 1.2) -> Workload:
    """Prompts without any sharing, of log-normal lengths: 2,000 tokens in the median."""
    rng, ids = random.Random(f"mixed {seed}"), _Ids()
    requests: list[Request] = []
    at = 0.0
    while (at := at + rng.expovariate(rate)) < seconds:
        blocks = ids(min(4000, _blocks(rng, 8000, spread)))
        requests.append(Request(at, blocks, len(blocks) * BLOCK_TOKENS, _output(rng)))
    return Workload("mixed", requests, BLOCK_TOKENS, 6000)


def traffic(seed: int = 1, rate: float = 3.4, seconds: float = 1800.0) -> Workload:
    """Chat traffic of the kind of the published traces, in their blocks: long prompts, of which a third go on.

    Prompts have 7,000 tokens in the median with a heavy tail, one block is common to all, and conversations come back
    after minutes.
    """
    rng, ids = random.Random(f"traffic {seed}"), _Ids()
    common = ids(1)
    requests: list[Request] = []
    begins = 0.0
    while (begins := begins + rng.expovariate(rate * 0.6)) < seconds:
        at, tokens, blocks = begins, 0.0, common
        while at < seconds:
            tokens += (
                min(60_000.0, rng.lognormvariate(math.log(6000), 1.0)) if not tokens else rng.expovariate(1 / 2500)
            )
            tokens = min(tokens, 120_000.0)
            blocks += ids(max(0, math.ceil(tokens / TRACE_TOKENS) - len(blocks)))
            requests.append(Request(at, blocks, int(tokens), _output(rng, 250)))
            if rng.random() < 0.6:
                break
            at += rng.expovariate(1 / 120)
    requests.sort(key=lambda request: request.at)
    return Workload("traffic", requests, TRACE_TOKENS, 3000)


WORKLOADS: dict[str, Callable[..., Workload]] = {"agents": agents, "tenants": tenants, "chat": chat, "mixed": mixed}
"""The generated workloads by name; each takes `seed`, `rate` and `seconds`."""


def read_trace(path: str | Path, *, block_tokens: int = TRACE_TOKENS, cache_blocks: int = 3000) -> Workload:
    """Read a published trace: one JSON object per line with timestamp, input_length, output_length and hash_ids.

    Args:
        path: The file.
        block_tokens: Tokens per block (512 in the traces of the Mooncake paper).
        cache_blocks: Blocks that a server's cache holds.

    Raises:
        ConfigurationError: It cannot be read, or a line is malformed; the message names the line.
    """
    requests: list[Request] = []
    try:
        with Path(path).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    requests.append(_of_line(line, f"{path}: line {number}"))
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})"
        raise ConfigurationError(msg) from error
    if not requests:
        msg = f"{path}: no requests in it; give a trace with one JSON object per line"
        raise ConfigurationError(msg)
    requests.sort(key=lambda request: request.at)
    return Workload(Path(path).stem, requests, block_tokens, cache_blocks)


def _of_line(line: str, where: str) -> Request:
    wanted = "{timestamp: ms, input_length: tokens, output_length: tokens, hash_ids: [a number per block]}"
    try:
        row = json.loads(line)
        request = Request(
            float(row["timestamp"]) / 1000,
            tuple(int(block) for block in row["hash_ids"]),
            int(row["input_length"]),
            int(row["output_length"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{where} is not a request: {wanted} as JSON is needed"
        raise ConfigurationError(msg) from error
    if not (math.isfinite(request.at) and request.at >= 0 and request.tokens >= 0 and request.output >= 0):
        msg = f"{where} has a number that is negative or not finite"
        raise ConfigurationError(msg)
    return request
