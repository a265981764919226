"""What several processes tell each other of the prompts that they send to the same servers.

Each tells what it sent where and when its first token came, a moment later and in batches; so every process mirrors
what all of them sent, and knows of nearly all that is queued. No request waits for that, and a message that is lost
costs a detour.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import deque

    from fast_router.engine.deployment import Deployment
    from fast_router.engine.engine import Engine
    from fast_router.engine.prefix_cache.event import Event

__all__ = ["gone", "hear", "leave", "share"]

_AT_ONCE = 8
"""Events that are taken in while the engine's lock is held: picks wait for no more than that."""


def share(engine: Engine, outbox: deque[Event], delay: float) -> None:
    """Have `cache_aware` tell what it sends to an engine's deployments, as far as it looks after them.

    Args:
        engine: Whose deployments.
        outbox: Where to leave what is to be told; bounded, for whoever reads it may be away.
        delay: Seconds that others' news take, at the most.
    """
    for deployment in list(engine.deployments.values()):
        work = deployment.work
        if work is not None and work.outbox is not outbox:
            with engine.lock:
                work.share(outbox, delay)


def leave(engine: Engine, outbox: deque[Event]) -> None:
    """Take that back."""
    for deployment in list(engine.deployments.values()):
        work = deployment.work
        if work is not None and work.outbox is outbox:
            with engine.lock:
                work.share(None, 0.0)


def hear(engine: Engine, source: str, events: Sequence[tuple[Deployment, Event]], now: float) -> None:
    """Take in what another process told.

    Args:
        engine: Whose deployments these are.
        source: Which process.
        events: In the order in which it told them, by this engine's clock.
        now: Engine clock, seconds.
    """
    left = iter(events)
    while some := list(islice(left, _AT_ONCE)):
        with engine.lock:
            for deployment, event in some:
                if deployment.work is not None:
                    deployment.work.hear(source, event, now)
                    for strategy in deployment.counters:
                        strategy.moved(deployment)


def gone(engine: Engine, source: str, now: float) -> None:
    """Forget the calls of a process that is no more."""
    with engine.lock:
        for deployment in engine.deployments.values():
            if deployment.work is not None:
                deployment.work.gone(source, now)
                for strategy in deployment.counters:
                    strategy.moved(deployment)
