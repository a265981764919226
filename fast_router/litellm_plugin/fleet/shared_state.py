"""Shared state for `litellm.Router`: attached by itself where there is a Redis to share over.

On by default for a Router that has a Redis of its own (`redis_host`, `redis_url`, or the proxy's cache): whoever
gave it one did so for several processes to share what they know, and LiteLLM itself shares its cooldowns and
usage there without being asked. Also on with `FAST_ROUTER_REDIS_URL`; off with `FAST_ROUTER_SHARED_STATE=0`.

A Router is attached once it has shown that it stays: LiteLLM's proxy makes Routers that serve one request
(`user_config`), and those must not each bring a thread and connections.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from fast_router.cluster import attach
from fast_router.cluster.shared_state import without_redis
from fast_router.cluster.shared_state.options import ClusterOptions
from fast_router.cluster.shared_state.redis_link import redis_of
from fast_router.cluster.shared_state.write_behind import register
from fast_router.errors import ConfigurationError
from fast_router.litellm_plugin.fleet.redis_cache import install_behind
from fast_router.litellm_plugin.layers import fleet_limits
from fast_router.litellm_plugin.layers.fleet_limits import has_redis
from fast_router.settings import current as settings

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding

__all__ = ["install"]

_log = logging.getLogger("fast_router.cluster")

SETTLED_AGE: Final = 1.0
"""Seconds that a Router must be old to be attached ..."""
SETTLED_PICKS: Final = 3
"""... with so many picks, or"""
SETTLED_ANYWAY: Final = 10.0
"""seconds after which it counts as one that stays."""
_LOOK_EVERY: Final = 0.25
_GIVE_UP: Final = 120.0
"""Seconds after which a Router that got no Redis is no longer watched."""


class _Keeper:
    """Watches new Routers from a thread that lives only as long as there are some to watch.

    Args:
        band: Whose Routers.
        behind: Whether LiteLLM's counters are written behind the request.
    """

    def __init__(self, band: Band, *, behind: bool) -> None:
        self._band = band
        self._behind = behind
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[weakref.ref[Any], weakref.ref[Any], float]] = {}
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self.attached: weakref.WeakSet[Any] = weakref.WeakSet()

    def watch(self, binding: Binding, core: Any) -> None:
        """Attach `binding` when its Router stays and has a Redis."""
        with self._lock:
            self._waiting[id(binding)] = (weakref.ref(binding), weakref.ref(core), time.monotonic())
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="fast-router-cluster-keeper", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Watch nobody and detach everybody."""
        self._stopped.set()
        with self._lock:
            self._waiting.clear()
        for state in list(self.attached):
            state.close(0.5)
        self._band.keeper.write_themselves()

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_EVERY):
            with self._lock:
                waiting = dict(self._waiting)
            for key, (binding_ref, core_ref, since) in waiting.items():
                binding, core = binding_ref(), core_ref()
                done = binding is None or core is None or self._consider(binding, core, time.monotonic() - since)
                del binding, core
                if done:
                    with self._lock:
                        self._waiting.pop(key, None)
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return

    def _consider(self, binding: Binding, core: Any, age: float) -> bool:
        """True if there is nothing more to wait for."""
        picks = sum(d.picks for d in list(binding.engine.deployments.values()))
        if age < SETTLED_AGE or (picks < SETTLED_PICKS and age < SETTLED_ANYWAY):
            return False
        if not has_redis(core):
            if picks and settings().limits == "strict":
                without_redis.note(binding.router)
            return age > _GIVE_UP
        try:
            state = attach(binding.router, litellm_router=core)
            self.attached.add(state)
            if state.exchange.behind is not None:
                register(redis_of(core), state.exchange.behind)
                if self._behind:
                    self._band.keeper.write_behind(core)
        except ConfigurationError as error:
            _log.error("shared state is off: %s", error)
        except Exception as error:  # noqa: BLE001 - routing goes on without
            _log.warning("shared state is off (%s)", type(error).__name__)
        return True


def install(patches: PatchSet, band: Band) -> list[str]:
    """Attach Routers as they are bound; with `limits: strict` also admit each pick in Redis.

    Raises:
        ConfigurationError: An option cannot be used.
    """
    from fast_router.litellm_plugin.picks.binding import on_bind  # noqa: PLC0415 - it imports the engine

    if settings().shared_state is False:
        if settings().limits == "strict":
            _log.warning(
                "limits: strict needs shared state, which shared_state (FAST_ROUTER_SHARED_STATE) switches off: unset "
                "that; until then each process counts alone"
            )
        return []
    options = ClusterOptions.read()
    behind = "counters_behind" not in settings().disabled_features
    keeper = _Keeper(band, behind=behind)
    on_bind.append(keeper.watch)

    def undo() -> None:
        on_bind.remove(keeper.watch)
        keeper.stop()
        without_redis.forget()

    patches.on_restore(undo)
    features = ["shared_state"]
    if behind:
        features += install_behind(patches)
    if options.limits != "strict":
        return features
    band.keeper.admit_picks(patches, fleet_limits.install)
    return [*features, "strict limits"]
