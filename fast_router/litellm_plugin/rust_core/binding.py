"""LiteLLM 1.110: what stands behind one Router whose deployments the Rust core keeps."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fast_router.errors import FastRouterError
from fast_router.litellm_plugin.picks import strategies_by_name
from fast_router.litellm_plugin.picks.binding import Binding, bind
from fast_router.litellm_plugin.router_state import given_now
from fast_router.litellm_plugin.rust_core import rests
from fast_router.litellm_plugin.strategy_names import STRATEGIES
from fast_router.litellm_plugin.tally import LOGGER

if TYPE_CHECKING:
    from fast_router.engine import Deployment, ModelGroup
    from fast_router.litellm_plugin.bands.methods import Band

__all__ = ["RustBinding", "binding_of", "lane_tellers"]


lane_tellers: list[Callable[[Any, RustBinding, str], str]] = []
"""Who tells of a core, its binding and a model name in words which way requests go; empty while there is no lane."""


class RustBinding(Binding):
    """One Router's picks, over deployments that the Rust core keeps."""

    __slots__ = ("_seen", "_stale", "limited", "ordered")

    def __init__(self, band: Band, core: Any) -> None:
        super().__init__(band, core)
        self.router.lane = _laning(weakref.ref(self))
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


def _laning(reference: weakref.ref[RustBinding]) -> Callable[[str], str | None]:
    def lane(model: str) -> str | None:
        binding = reference()
        core = None if binding is None else binding.core()
        if binding is None or core is None:
            return None
        return next((tell(core, binding, model) for tell in lane_tellers), None)

    return lane


def binding_of(band: Band, core: Any) -> RustBinding:
    """Give the binding of a core, made now if it has none, with the deployments as they are."""
    found = bind(core, band)
    assert isinstance(found, RustBinding)
    found.refresh(core)
    return found
