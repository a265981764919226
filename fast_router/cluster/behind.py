"""LiteLLM's own counters, written behind the request: summed here, sent once a second, one command a counter.

With Redis LiteLLM counts each request there: least-busy runs a script before the call (synchronously, on the event
loop) and one after it, deployments with rpm or tpm cost a pipeline that the answer waits for. Proxies without us
read these counters, so they are kept; only the way there changes. What LiteLLM gets back is the fleet's last known
total and what this process added since, which is what it would have read a second ago.
"""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fast_router.cluster.batch import Command
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["WriteBehind", "behind_of", "install_behind", "register", "succeed", "unregister"]

_MOST_KEYS: Final = 20_000
_USAGE: Final = re.compile(r":[rt]pm:\d\d-\d\d$")
_COUNT: Final = "_request_count:"

_registered: weakref.WeakKeyDictionary[Any, WriteBehind] = weakref.WeakKeyDictionary()


class _Counter:
    __slots__ = ("added", "pending", "total", "ttl", "whole")

    def __init__(self, ttl: float, *, whole: bool) -> None:
        self.pending = 0.0
        self.total = 0.0
        self.ttl = ttl
        self.added = 0.0
        self.whole = whole


class WriteBehind:
    """Sums of increments that wait to be sent.

    Args:
        known: Tells whether a deployment id is one of ours; only their counters are taken.
        clock: Monotonic seconds.
    """

    def __init__(self, known: Callable[[str], bool], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._known = known
        self._clock = clock
        self._lock = threading.Lock()
        self._counters: dict[str, _Counter] = {}

    def takes(self, key: str) -> bool:
        """True for the counters of deployments: usage of a minute, calls in flight."""
        if _USAGE.search(key):
            return key.startswith("global_router:") or self._known(key.split(":", 1)[0])
        return _COUNT in key and self._known(key.rsplit(_COUNT, 1)[1])

    def add(self, key: str, name: str, amount: float, ttl: float) -> float:
        """Take one increment.

        Args:
            key: LiteLLM's key.
            name: The key with its namespace, as it stands in Redis.
            amount: What is added.
            ttl: Seconds that the key lives after its first increment.

        Returns:
            The counter as far as it is known here.
        """
        with self._lock:
            counter = self._counters.get(name)
            if counter is None:
                if len(self._counters) >= _MOST_KEYS:
                    self._counters.clear()
                counter = self._counters[name] = _Counter(ttl, whole=_COUNT in key)
            counter.pending += amount
            counter.added = self._clock()
            return counter.total + counter.pending

    def commands(self) -> tuple[list[Command], Callable[[list[Any]], None]]:
        """What has to be sent now, and who takes the answers."""
        now = self._clock()
        out: list[Command] = []
        names: list[str] = []
        with self._lock:
            for name, counter in list(self._counters.items()):
                if now - counter.added > counter.ttl:
                    del self._counters[name]
                elif counter.pending:
                    # Calls in flight are whole numbers to LiteLLM's script; usage is not.
                    command = "INCRBY" if counter.whole else "INCRBYFLOAT"
                    amount = int(counter.pending) if counter.whole else counter.pending
                    if amount:
                        out.append((command, name, amount))
                        names.append(name)
                        counter.pending -= amount
            fresh = [name for name in names if self._counters[name].total == 0.0]
            out += [("EXPIRE", name, int(self._counters[name].ttl)) for name in fresh]

        def take(answers: list[Any]) -> None:
            with self._lock:
                for name, answer in zip(names, answers, strict=False):
                    counter = self._counters.get(name)
                    if counter is not None:
                        counter.total = max(0.0, float(answer))

        return out, take


def register(cache: Any, behind: WriteBehind) -> None:
    """Send the counters that LiteLLM writes through `cache` by way of `behind`."""
    _registered[cache] = behind


def succeed(old: WriteBehind | None, new: WriteBehind | None) -> None:
    """After a fork: what the parent has not sent yet is the parent's; the child counts anew."""
    for cache in [cache for cache, found in list(_registered.items()) if found is old]:
        if new is not None:
            _registered[cache] = new


def unregister(behind: WriteBehind) -> None:
    """Let LiteLLM write its counters itself again."""
    for cache in [cache for cache, found in list(_registered.items()) if found is behind]:
        _registered.pop(cache, None)


def behind_of(cache: Any) -> WriteBehind | None:
    """What `register` was given for `cache`."""
    return _registered.get(cache)


def install_behind(patches: PatchSet) -> list[str]:
    """Put ourselves before LiteLLM's own writing of counters; only registered caches are concerned."""
    from litellm.caching.redis_cache import RedisCache  # noqa: PLC0415 - LiteLLM is imported

    patches.replace(RedisCache, "async_increment_pipeline", _pipeline)
    # Before 1.106 least-busy kept one dict a group instead of a counter a deployment: that is left as it is.
    if hasattr(RedisCache, "increment_with_floor"):
        patches.replace(RedisCache, "increment_with_floor", _floor)
        patches.replace(RedisCache, "async_increment_with_floor", _async_floor)
    return ["counters_behind"]


def _pipeline(original: Any) -> Any:
    async def async_increment_pipeline(self: Any, increment_list: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        behind = _registered.get(self)
        if behind is None or not increment_list or not all(behind.takes(op["key"]) for op in increment_list):
            return await original(self, increment_list, *args, **kwargs)
        return [
            behind.add(
                op["key"], self.check_and_fix_namespace(key=op["key"]), op["increment_value"], op.get("ttl") or 60
            )
            for op in increment_list
        ]

    return async_increment_pipeline


def _floor(original: Any) -> Any:
    def increment_with_floor(self: Any, key: str, value: int, ttl: int) -> int:
        behind = _registered.get(self)
        if behind is None or not behind.takes(key):
            return int(original(self, key, value, ttl))
        return int(max(0.0, behind.add(key, self.check_and_fix_namespace(key=key), value, ttl)))

    return increment_with_floor


def _async_floor(original: Any) -> Any:
    async def async_increment_with_floor(self: Any, key: str, value: int, ttl: int) -> int:
        behind = _registered.get(self)
        if behind is None or not behind.takes(key):
            return int(await original(self, key, value, ttl))
        return int(max(0.0, behind.add(key, self.check_and_fix_namespace(key=key), value, ttl)))

    return async_increment_with_floor
