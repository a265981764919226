"""Several processes that act as one: shared state over Redis, off the way of every request.

    state = fast_router.cluster.attach(router, url="redis://redis:6379/0")

From then on the router knows what the other processes hold in flight, how fast they find each deployment, what
they used of rpm and tpm, and who rests. If Redis is away each process routes by what it knows itself.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fast_router.cluster.shared_state import without_redis
from fast_router.cluster.shared_state.options import ClusterOptions
from fast_router.errors import ConfigurationError

if TYPE_CHECKING:
    from fast_router.cluster.shared_state.state import ClusterState
    from fast_router.engine import Deployment, Lease
    from fast_router.router import AdvancedRouter
    from fast_router.settings import Settings

__all__ = ["ClusterOptions", "acquire", "attach", "state_of", "statuses"]

_MOST_CANDIDATES = 8
"""Candidates that one admission asks for at a time."""

_lock = threading.Lock()
# By the engine's identity: a state keeps its engine alive, so an identity is not used twice while it is here.
_attached: weakref.WeakValueDictionary[int, ClusterState] = weakref.WeakValueDictionary()


def attach(
    router: AdvancedRouter,
    *,
    url: str | None = None,
    litellm_router: object | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
) -> ClusterState:
    """Share the state of `router` with every process of the same fleet. Twice attached is once attached.

    Args:
        router: Whose state is shared.
        url: Redis to use (`redis://`, `rediss://`, `unix://`, `redis+cluster://`); None takes the one of
            `settings`, else the one that `litellm_router` is configured with.
        litellm_router: The `litellm.Router` that `router` stands behind, if there is one.
        settings: fast_router's settings, or a mapping of `ClusterOptions` names; None: the current settings.

    Returns:
        The running state, with `close()` and `status()`.

    Raises:
        ConfigurationError: An option cannot be used, there is no Redis to use, or the redis package is missing.
            A Redis that does not answer is no error: it is tried again in the background.
    """
    from fast_router.cluster.shared_state.redis_link import find_target  # noqa: PLC0415 - redis is an extra
    from fast_router.cluster.shared_state.state import ClusterState  # noqa: PLC0415

    options = ClusterOptions.read(settings)
    if url is not None:
        options = replace(options, url=url)
    engine = router.engine
    with _lock:
        known = _attached.get(id(engine))
        if known is not None and not known.closed:
            return known
        target = find_target(options, litellm_router)
        if target is None:
            raise ConfigurationError(
                "shared state has no Redis: give attach(url=...), set FAST_ROUTER_REDIS_URL, or configure the "
                "litellm.Router with redis_host and redis_port (or redis_url)"
            )
        state = ClusterState(engine, target, options)
        _attached[id(engine)] = state
    # Whoever lets go of the router need not remember the state; at exit the others learn it at once.
    weakref.finalize(router, state.close, 0.5)
    state.start()
    return state


def state_of(router: AdvancedRouter) -> ClusterState | None:
    """The state that `attach` made for `router`, None if there is none or it was closed."""
    state = _attached.get(id(router.engine))
    return None if state is None or state.closed else state


async def acquire(
    router: AdvancedRouter,
    model: str,
    *,
    exclude: Collection[str] = (),
    tokens: float = 0,
    stream: bool = False,
    key: str | None = None,
) -> Lease:
    """As `AdvancedRouter.acquire`, with limits that hold for the whole fleet (`limits: strict`).

    One round trip admits the request to the first candidate, in the strategy's order, that has room for it: all
    of its limits or none. Without strict limits, or while Redis does not answer, it is a plain `acquire`.

    Args:
        router: A router with shared state.
        model: The model name.
        exclude: Ids that must not be picked.
        tokens: Prompt tokens, reserved until the answer's are known.
        stream: True if the answer is streamed.
        key: Session or prefix, for strategies with affinity.

    Raises:
        UnknownModelError: No deployment has that model name.
        NoDeploymentError: Everybody rests, is excluded or at a limit; `retry_after` in seconds if it is known.
    """
    from fast_router.engine import Ask  # noqa: PLC0415
    from fast_router.errors import NoDeploymentError  # noqa: PLC0415

    state = state_of(router)
    limits = None if state is None else state.limits
    if limits is None:
        return router.acquire(model, exclude=exclude, tokens=tokens, stream=stream, key=key)
    group = router.group(model)
    ruled_out = set(exclude)
    wait: float | None = None
    while True:
        candidates: list[Deployment] = []
        while len(candidates) < _MOST_CANDIDATES:
            ask = Ask(ruled_out, tokens, stream, key) if ruled_out or tokens or stream or key is not None else None
            found = router.engine.peek(group, ask)
            if found is None:
                break
            candidates.append(found)
            ruled_out.add(found.id)
        if not candidates:
            error = router.unavailable(group, exclude)
            if wait is not None:
                error = NoDeploymentError(f"every deployment of {model!r} is at its limit", retry_after=wait)
            raise error
        admission = await limits.admit(candidates, tokens=tokens)
        if admission is None:
            return router.acquire(model, exclude=exclude, tokens=tokens, stream=stream, key=key)
        if admission.deployment is not None:
            lease = router.engine.acquire_deployment(admission.deployment)
            limits.bind(admission, lease, tokens=tokens)
            return lease
        if admission.retry_after is not None:
            wait = admission.retry_after if wait is None else min(wait, admission.retry_after)


def statuses() -> list[dict[str, Any]]:
    """The status of every state that is attached in this process, and who lacks one, for `fast_router.status()`."""
    return [
        *(state.status() for state in list(_attached.values()) if not state.closed),
        *without_redis.statuses(lambda router: state_of(router) is not None),
    ]
