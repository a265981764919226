"""LiteLLM's cooldowns, mirrored for the lane: who cools down there rests in the engine.

LiteLLM keeps them in a store in Rust. Whatever this process writes there is noticed at once; what other processes
have written shows up in the store when somebody has read it from Redis, and is looked for once per second.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding

__all__ = ["Mirror", "install"]

_EVERY = 1.0
_PREFIX, _SUFFIX = "deployment:", ":cooldown"


class _Written:
    """How often a cooldown was written or taken back in this process."""

    __slots__ = ("times",)

    def __init__(self) -> None:
        self.times = 0


_written = _Written()


class Mirror:
    """The cooldowns of one Router.

    Attributes:
        due: When to look again, engine clock.
        seen: How many writes had been made at the last look.
    """

    __slots__ = ("due", "resting", "seen")

    def __init__(self) -> None:
        self.due = -1.0
        self.seen = -1
        self.resting: set[str] = set()

    def refresh(self, binding: Binding, core: Any, now: float) -> None:
        """Take over what LiteLLM's store knows, if it may know something new."""
        if now < self.due and self.seen == _written.times:
            return
        self.due, self.seen = now + _EVERY, _written.times
        found = core._cooldowns.cooldown_store.snapshot()
        if not found and not self.resting:
            return
        engine = binding.engine
        wall = time.time()
        cooling: set[str] = set()
        for key, value in found.items():
            id_ = str(key).removeprefix(_PREFIX).removesuffix(_SUFFIX)
            deployment = engine.deployments.get(id_)
            if deployment is not None:
                cooling.add(id_)
                engine.rest(deployment, float(value["timestamp"]) + float(value["cooldown_time"]) - wall)
        for id_ in self.resting - cooling:
            # Over, or taken back early.
            deployment = engine.deployments.get(id_)
            if deployment is not None:
                engine.wake(deployment, quiet=True)
        self.resting = cooling


def _noted(original: Any) -> Any:
    def write(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        finally:
            _written.times += 1

    return write


def _noted_async(original: Any) -> Any:
    async def write(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await original(self, *args, **kwargs)
        finally:
            _written.times += 1

    return write


def install(patches: PatchSet) -> None:
    """Hear of every cooldown that LiteLLM writes or takes back."""
    from litellm.redis.stores.router_cooldowns import RouterCooldownStore  # noqa: PLC0415 - LiteLLM is imported

    patches.replace(RouterCooldownStore, "put", _noted)
    patches.replace(RouterCooldownStore, "evict_local", _noted)
    patches.replace(RouterCooldownStore, "async_put", _noted_async)
