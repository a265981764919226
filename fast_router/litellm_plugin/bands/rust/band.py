"""LiteLLM 1.110 as the plugin sees it: a core written in Rust, which asks its Python host step by step.

The Rust core owns the registry, the filters, cooldowns, retries and fallbacks. Where a strategy with a state of its own
is to choose, it asks the host for a `select` step, with the candidates that its filters have left; and it has the
host make each attempt. Those two places are enough to choose, to count what is in flight and to know what a request
has tried. A pick alone, from a compiled plan, is not possible: the filters are not where we could stand in for
them. What can be taken past them is a whole request (`lane`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.errors import FastRouterError
from fast_router.litellm_plugin.bands.contract import Layer, Outer, Seam
from fast_router.litellm_plugin.bands.methods import Band, UnknownBandError, innermost
from fast_router.litellm_plugin.bands.rust import rests, untried
from fast_router.litellm_plugin.bands.rust.self_test import SelfTest
from fast_router.litellm_plugin.picks import strategies_by_name
from fast_router.litellm_plugin.picks.binding import Binding, bind
from fast_router.litellm_plugin.picks.given import known as given_now
from fast_router.litellm_plugin.strategy_names import STRATEGIES
from fast_router.litellm_plugin.tally import LOGGER

if TYPE_CHECKING:
    from fast_router.engine import Deployment, ModelGroup
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.rests.store import RestStore

__all__ = ["RustBand", "RustBinding"]

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
_DRIVER_MEMBERS = ("_failed", "attempt", "attempt_sync", "take_events")


_ROOM = "fast_router.litellm_plugin.bands.rust"
_LACKING = {
    Seam.PICK: "LiteLLM's core is not written in Python: it filters, and we choose among whom it leaves",
    Seam.AWAITED_PICK: "LiteLLM's core, which is not written in Python, does not wait for a worker's answer: picks are "
    "made in this process",
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
            untried.install(patches, self, give_back)

    @property
    def fast_lane(self) -> bool:
        """False: see `lacks`."""
        return False

    def lacks(self, seam: Seam) -> str:
        """As of any band."""
        return _LACKING.get(seam) or super().lacks(seam)

    def binding(self, core: Any) -> RustBinding:
        """The binding of a core, made now if it has none, with the deployments as they are."""
        found = bind(core, self)
        assert isinstance(found, RustBinding)
        found.refresh(core)
        return found

    def new_binding(self, core: Any) -> RustBinding:
        """As of any band; the deployments are known from the beginning."""
        found = RustBinding(self, core)
        found.refresh(core)
        return found

    def admit_picks(self, patches: PatchSet, install: Callable[[PatchSet], object]) -> None:  # noqa: ARG002 - no such method
        """As of any band, where the core's steps are answered."""
        from fast_router.litellm_plugin.bands.rust import limits  # noqa: PLC0415 - few ask

        limits.install_strict(patches, self)

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
        from fast_router.litellm_plugin.bands.rust.lane.endpoint import OPS  # noqa: PLC0415 - few ask

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

    def heed_holds(self, patches: PatchSet, alone: Callable[[], bool]) -> None:
        """As of any band: the core is told that they cool down."""
        rests.heed_holds(patches, self, alone)

    def take_over_rests(self, core: Any) -> None:
        """As of any band."""
        rests.attach(self.binding(core), core)

    def rest_store(self, core: Any) -> RestStore | None:
        """As of any band."""
        return rests.NativeRests(core)

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


