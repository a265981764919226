"""LiteLLM 1.110: its native counters and cooldowns, which wait for no Redis while we write behind the request.

Its Rust stores send commands through a client of their own, within the request: four per success where a deployment
has limits, and one per failure. What a store asks goes through its handle, and ours stands before that: with shared
state it answers from memory, of this process and of what was last read from Redis, and leaves the sending to
`WriteBehind` and to the shared state's own word on rests. Without, every question goes to LiteLLM's handle as ever.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Awaitable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fast_router.cluster.shared_state.redis_link import redis_of
from fast_router.cluster.shared_state.write_behind import own_behind_of
from fast_router.litellm_plugin.rests.store import seconds_left
from fast_router.litellm_plugin.rust_core.cooldown_reads import PREFIX, SUFFIX

if TYPE_CHECKING:
    from fast_router.cluster.shared_state.write_behind import WriteBehind

__all__ = ["CooldownsHandle", "RedisHandles", "UsageHandle", "shares_redis"]

_TERM = 60
"""Seconds that LiteLLM's counters of a minute live."""
_GROUPS = 64


class UsageHandle:
    """The requests and tokens of each deployment's minute (LiteLLM's `RouterUsageHandle`).

    Args:
        own: LiteLLM's handle.
        cache: LiteLLM's Redis cache, which tells who writes behind it.
    """

    def __init__(self, own: Any, cache: Any) -> None:
        self.own = own
        self._cache = cache
        # Counters that were read together, and their names in Redis: a group asks for the same ones for a minute.
        self._read: dict[Any, tuple[tuple[Any, ...], list[str]]] = {}

    @property
    def has_redis(self) -> bool:
        """Whether the store has to wait for Redis."""
        return self.own.has_redis and own_behind_of(self._cache) is None

    def _name(self, id_: str, model: str | None, kind: str, minute: str) -> str:
        key = f"global_router:{id_}:{model}:{kind}:{minute}"
        name: str = self._cache.check_and_fix_namespace(key=key)
        return name

    def _add(self, behind: WriteBehind, id_: str, model: str | None, minute: str, kind: str, by: float) -> float:
        name = self._name(id_, model, kind, minute)
        return _number(behind.add(name, name, by, _TERM))

    def attach(self, client: Any, /) -> bool:
        """As of LiteLLM's."""
        attached: bool = self.own.attach(client)
        return attached

    def increment(self, counter: Any, value: float, ttl_seconds: int) -> Awaitable[float]:
        """As of LiteLLM's; asked only where the store waits for Redis."""
        waiting: Awaitable[float] = self.own.increment(counter, value, ttl_seconds)
        return waiting

    def increment_deployment(
        self, deployment_id: str, model: str | None, minute: str, tokens: float, requests: int
    ) -> Awaitable[None]:
        """As of LiteLLM's; asked only where the store waits for Redis."""
        waiting: Awaitable[None] = self.own.increment_deployment(deployment_id, model, minute, tokens, requests)
        return waiting

    def get_many(self, counters: Sequence[Any]) -> Awaitable[Sequence[float | None]]:
        """As of LiteLLM's; asked only where the store waits for Redis."""
        waiting: Awaitable[Sequence[float | None]] = self.own.get_many(counters)
        return waiting

    def increment_sync(self, counter: Any, value: float, ttl_seconds: int) -> float:
        """Add to one counter and return it."""
        behind = own_behind_of(self._cache)
        if behind is None:
            total: float = self.own.increment_sync(counter, value, ttl_seconds)
            return total
        return self._add(behind, counter.deployment_id, counter.model, counter.minute, counter.kind, value)

    def increment_deployment_sync(
        self, deployment_id: str, model: str | None, minute: str, tokens: float, requests: int
    ) -> None:
        """Count a deployment's requests and their tokens."""
        behind = own_behind_of(self._cache)
        if behind is None:
            self.own.increment_deployment_sync(deployment_id, model, minute, tokens, requests)
            return
        self._add(behind, deployment_id, model, minute, "tpm", tokens)
        self._add(behind, deployment_id, model, minute, "rpm", requests)

    def get_many_sync(self, counters: Sequence[Any]) -> Sequence[float | None]:
        """Return the counters: the fleet's as last heard, and what this process has added since; None for nothing."""
        behind = own_behind_of(self._cache)
        if behind is None:
            found: Sequence[float | None] = self.own.get_many_sync(counters)
            return found
        wanted = tuple(counters)
        key = (wanted[:1], len(wanted))
        read, names = self._read.get(key, (None, []))
        if read != wanted:
            names = [self._name(c.deployment_id, c.model, c.kind, c.minute) for c in wanted]
            if len(self._read) >= _GROUPS:
                self._read.clear()  # those of minutes that are over among them
            self._read[key] = (wanted, names)
        return [None if total is None else _number(total) for total in behind.totals(names)]

    def flush_local_counters(self) -> None:
        """As of LiteLLM's. What waits to be sent is the fleet's, and stays."""
        self.own.flush_local_counters()

    def snapshot(self) -> Mapping[str, float]:
        """As of LiteLLM's."""
        known: Mapping[str, float] = self.own.snapshot()
        return known

    def give_back(self) -> None:
        """Nothing to tell: what waits is sent when the shared state ends."""


def _number(total: float) -> float:
    """A counter as LiteLLM's handle gives it, whole where it is: what is not whole its sums leave out."""
    return int(total) if total.is_integer() else total


