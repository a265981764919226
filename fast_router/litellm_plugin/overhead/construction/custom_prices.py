"""Custom prices: a registration that changes nothing is not made again.

LiteLLM registers a deployment's own prices anew on every request. Each time it merges the same rows
into the price map, and each time it throws away every cache that depends on the map, for the whole
process. Here the second registration of the same values is watched: if it left the map as it was
(and wrote no log line), later ones are skipped until anything in the map changes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.fingerprints import member
from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.overhead.construction.prices import PriceClock
    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE", "Registrations"]

_LIMIT = 20_000


class _Seen:
    """One registration as it was made last, and the rows it led to."""

    __slots__ = ("changes", "cost", "kwargs", "rows", "settled", "value")

    def __init__(self, value: Any, kwargs: Any) -> None:
        self.value = value
        self.kwargs = kwargs
        self.cost: Any = None
        self.rows: dict[str, Any] = {}
        self.changes = -1
        #: Whether it was seen to change nothing.
        self.settled = False


class _Listener(logging.Filter):
    """Notices log lines at INFO and above that this thread writes."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = False
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread == self._thread and record.levelno >= logging.INFO:
            self.heard = True
        return True


class Registrations:
    """Which registrations are known to change nothing.

    Args:
        litellm: The module `litellm`.
        prices: The price map's generation.
    """

    def __init__(self, litellm: Any, prices: PriceClock) -> None:
        self._litellm = litellm
        self._prices = prices
        self._seen: dict[Any, _Seen] = {}
        #: Set while this thread takes in a Router's list: its registrations are made once, so that watching how a
        #: repetition goes, which costs more than the registration, would never pay.
        self.building = threading.local()
        #: Generations that passed without a change of the map.
        self._idle = 0
        self._lock = threading.Lock()
        self._log = logging.getLogger("LiteLLM")

    def register(self, original: Callable[..., Any], value: Any, kwargs: dict[str, Any]) -> Any:
        """Make the registration with ``original`` unless it is known to change nothing."""
        key = tuple(value)
        seen = self._seen.get(key)
        if (
            seen is not None
            and seen.settled
            and seen.changes == self._prices.now() - self._idle
            and self._unchanged(seen)
            and seen.value == value
            and seen.kwargs == kwargs
        ):
            return value
        with self._lock:
            if seen is not None and getattr(self.building, "now", False):
                seen.settled = False
                return original(value, **kwargs)
            return self._watch(original, value, kwargs, key, seen)

    def _watch(
        self, original: Callable[..., Any], value: Any, kwargs: dict[str, Any], key: Any, seen: _Seen | None
    ) -> Any:
        if seen is None or seen.value != value or seen.kwargs != kwargs:
            # Most registrations are made once, by the constructor of a Router: only note the values.
            if len(self._seen) >= _LIMIT:
                self._seen.clear()
            self._seen[key] = _Seen({name: dict(row) for name, row in value.items()}, dict(kwargs))
            return original(value, **kwargs)
        seen.settled = False
        seen.cost = self._litellm.model_cost
        seen.rows = self._rows(value, kwargs)
        size = len(seen.cost)
        before = self._prices.now()
        listener = _Listener()
        self._log.addFilter(listener)
        try:
            answer = original(value, **kwargs)
        finally:
            self._log.removeFilter(listener)
        passed = self._prices.now() - before
        if (
            passed == len(value)
            and size == len(self._litellm.model_cost)
            and not listener.heard
            and self._unchanged(seen)
        ):
            self._idle += passed
            seen.changes = self._prices.now() - self._idle
            seen.settled = True
        return answer

    def _rows(self, value: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Copies of the rows of the map that the registration went to."""
        cost = self._litellm.model_cost
        provider = kwargs.get("custom_llm_provider")
        rows: dict[str, Any] = {}
        for name in value:
            names = {name}
            with contextlib.suppress(Exception):  # an unmapped name has its own row only
                names.add(self._litellm.get_model_info(model=name, custom_llm_provider=provider)["key"])
            for one in names:
                row = cost.get(one)
                rows[one] = None if row is None else dict(row)
        return rows

    def _unchanged(self, seen: _Seen) -> bool:
        cost = self._litellm.model_cost
        return cost is seen.cost and all(cost.get(name) == row for name, row in seen.rows.items())


def _install(patches: PatchSet, parts: Parts) -> bool:
    litellm, core = parts.litellm, parts.core
    known = Registrations(litellm, parts.prices)

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def register_model(model_cost: Any, **kwargs: Any) -> Any:
            if type(model_cost) is not dict or not all(type(row) is dict for row in model_cost.values()):
                return original(model_cost, **kwargs)
            return known.register(original, model_cost, kwargs)

        return register_model

    def make_list(original: Callable[..., Any]) -> Callable[..., Any]:
        def set_model_list(self: Any, *args: Any, **kwargs: Any) -> Any:
            known.building.now = True
            try:
                return original(self, *args, **kwargs)
            finally:
                known.building.now = False

        return set_model_list

    patches.replace(litellm, "register_model", make)
    if member(core, "set_model_list") is not None:
        patches.replace(core, "set_model_list", make_list)
    return True


FEATURE = Feature(
    "custom_prices",
    "registers a deployment's own prices again and clears every price cache of the process",
    "skipped once a repetition was seen to change nothing",
    _install,
    needs=("register_model",),
)
