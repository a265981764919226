"""LiteLLM's books of deployments with limits, kept without its walk where they are in this process's memory alone.

What is written and read is what LiteLLM's own steps write and read, by its own objects: the tokens and requests of
the minute, what remains of the group's limits, the slots of calls at a time. With Redis its own way is gone.
"""

from __future__ import annotations

from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Books"]

_WHOLE = frozenset({int, type(None)})


class Counted(Protocol):
    """A group, as far as its limits go; `guard.Open` is one.

    Attributes:
        name: As LiteLLM's headers call it.
        counters: The minute, and LiteLLM's counters of the group in it; None until first read.
    """

    name: str
    counters: Any


class Books:
    """LiteLLM's books.

    Args:
        minute: Gives the minute, as LiteLLM's counters are named by it.
        memory: LiteLLM's class of caches in memory.
    """

    def __init__(self, minute: Callable[[], str], memory: Any) -> None:
        self._minute = minute
        self._memory = memory
        self._store = import_module("litellm.redis.stores.router_usage").RouterUsageStore
        self._limit = import_module("litellm.router_utils.client_initalization_utils").MaxParallelRequestsLimit
        self._groups = import_module("litellm.router_rust.surface.model_info")

    def _in_memory(self, core: Any) -> bool:
        store = core._usage
        return type(store) is self._store and not store.has_redis

    def count(self, core: Any, model: str, id_: str, tokens: int) -> bool:
        """Count one request and its tokens in the deployment's minute; False where LiteLLM has to."""
        if not self._in_memory(core):
            return False
        core._usage.increment_deployment_sync(id_, model, self._minute(), tokens, 1)
        return True

    def remaining(self, core: Any, found: Counted) -> Mapping[str, Any] | None:
        """What remains of a group's limits, as LiteLLM's headers tell it; None where LiteLLM has to look."""
        hosted, groups = core._hosted, self._groups
        info = hosted._cached_get_model_group_info(found.name)
        if groups._limits_io(info) or not self._in_memory(core) or hosted._core_usage_store is not core._usage:
            return None
        usage = None
        if groups._limits_usage(info):
            minute = self._minute()
            if found.counters is None or found.counters[0] != minute:
                found.counters = (minute, hosted._group_usage_counters(found.name))
            counters = found.counters[1]
            if counters is None:
                return None
            tpm, rpm = counters
            values = core._usage.get_many_sync((*tpm, *rpm))
            usage = (self._total(values[: len(tpm)]), self._total(values[len(tpm) :]))
        remaining: Mapping[str, Any] = groups._remaining_usage(info, None, usage)
        return remaining

    def _total(self, values: Sequence[object]) -> int | None:
        """Sum the counters as LiteLLM does, which leaves out all but whole numbers; None if there is none."""
        kinds = set(map(type, values))
        if kinds <= _WHOLE:
            # Without a step of Python for each: a group has two counters per deployment.
            return sum(filter(None, values)) if int in kinds else None  # type: ignore[arg-type]
        total: int | None = self._groups._usage_totals(values, len(values))[0]
        return total

    def slot(self, core: Any, key: str) -> ExitStack | None:
        """A slot of a deployment that has a limit of calls at a time; None where LiteLLM has to look.

        Raises:
            litellm.RateLimitError: None is free.
        """
        memory = core._cache.in_memory_cache
        if type(memory) is not self._memory:
            return None
        limit = memory.cache_dict.get(key)
        ends = memory.ttl_dict.get(key)
        if type(limit) is not self._limit or (ends is not None and ends <= memory._clock() + 1):
            return None
        slot = ExitStack()
        slot.enter_context(limit)
        return slot
