"""LiteLLM's own counters and maps, written behind the request: kept here, sent once a second, one command a key.

With Redis LiteLLM counts each request there: least-busy runs a script before the call (synchronously, on the event
loop) and one after it, deployments with rpm or tpm cost a pipeline that the answer waits for. Proxies without us
read these counters, so they are kept; only the way there changes. What LiteLLM gets back is the fleet's last known
total and what this process added since, which is what it would have read a second ago.

Latency-based, cost-based and usage-based routing keep one dict a model group instead, and write all of it after each
call, over what others wrote. Of those the last of each second is sent.

A failure writes, too: a cooldown, synchronously on the event loop, and a counted request; and it reads everybody's
cooldowns. With Redis away each would hold up requests for seconds. Cooldowns are read here once a second in any case.
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
    from fast_router.cluster.shared_state.round_trip import Command

__all__ = ["WriteBehind", "behind_of", "own_behind_of", "register", "succeed", "unregister"]

_NEVER: Final = -float("inf")
_MOST_KEYS: Final = 20_000
_USAGE: Final = re.compile(r":[rt]pm:\d\d-\d\d$")
_COUNT: Final = "_request_count:"
_COOLDOWN: Final = re.compile(r"^deployment:(.+):cooldown$")
_ALLOWED_FAILS: Final = re.compile(r"^deployment:(.+):allowed_fails(:|$)")
# Latency, cost, usage before v2, and least-busy before LiteLLM 1.106.
_MAP: Final = re.compile(r"_map$|^cost_map:|:[rt]pm:\d\d-\d\d$|_request_count$")

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

    Attributes:
        away: True while Redis does not answer.
        seen: LiteLLM's key of a cooldown → what Redis had there when it was last asked; None before.
    """

    def __init__(self, known: Callable[[str], bool], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._known = known
        self._clock = clock
        self._lock = threading.Lock()
        self._counters: dict[str, _Counter] = {}
        self._maps: dict[str, tuple[dict[str, Any], int | None]] = {}
        self._cooldowns: dict[str, tuple[dict[str, Any], int | None]] = {}
        self.away = False
        self.seen: dict[str, Any] | None = None
        # Counter of usage, with its namespace → what Redis had there when it was last asked.
        self._usage: dict[str, float] = {}

    def _ours(self, id_: str) -> bool:
        """Whether a deployment is one of this Router or of another one that writes behind."""
        return self._known(id_) or any(other._known(id_) for other in _caches.writers)

    def takes(self, key: str) -> bool:
        """True for the counters of deployments: usage of a minute, calls in flight."""
        if _USAGE.search(key):
            return key.startswith("global_router:") or self._ours(key.split(":", 1)[0])
        return _COUNT in key and self._ours(key.rsplit(_COUNT, 1)[1])

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

    def totals(self, names: Sequence[str]) -> list[float | None]:
        """Counters of usage by their names in Redis, as far as they are known here; None where nothing is."""
        last = self._usage.get
        return [
            last(name) if counter is None else max(counter.total, last(name) or 0.0) + counter.pending
            for name, counter in zip(names, map(self._counters.get, names), strict=True)
        ]

    def saw_usage(self, usage: dict[str, float]) -> None:
        """What stood in Redis for the counters of this minute, by their names there."""
        self._usage = usage

    def takes_map(self, key: str, value: object) -> bool:
        """True for a dict of LiteLLM's strategies that has deployments of ours for keys."""
        return isinstance(value, dict) and _MAP.search(key) is not None and any(map(self._ours, value))

    def takes_cooldown(self, key: str, value: object) -> bool:
        """True for the cooldown of a deployment of ours."""
        found = _COOLDOWN.match(key)
        return found is not None and isinstance(value, dict) and self._ours(found[1])

    def counts_failures(self, key: str) -> bool:
        """True for the count of a deployment's failures in a window, which only Redis can tell."""
        found = _ALLOWED_FAILS.match(key)
        return found is not None and self._ours(found[1])

    def saw(self, deployment_ids: Sequence[str], values: Sequence[Any]) -> None:
        """What stood in Redis for the cooldowns of these deployments (`LiteLLMKeys.load`ed), None for nothing."""
        self.seen = {
            f"deployment:{id_}:cooldown": value for id_, value in zip(deployment_ids, values, strict=False) if value
        }

    def ended(self, deployment_id: str) -> None:
        """A cooldown was ended early."""
        if self.seen:
            self.seen.pop(f"deployment:{deployment_id}:cooldown", None)

    def cooldowns(self, keys: Sequence[Any]) -> dict[Any, Any] | None:
        """What is known of these keys, each of them; None if one is not the cooldown of a deployment of ours."""
        seen = self.seen
        if seen is None or not keys:
            return None
        for key in keys:
            found = _COOLDOWN.match(key) if isinstance(key, str) else None
            if found is None or not self._known(found[1]):
                return None
        return {key: seen.get(key) for key in keys}

    def cool(self, name: str, value: dict[str, Any], ttl: int | None) -> None:
        """Take a cooldown; as `put`, but it is sent at once."""
        with self._lock:
            if len(self._cooldowns) < _MOST_KEYS or name in self._cooldowns:
                self._cooldowns[name] = (value, ttl)

    def urgent(self) -> list[Command]:
        """What has to be sent at once."""
        if not self._cooldowns:
            return []
        with self._lock:
            cooldowns, self._cooldowns = self._cooldowns, {}
        return [_set_command(name, value, ttl) for name, (value, ttl) in cooldowns.items() if ttl != 0]

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
        out += [_set_command(name, value, ttl) for name, (value, ttl) in maps.items()]

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


def _set_command(name: str, value: dict[str, Any], ttl: int | None) -> Command:
    return ("SET", name, _text(value), *(("EX", ttl) if ttl else ()))


def _text(value: dict[str, Any]) -> str:
    # LiteLLM reads both forms: JSON is what its asynchronous half writes, a literal what its synchronous half does.
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return str(value)


class _Caches:
    """LiteLLM's Redis caches, and who writes behind each."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.registered: weakref.WeakKeyDictionary[Any, WriteBehind] = weakref.WeakKeyDictionary()
        self.writers: tuple[WriteBehind, ...] = ()
        # Caches of Routers that share no state: too young, or gone. What they write goes by way of another's.
        self.others: weakref.WeakKeyDictionary[Any, WriteBehind | None] = weakref.WeakKeyDictionary()

    def changed(self) -> None:
        self.writers = tuple(dict.fromkeys(self.registered.values()))
        self.others.clear()

    def other(self, cache: Any) -> WriteBehind | None:
        """Who writes to the same Redis for another cache, None if nobody does."""
        with self.lock:
            if cache not in self.others:
                address = _address(cache)
                same = (behind for one, behind in self.registered.items() if _address(one) == address)
                self.others[cache] = None if address is None else next(same, None)
            return self.others[cache]


_caches = _Caches()


def _address(cache: Any) -> Any:
    """How a cache reaches its Redis: caches with the same have the same Redis."""
    return getattr(cache, "redis_kwargs", None) or None


def behind_of(cache: Any) -> WriteBehind | None:
    """Who writes behind a cache of LiteLLM's, None if it writes itself.

    LiteLLM tells every Router's strategy about every Router's requests, and goes on telling it when the Router is gone.
    """
    found = _caches.registered.get(cache)
    return found if found is not None or not _caches.writers else _caches.other(cache)


def own_behind_of(cache: Any) -> WriteBehind | None:
    """Who writes behind a cache and knows its Router's deployments, None if nobody does."""
    return _caches.registered.get(cache)


def register(cache: Any, behind: WriteBehind) -> None:
    """Send the counters that LiteLLM writes through `cache` by way of `behind`."""
    with _caches.lock:
        _caches.registered[cache] = behind
        _caches.changed()


def succeed(old: WriteBehind | None, new: WriteBehind | None) -> None:
    """After a fork: what the parent has not sent yet is the parent's; the child counts anew."""
    with _caches.lock:
        for cache in [cache for cache, found in list(_caches.registered.items()) if found is old]:
            if new is not None:
                _caches.registered[cache] = new
        _caches.changed()


def unregister(behind: WriteBehind) -> None:
    """Let LiteLLM write its counters itself again."""
    with _caches.lock:
        for cache in [cache for cache, found in list(_caches.registered.items()) if found is behind]:
            _caches.registered.pop(cache, None)
        _caches.changed()
