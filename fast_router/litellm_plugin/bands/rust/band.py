"""LiteLLM 1.110 as the plugin sees it: a core written in Rust, which asks its Python host step by step.

The Rust core owns the registry, the filters, cooldowns, retries and fallbacks. Where a strategy with a state of its own
is to choose, it asks the host for a `select` step, with the candidates that its filters have left; and it has the
host make each attempt. Those two places are enough to choose, to count what is in flight and to know what a request
has tried. A pick in one step, from a compiled plan, is not possible: the filters are not where we could stand in for
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fast_router.errors import FastRouterError
from fast_router.litellm_plugin.bands.methods import Band, UnknownBandError
from fast_router.litellm_plugin.picks import strategies_by_name
from fast_router.litellm_plugin.picks.binding import KEY, Binding
from fast_router.litellm_plugin.picks.plan_compiler import STRATEGIES
from fast_router.litellm_plugin.tally import LOGGER

if TYPE_CHECKING:
    from fast_router.engine import Deployment, ModelGroup

__all__ = ["RustBand", "RustBinding"]

_CORE = "litellm.router_rust.core"
_CORE_MEMBERS = (
    "_answer_callback_filters",
    "_answer_select",
    "_answer_select_sync",
    "_records_of",
    "_run",
    "_run_sync",
    "apply",
    "build",
    "recover_stream",
    "recover_stream_sync",
    "retry_stream",
)
_DRIVER_MEMBERS = ("attempt", "attempt_sync")


class RustBand(Band):
    """A LiteLLM whose core is Rust.

    Attributes:
        driver: The class that makes the attempts of one request.
        selection: The module in which the core's host finds the strategy objects.
    """

    no_fast_lane = "LiteLLM's core is not written in Python: it filters, and we choose among whom it leaves"

    def __init__(self, router_module: ModuleType, litellms_version: str) -> None:
        self.version = litellms_version
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
        missing = [f"RustCore.{name}" for name in _CORE_MEMBERS if not hasattr(self.core, name)]
        missing += [f"_Driver.{name}" for name in _DRIVER_MEMBERS if not hasattr(self.driver, name)]
        if missing:
            msg = f"LiteLLM {litellms_version} has no {', '.join(missing)}"
            raise UnknownBandError(msg)

    @property
    def fast_lane(self) -> bool:
        """False: see `no_fast_lane`."""
        return False

    def binding(self, core: Any) -> RustBinding:
        """The binding of a core, made now if it has none, with the deployments as they are."""
        state = vars(core)
        found: RustBinding | None = state.get(KEY)
        if found is None:
            found = state.setdefault(KEY, RustBinding(self, core))
        found.refresh(core)
        return found


class RustBinding(Binding):
    """One Router's picks, over deployments that the Rust core keeps."""

    __slots__ = ("_seen", "_stale")

    def __init__(self, band: Band, core: Any) -> None:
        super().__init__(band, core)
        # The core's registry as it was read last, and the groups compiled before that.
        self._seen: tuple[Any, ...] = ()
        self._stale: set[tuple[str, str]] = set()

    def invalidate(self) -> None:
        """Have the registry read anew at the next pick."""
        super().invalidate()
        self._seen = ()

    def refresh(self, core: Any) -> None:
        """Read the deployments anew if the core's registry has changed."""
        handle = core._handle
        seen = (handle, handle.registry_version(), handle.registry_rewritten())
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
            self._stale.update(self._extra)
            for name in list(self.router.groups):
                self.engine.drop_group(self.router.groups.pop(name))
            self._seen = seen

    def _take(self, entry: Mapping[str, Any]) -> None:
        try:
            # With every limit; a shuffle, which goes by fewer, is the core's own.
            self.deployment(entry, "")
        except FastRouterError as error:
            # Its pick is LiteLLM's; said once per change of the Router.
            LOGGER.warning("fast_router: a deployment is left to LiteLLM: %s", error)

    def group_containing(
        self, name: str, strategy: str, options: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
    ) -> ModelGroup:
        """As of any binding; a group from before the registry's last change is compiled anew."""
        with self.lock:
            key = (name, strategy)
            if key not in self._stale:
                return super().group_containing(name, strategy, options, entries)
            members = {d.id: d for d in (self.known(entry) or self.deployment(entry, strategy) for entry in entries)}
            group = self._compile_extra(name, strategy, options, members)
            self._stale.discard(key)
            return group

    def _litellms_strategy(self, core: Any) -> Any:
        return str(core.settings().routing_strategy)

    def list_all(self, core: Any) -> None:
        """As the core's registry is now; no group is compiled for it, since picks group by their candidates."""
        self._name_strategy(core)
        self.refresh(core)

    def compile_all(self, core: Any) -> None:
        """Group everybody by model name, so that `router` shows them all."""
        self._name_strategy(core)
        with self.lock:
            given: strategies_by_name.Strategies | None = vars(core).get(strategies_by_name.KEY)
            strategy = given.router if given is not None else None
            strategy = strategy or STRATEGIES.get(str(core.settings().routing_strategy), "simple_shuffle")
            by_name: dict[str, list[Deployment]] = {}
            for deployment in self.engine.deployments.values():
                by_name.setdefault(deployment.name, []).append(deployment)
            for name, members in by_name.items():
                if name not in self.router.groups:
                    self.router.groups[name] = self.engine.compile_group(name, tuple(members), strategy)
