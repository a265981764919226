"""LiteLLM's own counters and maps, written behind the request: kept here, sent once a second, one command a key.

With Redis LiteLLM counts each request there: least-busy runs a script before the call (synchronously, on the event
loop) and one after it, deployments with rpm or tpm cost a pipeline that the answer waits for. Proxies without us
read these counters, so they are kept; only the way there changes. What LiteLLM gets back is the fleet's last known
total and what this process added since, which is what it would have read a second ago.

Latency-based, cost-based and usage-based routing keep one dict a model group instead, and write all of it after each
call, over what others wrote. Of those the last of each second is sent.
"""

from __future__ import annotations

import json
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

_NEVER: Final = -float("inf")
_MOST_KEYS: Final = 20_000
_USAGE: Final = re.compile(r":[rt]pm:\d\d-\d\d$")
_COUNT: Final = "_request_count:"
# Latency, cost, usage before v2, and least-busy before LiteLLM 1.106.
_MAP: Final = re.compile(r"_map$|^cost_map:|:[rt]pm:\d\d-\d\d$|_request_count$")

_registered: weakref.WeakKeyDictionary[Any, WriteBehind] = weakref.WeakKeyDictionary()


# Redis lost what was open (a restart without persistence): the ends that were still to come took it below nothing.
_FLOOR: Final = (
    "local count = tonumber(redis.call('GET', KEYS[1])) "
    "if count and count < 0 then redis.call('SET', KEYS[1], 0, 'EX', ARGV[1]) end"
)


class _Counter:
    __slots__ = ("added", "below", "pending", "renewed", "total", "ttl", "whole")

    def __init__(self, ttl: float, *, whole: bool) -> None:
        self.pending = 0.0
        self.total = 0.0
        self.ttl = ttl
        self.added = 0.0
        self.whole = whole
        # When its term was last set, and whether it was seen below 0.
        self.renewed = _NEVER
        self.below = False


class WriteBehind:
    """Sums of increments, and the last of each map, that wait to be sent.

    Args:
        known: Tells whether a deployment id is one of ours; only their counters are taken.
        clock: Monotonic seconds.
    """

    def __init__(self, known: Callable[[str], bool], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._known = known
        self._clock = clock
        self._lock = threading.Lock()
        self._counters: dict[str, _Counter] = {}
        self._maps: dict[str, tuple[dict[str, Any], int | None]] = {}

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

    def takes_map(self, key: str, value: object) -> bool:
        """True for a dict of LiteLLM's strategies that has deployments of ours for keys."""
        return isinstance(value, dict) and _MAP.search(key) is not None and any(map(self._known, value))

    def put(self, name: str, value: dict[str, Any], ttl: int | None) -> None:
        """Take a map, in the place of what was taken before; it is read when it is sent.

        Args:
            name: The key with its namespace, as it stands in Redis.
            value: The map.
            ttl: Seconds that the key lives, None for ever.
        """
        with self._lock:
            if len(self._maps) < _MOST_KEYS or name in self._maps:
                self._maps[name] = (value, ttl)

    def commands(self) -> tuple[list[Command], Callable[[list[Any]], None]]:
        """What has to be sent now, and who takes the answers."""
        now = self._clock()
        out: list[Command] = []
        sent: list[tuple[str, float]] = []
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
                        sent.append((name, amount))
                        counter.pending -= amount
            used = {name for name, _ in sent}
            for name, counter in self._counters.items():
                if counter.below:
                    counter.below = False
                    out.append(("EVAL", _FLOOR, 1, name, int(counter.ttl)))
                # In time for the increments of the minute's last second, which come after its end.
                if counter.renewed == _NEVER or (name in used and now - counter.renewed > counter.ttl / 2):
                    counter.renewed = now
                    out.append(("EXPIRE", name, int(counter.ttl)))
            maps, self._maps = self._maps, {}
        for name, (value, ttl) in maps.items():
            out.append(("SET", name, _text(value), *(("EX", ttl) if ttl else ())))

        def take(answers: list[Any]) -> None:
            with self._lock:
                for (name, amount), answer in zip(sent, answers, strict=False):
                    counter = self._counters.get(name)
                    if counter is not None:
                        total = float(answer)
                        if counter.total and total == amount:
                            # This made the key anew, after Redis lost it: it has no term yet.
                            counter.renewed = _NEVER
                        counter.total = max(0.0, total)
                        counter.below = counter.whole and total < 0

        return out, take


def _text(value: dict[str, Any]) -> str:
    # LiteLLM reads both forms: JSON is what its asynchronous half writes, a literal what its synchronous half does.
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return str(value)


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
    patches.replace(RedisCache, "set_cache", _set)
    patches.replace(RedisCache, "async_set_cache", _async_set)
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


def _taken(cache: Any, key: Any, value: Any, options: dict[str, Any]) -> bool:
    behind = _registered.get(cache)
    if behind is None or options.get("nx") or not isinstance(key, str) or not behind.takes_map(key, value):
        return False
    behind.put(cache.check_and_fix_namespace(key=key), value, cache.get_ttl(**options))
    return True


def _set(original: Any) -> Any:
    def set_cache(self: Any, key: Any, value: Any, **kwargs: Any) -> Any:
        return None if _taken(self, key, value, kwargs) else original(self, key, value, **kwargs)

    return set_cache


def _async_set(original: Any) -> Any:
    async def async_set_cache(self: Any, key: Any, value: Any, **kwargs: Any) -> Any:
        return True if _taken(self, key, value, kwargs) else await original(self, key, value, **kwargs)

    return async_set_cache