class RustBinding(Binding):
    """One Router's picks, over deployments that the Rust core keeps."""

    __slots__ = ("_seen", "_stale", "limited", "ordered")

    def __init__(self, band: Band, core: Any) -> None:
        super().__init__(band, core)
        # The core's registry as it was read last, and the groups compiled before that.
        self._seen: tuple[Any, ...] = ()
        self._stale: set[tuple[str, str]] = set()
        # Whether any entry has a quality-of-service limit.
        self.limited = False
        # Whether any has an order.
        self.ordered = False

    def invalidate(self) -> None:
        """Have the registry read anew at the next pick."""
        # First: whoever compiles for the new version must find the deployments read anew.
        self._seen = ()
        super().invalidate()

    def refresh(self, core: Any) -> None:
        """Read the deployments anew if the core's registry has changed."""
        handle = core._handle
        seen = (handle, handle.registry_version(), handle.registry_rewritten(), core._cooldowns)
        if seen == self._seen:
            return
        with self.lock:
            entries = handle.deployments()
            self._read += 1
            for entry in entries:
                self._take(entry)
            live = {str((entry.get("model_info") or {}).get("id")) for entry in entries}
            for id_ in [id_ for id_ in self.engine.deployments if id_ not in live]:
                del self.engine.deployments[id_]
                self._specs.pop(id_, None)
                self._warned = {told for told in self._warned if told[0] != id_}
            self._stale.update(self._extra)
            self._group(core)
            self.limited = any(deployment.qos_limit is not None for deployment in self.engine.deployments.values())
            self.ordered = any(deployment.order is not None for deployment in self.engine.deployments.values())
            elsewhere = self._seen[3:] != seen[3:]
            self._seen = seen
            if elsewhere:
                rests.attach(self, core)

    def _take(self, entry: Mapping[str, Any]) -> None:
        try:
            # Each strategy reads limits by its own rules, as in LiteLLM.
            self.deployment(entry, self._limits_for(entry))
        except FastRouterError as error:
            # Its pick is LiteLLM's; said once per change of the Router.
            LOGGER.warning("fast_router: a deployment is left to LiteLLM: %s", error)

    def _limits_for(self, entry: Mapping[str, Any]) -> str:
        """The strategy by whose rules an entry's limits are read; empty for one of ours."""
        core = self.core()
        if core is None or strategies_by_name.of_model([entry]) is not None:
            return ""
        return STRATEGIES.get(str(core._resolved.routing_strategy), "")

    def group_containing(
        self, name: str, strategy: str, options: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
    ) -> ModelGroup:
        """As of any binding; a group from before the registry's last change is compiled anew."""
        with self.lock:
            members = {d.id: d for d in (self.known(entry) or self.deployment(entry, strategy) for entry in entries)}
            name = self._kept_name(name, members)
            key = (name, strategy)
            if key not in self._stale:
                return super().group_containing(name, strategy, options, entries)
            group = self._compile_extra(name, strategy, options, members)
            self._stale.discard(key)
            return group

    def _litellms_strategy(self, core: Any) -> Any:
        return str(core.settings().routing_strategy)

    def _group(self, core: Any) -> None:
        """Group everybody by model name, so that `router` shows them all and each name's choice is at hand."""
        self._name_strategy(core)
        by_name: dict[str, list[Deployment]] = {}
        for deployment in self.engine.deployments.values():
            by_name.setdefault(deployment.name, []).append(deployment)
        groups = self.router.groups
        for name in [name for name in groups if name not in by_name]:
            self.engine.drop_group(groups.pop(name))
        for name, members in by_name.items():
            strategy, options = self._strategy_of(core, members)
            # Anew even if the members are the same: their weights and limits may not be.
            groups[name] = self.engine.compile_group(name, tuple(members), strategy, options, replaces=groups.get(name))

    def _strategy_of(self, core: Any, members: Sequence[Deployment]) -> tuple[str, Mapping[str, Any]]:
        given = given_now(core)
        try:
            own = strategies_by_name.of_model([member.entry for member in members])
        except FastRouterError as error:
            LOGGER.warning("fast_router: the model %r is left to LiteLLM: %s", members[0].name, error)
            own = None
        if own is None and given is not None and given.router is not None:
            own = given.router, given.options
        return own or (STRATEGIES.get(str(core._resolved.routing_strategy), "simple_shuffle"), {})

    def list_all(self, core: Any) -> None:
        """As `compile_all`."""
        self._name_strategy(core)
        self.refresh(core)

    def compile_all(self, core: Any) -> None:
        """Read the deployments as they are now, so that `router` shows them all."""
        self.refresh(core)
