"""The parts of LiteLLM that features replace or read, each looked up once when it is first wanted."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_router.litellm_plugin.bands.fingerprints import is_known
from fast_router.litellm_plugin.bands.member_names import Names
from fast_router.litellm_plugin.overhead.construction.prices import PriceClock
from fast_router.litellm_plugin.overhead.lookups import LookupService
from fast_router.litellm_plugin.strategy_names import HANDLERS

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band

__all__ = ["Parts", "Place"]

_CHECKS = "litellm.router_utils.pre_call_checks.io_token_rate_limit_check"
# Functions that are neither the core's members nor names of its module: where they live, the newest place first.
_ELSEWHERE = {
    "register_model": ("litellm",),
    "_rebuild_model_cost_lowercase_map": ("litellm.utils",),
    "async_service_success_hook": ("litellm._service_logger:ServiceLogging",),
    "_return_pattern_matched_deployments": (
        "litellm.router_utils.pattern_match_deployments:PatternMatchRouter",
        "litellm.litellm_core_utils.pattern_match_deployments:PatternMatchRouter",
    ),
    "set_max_parallel_requests_client": ("litellm.router_utils.client_initalization_utils:InitalizeCachedClient",),
    "is_async_callable": ("litellm.litellm_core_utils.coroutine_checker:CoroutineChecker",),
    "_clear_reservation_from_kwargs": (_CHECKS,),
    "_reservation_channels": (_CHECKS,),
}


class Place(NamedTuple):
    """Where a function stands: the class or module, the name it has there, and itself as LiteLLM wrote it."""

    owner: Any
    name: str
    function: Callable[..., Any]


class Parts:
    """One LiteLLM, as the features of `overhead` see it.

    Attributes:
        band: Which LiteLLM it is.
        core: The class that routes.
        module: The module of that class.
        names: Where this version keeps what.
    """

    def __init__(self, band: Band) -> None:
        self.band = band
        self.core: type = band.core
        self.module: ModuleType = sys.modules[band.core.__module__]
        self.names = Names.of(band.core)
        self._problems: dict[str, str] = {}

    @cached_property
    def litellm(self) -> Any:
        """The package."""
        return import_module("litellm")

    @cached_property
    def utils(self) -> Any:
        """`litellm.utils`."""
        return import_module("litellm.utils")

    @cached_property
    def prices(self) -> PriceClock:
        """The price map's generation."""
        return PriceClock(self.utils)

    @cached_property
    def service(self) -> LookupService:
        """What is remembered of deployments."""
        return LookupService(self.litellm, self.names, self.prices)

    @cached_property
    def memory(self) -> type[Any]:
        """`InMemoryCache`."""
        found: type[Any] = import_module("litellm.caching.in_memory_cache").InMemoryCache
        return found

    @cached_property
    def keys(self) -> Any:
        """`RouterCacheEnum`, the names of LiteLLM's usage keys."""
        return import_module("litellm.types.router").RouterCacheEnum

    def now(self) -> float:
        """The wall clock, in seconds, as LiteLLM's caches without a clock of their own read it."""
        return time.time()

    @cached_property
    def utc_now(self) -> Callable[[], Any]:
        """The clock of LiteLLM's minutes."""
        found: Callable[[], Any] = self.utils.get_utc_datetime
        return found

    @cached_property
    def handlers(self) -> dict[str, type]:
        """The classes of LiteLLM's strategies by short names; those that it does not have are left out."""
        found: dict[str, type] = {}
        for name, module in HANDLERS.items():
            handler = getattr(import_module(module), name, None)
            if handler is not None:
                found[name.replace("LoggingHandler", "")] = handler
        return found

    def at(self, name: str) -> Place:
        """Where a function that is there stands.

        Args:
            name: As `bands.fingerprints.KNOWN` has it.

        Raises:
            LookupError: This LiteLLM has no such function.
        """
        for owner, spelling in self._places(name):
            found = vars(owner).get(spelling)
            if found is None and isinstance(owner, ModuleType):
                # LiteLLM loads some of its package's names when they are asked for.
                found = getattr(owner, spelling, None)
            if isinstance(found, staticmethod):
                found = found.__func__
            found = getattr(found, "__fast_router_original__", found)  # ours may stand there already
            if inspect.isfunction(found):
                return Place(owner, spelling, found)
        raise LookupError(name)

    def problem(self, name: str) -> str:
        """Why a function cannot be relied on: it is not there, or reads differently; empty if it can."""
        known = self._problems.get(name)
        if known is None:
            known = self._problems[name] = self._problem(name)
        return known

    def knows(self, name: str) -> bool:
        """Whether a function is there and reads as one of the versions of it that we know."""
        return not self.problem(name)

    def _problem(self, name: str) -> str:
        try:
            place = self.at(name)
        except LookupError:
            return f"LiteLLM {self.band.version} has no {name}"
        if is_known(name, place.function):
            return ""
        return f"{name} of LiteLLM {self.band.version} reads differently from those that were checked against"

    def _places(self, name: str) -> Iterator[tuple[Any, str]]:
        owner, dot, rest = name.partition(".")
        if dot:
            kind = self.memory if owner == "InMemoryCache" else self.handlers.get(owner)
            if kind is not None:
                yield kind, rest
            return
        for path in _ELSEWHERE.get(name, ()):
            module, _, attribute = path.partition(":")
            try:
                place = import_module(module)
            except ImportError:
                continue
            found = getattr(place, attribute, None) if attribute else place
            if found is not None:
                yield found, name
        if name not in _ELSEWHERE:
            yield self.core, self.names.method(name)
            yield self.module, name
            yield self.module, f"_{name}"
