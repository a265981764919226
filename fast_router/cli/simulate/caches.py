"""Servers with a prefix cache: every strategy, LiteLLM's rules and an oracle on the same arrivals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fast_router.cache_world import Contender, Oracle, Outcome, Request, Router, Server, ServerShape, Workload, run
from fast_router.simulation import LiteLLMRules, ServerSpec, World

__all__ = ["LiteLLMContender", "compare"]


class LiteLLMContender:
    """LiteLLM's documented rules (`fast_router.simulation.LiteLLMRules`), which know nothing of caches.

    Args:
        strategy: LiteLLM's name of one of its strategies.
        shapes: The fleet.
        clock: Virtual seconds.
        seed: For its chance.
    """

    def __init__(self, strategy: str, shapes: Sequence[ServerShape], clock: Callable[[], float], seed: int) -> None:
        self.name = f"LiteLLM {strategy}"
        self._rules = LiteLLMRules(strategy, World([ServerSpec(one.name) for one in shapes], seed=seed), clock)

    def begin(self, request: Request, workload: Workload, now: float) -> tuple[int, Any]:
        """Pick by the rules."""
        del request, workload, now
        picked = self._rules.begin(0)
        if picked is None:
            raise AssertionError("no server of this world ever rests")
        return picked

    def first_token(self, handle: Any) -> None:
        """The rules do not look at it."""

    def end(self, handle: Any, request: Request, cached: int | None) -> None:
        """Count down."""
        del request, cached
        self._rules.end(0, handle, None)

    def added(self, place: int, shape: ServerShape) -> None:
        """No server joins in a comparison."""
        raise NotImplementedError


class _Watched:
    """A contender whose progress is told."""

    def __init__(self, inner: Contender, tell: Callable[[], None]) -> None:
        self.name = inner.name
        self.first_token, self.end, self.added = inner.first_token, inner.end, inner.added
        self._inner = inner
        self._tell = tell

    def begin(self, request: Request, workload: Workload, now: float) -> tuple[int, Any]:
        self._tell()
        return self._inner.begin(request, workload, now)


def compare(
    workload: Workload,
    shapes: Sequence[ServerShape],
    names: Sequence[str],
    *,
    reports: bool,
    seed: int,
    progress: Callable[[str, int], None],
) -> list[Outcome]:
    """Let each contender serve the workload; the oracle is the last.

    Args:
        workload: The arrivals.
        shapes: The fleet.
        names: Strategies of ours, or `LiteLLM <strategy>`.
        reports: Whether servers say how much of a prompt was cached.
        seed: For the contenders' chance.
        progress: Called with a contender's name and the requests it has picked for, now and then.

    Raises:
        UnknownStrategyError: A name that is not registered.
    """
    return [_one(workload, shapes, name, reports, seed, progress) for name in (*names, "oracle")]


def _one(
    workload: Workload,
    shapes: Sequence[ServerShape],
    name: str,
    reports: bool,
    seed: int,
    progress: Callable[[str, int], None],
) -> Outcome:
    every = max(1, len(workload.requests) // 100)
    picked = 0

    def tell() -> None:
        nonlocal picked
        picked += 1
        if picked % every == 0:
            progress(name, picked)

    def make(servers: Sequence[Server], clock: Callable[[], float]) -> Contender:
        inner: Contender
        if name == "oracle":
            inner = Oracle(servers)
        elif name.startswith("LiteLLM "):
            inner = LiteLLMContender(name.partition(" ")[2], shapes, clock, seed)
        else:
            inner = Router(name, shapes, clock, seed)
        return _Watched(inner, tell)

    outcome = run(workload, shapes, make, reports=reports)
    progress(name, len(workload.requests))
    return outcome
