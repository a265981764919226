"""Several processes that act as one: shared state over Redis, off the way of every request.

    state = fast_router.cluster.attach(router, url="redis://redis:6379/0")

From then on the router knows what the other processes hold in flight, how fast they find each deployment, what
they used of rpm and tpm, and who rests. If Redis is away each process routes by what it knows itself.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fast_router.cluster.options import ClusterOptions
from fast_router.errors import ConfigurationError

if TYPE_CHECKING:
    from fast_router.cluster.state import ClusterState
    from fast_router.router import AdvancedRouter
    from fast_router.settings import Settings

__all__ = ["ClusterOptions", "attach", "state_of"]

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
    from fast_router.cluster.connection import find_target  # noqa: PLC0415 - redis is an extra
    from fast_router.cluster.state import ClusterState  # noqa: PLC0415

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
