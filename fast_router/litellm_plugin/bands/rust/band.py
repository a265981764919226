"""LiteLLM 1.110 as the plugin sees it: a core written in Rust, which asks its Python host step by step.

The Rust core owns the registry, the filters, cooldowns, retries and fallbacks. Where a strategy with a state of its own
is to choose, it asks the host for a `select` step, with the candidates that its filters have left; and it has the
host make each attempt. Those two places are enough to choose, to count what is in flight and to know what a request
has tried. A pick alone, from a compiled plan, is not possible: the filters are not where we could stand in for
them. What can be taken past them is a whole request (`rust_core.lane`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.litellm_plugin.bands.contract import Layer, Outer, Seam
from fast_router.litellm_plugin.bands.methods import Band, UnknownBandError, innermost
from fast_router.litellm_plugin.bands.rust import untried
from fast_router.litellm_plugin.bands.rust.self_test import SelfTest

if TYPE_CHECKING:
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["OPS", "RustBand"]

_CORE = "litellm.router_rust.core"
_CORE_MEMBERS = (
    "_answer_cache",
    "_answer_cache_sync",
    "_answer_callback_filters",
    "_answer_select",
    "_answer_select_sync",
    "_call_sync",
    "_drive",
    "_failure_error",
    "_pre_route",
    "_records_of",
    "_run",
    "_run_sync",
    "apply",
    "build",
    "recover_stream",
    "recover_stream_sync",
    "retry_stream",
)
_FACADE_MEMBERS = ("discard", "registry", "select", "settings")
_HELD = {"cache": "_cache", "cooldown_cache": "_cooldowns"}
_DRIVER_MEMBERS = ("_failed", "attempt", "attempt_sync", "select_sync", "take_events")


OPS = (
    "acompletion",
    "completion",
    "atext_completion",
    "aembedding",
    "embedding",
    "aresponses",
    "aanthropic_messages",
    "anthropic_messages",
)
"""The endpoints that the lane serves, by the names of the Router's methods."""

_ROOM = "fast_router.litellm_plugin.rust_core"
_LACKING = {
    Seam.PICK: "LiteLLM's core is not written in Python: it filters, and we choose among whom it leaves",
}


class RustBand(Band):
    """A LiteLLM whose core is Rust.

    Attributes:
        driver: The class that makes the attempts of one request.
        selection: The module in which the core's host finds the strategy objects.
        newer: True if nobody has tested this LiteLLM.
        self_test: What the core of this process has shown.
    """

    seams = frozenset(
        {
            Seam.REQUEST,
            Seam.ATTEMPT,
            Seam.AWAITED_PICK,
            Seam.CHOICE,
            Seam.CHANGES,
            Seam.REST_STORE,
            Seam.RETRY_TIMING,
            Seam.STRATEGY_NAMES,
            Seam.STREAM_RECOVERY,
            Seam.WALK,
            Seam.REGISTRY,
        }
    )
    installers: ClassVar[Mapping[str, str]] = {
        "attempts": f"{_ROOM}.attempts",
        "selection": f"{_ROOM}.steps",
        "cooldowns": f"{_ROOM}.rests",
        "strategies": f"{_ROOM}.strategies_by_name",
        "failover": f"{_ROOM}.failover",
        "admission": f"{_ROOM}.limits",
    }
    within: ClassVar[Mapping[str, str]] = {"operator_holds": "selection"}
    core_walks = True
    has_cooldown_cache = False

    def __init__(self, router_module: ModuleType, litellms_version: str, *, newer: bool = False) -> None:
        self.version = litellms_version
        self.newer = newer
        self.name = "1.110"
        self.facade = True
        self.router = router_module.Router
        try:
            self.module = import_module(_CORE)
            self.selection = import_module("litellm.router_rust.steps.selection")
        except ImportError as error:
            msg = f"LiteLLM {litellms_version} has no {error.name}"
            raise UnknownBandError(msg) from error
        self.core = vars(self.module).get("RustCore", object)
        self.driver: type = vars(self.module).get("_Driver", object)
        missing = [f"Router.{name}" for name in _FACADE_MEMBERS if not hasattr(self.router, name)]
        missing += [f"RustCore.{name}" for name in _CORE_MEMBERS if not hasattr(self.core, name)]
        missing += [f"_Driver.{name}" for name in _DRIVER_MEMBERS if not hasattr(self.driver, name)]
        if missing:
            msg = f"LiteLLM {litellms_version} has no {', '.join(missing)}"
            raise UnknownBandError(msg)
        self.self_test = SelfTest()

    def installed(self, patches: PatchSet, give_back: Callable[[Any, str], None]) -> None:
        """As of any band: on a LiteLLM that is newer than the last one tested, the first request decides."""
        if self.newer:
            untried.install(patches, self.core, self.version, self.self_test, partial(give_back, self))

    @property
    def fast_lane(self) -> bool:
        """False: see `lacks`."""
        return False

    def lacks(self, seam: Seam) -> str:
        """As of any band."""
        return _LACKING.get(seam) or super().lacks(seam)

    def around_request(self, patches: PatchSet, make: Layer, make_sync: Layer) -> None:
        """Put a layer around each of the core's walks; what the request lane answers takes none."""
        patches.replace(self.core, "_run", make)
        patches.replace(self.core, "_run_sync", make_sync)

    def around_attempt(self, patches: PatchSet, make: Layer, make_sync: Layer) -> None:
        """Put a layer around each attempt of a walk: the core has picked, the call is to be made."""
        patches.replace(self.driver, "attempt", make)
        patches.replace(self.driver, "attempt_sync", make_sync)

    def around_whole_request(self, patches: PatchSet, make: Layer, make_sync: Layer) -> None:
        """As of any band: outside of the lane, and of the walk where there is none."""
        for op in (*OPS, "_drive", "_call_sync"):
            original = vars(self.core).get(op)
            if original is not None:
                patches.replace(self.core, op, make if inspect.iscoroutinefunction(original) else make_sync)

    def around_picks(self, patches: PatchSet, make: Outer, make_sync: Outer) -> None:
        """As of any band: picks that are asked for alone."""
        for name, around in (("select", make), ("get_available_deployment", make_sync)):
            original = vars(self.core).get(name)
            if original is not None:
                patches.replace(self.core, name, partial(around, innermost(original)))

    def read(self, core: Any, *names: str, default: Any = None) -> Any:
        """As of any band: a setting, or one of the few objects that the core holds under a name of its own."""
        for name in names:
            held = _HELD.get(name)
            if held is not None:
                return vars(core)[held]
            if name == "provider_default_deployment_ids":
                return core._provider_default_ids()
            if hasattr(core._resolved, name):
                return core._resolved.read(name)
        return default

    def busy(self, core: Any, model: str, ids: Sequence[str]) -> list[float]:
        """As of any band: calls that have started, and those for which a pick has reserved a place."""
        selector = core._selectors.default
        live, now = getattr(selector, "_live_reservations", None), getattr(selector, "_clock", None)
        started = super().busy(core, model, ids)
        if live is None or now is None:
            return started
        at = now()
        return [count + len(live(id_, at)) for count, id_ in zip(started, ids, strict=True)]