class CooldownsHandle:
    """Who cools down (LiteLLM's `RouterCooldownsHandle`).

    Args:
        own: LiteLLM's handle.
        here: One of LiteLLM's without Redis, for what this process knows itself.
        cache: LiteLLM's Redis cache, which tells who writes behind it.
    """

    def __init__(self, own: Any, here: Any, cache: Any) -> None:
        self.own = own
        self._here = here
        self._cache = cache
        _copy(own, here)

    def _behind(self) -> WriteBehind | None:
        """Who writes behind and tells of this Router's rests; None also until Redis was asked for the first time."""
        behind = own_behind_of(self._cache)
        return None if behind is None or (behind.seen is None and not behind.away) else behind

    @property
    def has_redis(self) -> bool:
        """Whether the store has to wait for Redis."""
        return self.own.has_redis and self._behind() is None

    def attach(self, client: Any, /) -> bool:
        """As of LiteLLM's."""
        attached: bool = self.own.attach(client)
        return attached

    def put(self, model_id: str, value: Any, ttl: float) -> None:
        """Note a cooldown. The fleet hears of it as of every rest of this process."""
        (self.own if self._behind() is None else self._here).put(model_id, value, ttl)

    async def async_put(self, model_id: str, value: Any, ttl: float) -> None:
        """Note a cooldown, as `put`."""
        if self._behind() is None:
            await self.own.async_put(model_id, value, ttl)
        else:
            self._here.put(model_id, value, ttl)

    def increment_allowed_fails(self, model_id: str, suffix: str | None, ttl: float) -> int:
        """Count a failure for `allowed_fails`: in Redis, which alone knows the fleet's, while it answers."""
        fails: int = self._counting().increment_allowed_fails(model_id, suffix, ttl)
        return fails

    async def async_increment_allowed_fails(self, model_id: str, suffix: str | None, ttl: float) -> int:
        """Count a failure, as `increment_allowed_fails`."""
        counting = self._counting()
        if counting is self._here:
            here: int = counting.increment_allowed_fails(model_id, suffix, ttl)
            return here
        fails: int = await counting.async_increment_allowed_fails(model_id, suffix, ttl)
        return fails

    def _counting(self) -> Any:
        behind = own_behind_of(self._cache)
        return self._here if behind is not None and behind.away else self.own

    def active(self, model_ids: Sequence[str], send: Any) -> Any:
        """As of LiteLLM's; asked only where the store waits for Redis."""
        return self.own.active(model_ids, send)

    def active_sync(self, model_ids: Sequence[str]) -> list[tuple[str, Any]]:
        """Return who of these cools down, with LiteLLM's record of it."""
        if self._behind() is None:
            own: list[tuple[str, Any]] = list(self.own.active_sync(model_ids))
            return own
        known = self.snapshot()
        return [(id_, known[key]) for id_ in model_ids if (key := f"{PREFIX}{id_}{SUFFIX}") in known]

    def minimum(self, model_ids: Sequence[str]) -> float | None:
        """Return the shortest of these cooldowns, in seconds; None if there is none."""
        if self._behind() is None:
            shortest: float | None = self.own.minimum(model_ids)
            return shortest
        return min((float(value["cooldown_time"]) for _, value in self.active_sync(model_ids)), default=None)

    def delete_local(self, model_id: str) -> None:
        """Forget a cooldown."""
        self.own.delete_local(model_id)
        self._here.delete_local(model_id)
        behind = own_behind_of(self._cache)
        if behind is not None:
            behind.ended(model_id)

    def flush_local_counters(self) -> None:
        """As of LiteLLM's."""
        self.own.flush_local_counters()
        self._here.flush_local_counters()

    def snapshot(self) -> Mapping[str, Any]:
        """Return all that cools down, by LiteLLM's key."""
        behind = self._behind()
        if behind is None:
            return {**self._here.snapshot(), **self.own.snapshot()}
        elsewhere = {key: value for key, value in (behind.seen or {}).items() if _left(value) > 0}
        return {**elsewhere, **self._here.snapshot()}

    def give_back(self) -> None:
        """Tell LiteLLM's handle what it has not heard."""
        _copy(self._here, self.own)


def _left(value: object) -> float:
    """Seconds for which a cooldown still holds; 0 for what is none, as another program may have written it."""
    try:
        return seconds_left(value) or 0.0
    except (KeyError, TypeError, ValueError):
        return 0.0


def _copy(from_: Any, to: Any) -> None:
    for key, value in from_.snapshot().items():
        # What cannot be noted ends early, and nothing else.
        with contextlib.suppress(Exception):
            if (left := _left(value)) > 0:
                to.put(key[len(PREFIX) : -len(SUFFIX)], value, left)


def shares_redis(store: Any) -> bool:
    """Whether others on the same Redis hear of what a store of LiteLLM's notes, whoever sends it."""
    handle = store._handle
    return bool(handle.own.has_redis if isinstance(handle, CooldownsHandle) else store.has_redis)


class RedisHandles:
    """Our handles in the stores of all cores whose Redis is written behind."""

    def __init__(self) -> None:
        self._stores: weakref.WeakSet[Any] = weakref.WeakSet()

    def put_before(self, core: Any) -> None:
        """Put ours before LiteLLM's in the stores of a core."""
        cache, here = redis_of(core), import_module("litellm.redis.stores.connection").RedisStores(None)
        usage, cooldowns = core._usage, core._cooldowns.cooldown_store
        if not isinstance(usage._handle, UsageHandle):
            usage._handle = UsageHandle(usage._handle, cache)
        if not isinstance(cooldowns._handle, CooldownsHandle):
            cooldowns._handle = CooldownsHandle(cooldowns._handle, here.router_cooldowns(), cache)
        self._stores.update((usage, cooldowns))

    def take_away(self) -> None:
        """Give all stores LiteLLM's handles again."""
        for store in list(self._stores):
            handle = store._handle
            if isinstance(handle, (UsageHandle, CooldownsHandle)):
                store._handle = handle.own
                handle.give_back()
        self._stores.clear()
