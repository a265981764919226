"""What stands behind one `litellm.Router`: its `AdvancedRouter`, and a compiled plan per model name.

The binding lives in what is kept about the core (`router_state`), so it goes when the Router goes. Deployments are
kept by id over every recompilation: what is in flight and what was learnt about a deployment survive any edit of
the model list around it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fast_router.deployment_options import unknown_keys
from fast_router.engine import Deployment, ModelGroup
from fast_router.errors import in_words
from fast_router.litellm_plugin.picks.plan import Plan
from fast_router.litellm_plugin.picks.plan_compiler import compile_plan
from fast_router.litellm_plugin.picks.prices import price_of
from fast_router.litellm_plugin.router_state import KEY, RouterState, given_now, state_of
from fast_router.litellm_plugin.strategy_names import STRATEGIES
from fast_router.litellm_plugin.tally import LOGGER, tally
from fast_router.model_entry import read_entry
from fast_router.naming import Name, server_of, short_id
from fast_router.router import AdvancedRouter

if TYPE_CHECKING:
    from fast_router.engine.strategies.split import Contender
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.request import Failover

__all__ = [
    "Binding",
    "bind",
    "clear_layers",
    "contend",
    "existing",
    "on_bind",
    "on_change",
    "on_compile",
    "outdate",
    "strategies_in_use",
]

on_bind: list[Callable[[Binding, Any], None]] = []
"""Called with each new binding and its core, once; must return at once and not raise."""

on_change: list[Callable[[Binding, Any], None]] = []
"""Called with a binding and its core before the first plan that is compiled after a change of the Router."""

on_compile: list[Callable[[Binding, Any], None]] = []
"""Called with a binding and its core before each plan that is compiled."""

_LIMIT_RULES = ("simple_shuffle", "usage_based")
"""Strategies that read rpm and tpm by rules of their own."""

_FOREIGN_NAMES = 128
"""Groups chosen among under names that are not the model list's, at most so many."""

_birth = threading.Lock()
_alive: weakref.WeakSet[Binding] = weakref.WeakSet()


# The strategy that is tried beside each Router's own, if there is one.
_contending: list[Contender] = []


def contend(contender: Contender | None) -> None:
    """Have every Router, those to come included, pick by another strategy as well; None for its own alone."""
    with _birth:
        _contending[:] = [] if contender is None else [contender]
        for binding in list(_alive):
            binding.engine.contender = contender
            binding.invalidate()


def strategies_in_use() -> list[str]:
    """The strategies that the models of all Routers are set to, sorted."""
    return sorted({group.strategy for binding in list(_alive) for group in list(binding.router.groups.values())})


def clear_layers() -> None:
    """Take the layers off every Router."""
    for binding in list(_alive):
        binding.around = binding.around_sync = None
        binding.calls, binding.stacked = {}, -1
        binding.close_lane(closed=False)


def outdate() -> None:
    """Have every Router's plans and layers made anew at their next use: a setting has changed."""
    for binding in list(_alive):
        binding.version += 1


class Binding:
    """One Router's picks.

    Attributes:
        band: How to read the core.
        core: Weakly, the core itself.
        router: The deployments, groups and leases.
        engine: The engine of `router`.
        around: The layers around its asynchronous picks that the fast lane leaves, None if it has none.
        around_sync: The same for synchronous picks.
        failover: Its breakers and budgets, made at the first request that needs them.
        waiting: Those of its requests that wait, as `layers.wait` keeps them.
        kept: The places that are kept for refused callers, as `layers.kept_places` has them.
        calls: What stands around its requests and attempts, by the name of LiteLLM's method.
        stacked: The version that `calls` and the layers around picks were composed for.
        detour: Zero while the fast lane is open: no layer must see each pick, and nobody queues.
        version: Counted up by everything that changes the deployments or the settings; a plan of another
            version is compiled anew at the next pick, never at once: LiteLLM announces some changes before it
            has finished them.
        look: Begins a look at the cooldowns of other processes, None where there is no place for them.
        redis_due: When LiteLLM's view of cooldowns is to be read from Redis again; infinite without Redis.
    """

    __slots__ = (
        "__weakref__",
        "_changed",
        "_closed",
        "_extra",
        "_pruned",
        "_read",
        "_specs",
        "_warned",
        "around",
        "around_sync",
        "band",
        "calls",
        "core",
        "detour",
        "engine",
        "failover",
        "kept",
        "lock",
        "look",
        "plans",
        "redis_due",
        "router",
        "stacked",
        "version",
        "waiting",
    )

    def __init__(self, band: Band, core: Any) -> None:
        self.band = band
        # Weak: the core holds the binding.
        self.core: weakref.ref[Any] = weakref.ref(core)
        self.router = AdvancedRouter()
        self.engine = self.router.engine
        self.engine.contender = next(iter(_contending), None)
        self.router.complete = _completing(weakref.ref(self))
        self.router.lane = _laning(weakref.ref(self))
        self.router.reader = _reading(weakref.ref(self))
        self.plans: dict[str, Plan] = {}
        self.version = 0
        self.around: Callable[..., Awaitable[Any]] | None = None
        self.around_sync: Callable[..., Any] | None = None
        self.calls: dict[str, Callable[..., Any]] = {}
        self.stacked = -1
        self.failover: Failover | None = None
        self.waiting: Any = None
        self.kept: Any = None
        self.detour = 0
        self._closed = False
        # The version and the length of the model list that `on_change` was told last.
        self._changed = (-1, -1)
        self.redis_due = float("inf")
        self.look: Callable[[Binding, Any], None] | None = None
        self.lock = threading.RLock()
        self._read = 0
        # What was read of each deployment: the entry, for which rules of limits, and in which reading.
        self._specs: dict[str, tuple[Mapping[str, Any], str, int]] = {}
        # Groups for strategies that a request asks for in place of its model's own.
        self._extra: dict[tuple[str, str], ModelGroup] = {}
        self._pruned = -1
        # Ids and keys that a warning has named: LiteLLM's proxy lists its deployments anew every few seconds.
        self._warned: set[tuple[str, str]] = set()

    # -- plans -----------------------------------------------------------------------------------

    def invalidate(self) -> None:
        """Have everything compiled anew, deployments included."""
        with self.lock:
            self._read += 1
            self.version += 1

    def plan_for(self, core: Any, model: str) -> Plan:
        """The plan for a model name as the Router is now: the known one if it holds, else one compiled anew."""
        plan = self.plans.get(model)
        return plan if plan is not None and plan.holds(self.version) else self._compile(core, model)

    def compiled(self) -> list[Plan]:
        """The plans of the names that were picked from, whether they still hold or not."""
        return list(self.plans.values())

    def heed_changes(self, core: Any) -> None:
        """Tell of a change of the Router, if there was one, so that its layers are those that it wants now."""
        now = (self.version, len(self.band.read(core, "model_list") or ()))
        if self._changed != now:
            with self.lock:
                for hook in on_change:
                    hook(self, core)
                self._changed = now

    def close_lane(self, *, closed: bool) -> None:
        """Close the fast lane for a layer that must see each pick, or open it again."""
        if closed != self._closed:
            self._closed = closed
            self.queued(1 if closed else -1)

    def queued(self, by: int) -> None:
        """Somebody queues (1) or has what it queued for (-1): until then nobody may overtake on the fast lane."""
        with self.lock:
            self.detour += by

    def _compile(self, core: Any, model: str) -> Plan:
        with self.lock:
            self.heed_changes(core)
            for hook in on_compile:
                hook(self, core)
            if self._pruned != self.version:
                self._prune(core)
            self._name_strategy(core)
            plan = compile_plan(self, core, model)
            if plan.listed:
                self.plans[model] = plan
            return plan

    def list_all(self, core: Any) -> None:
        """Have every deployment of the Router in `router`, picked or not."""
        self.compile_all(core)

    def compile_all(self, core: Any) -> None:
        """Compile a plan for every model name and routing group, so that `router` shows them all."""
        self._name_strategy(core)
        names: set[str] = set(self.band.read(core, "model_names", default=()) or ())
        names.update(self.band.read(core, "routing_groups", "_routing_groups", default=()) or ())
        for name in sorted(names):
            self.plan_for(core, name)

    def _name_strategy(self, core: Any) -> None:
        """Have `router` say which strategy the Router is set to."""
        given = given_now(core)
        told = self._litellms_strategy(core)
        name = getattr(told, "value", told)  # LiteLLM takes its enumeration, too
        self.router.routes_by = (given.router if given is not None else None) or STRATEGIES.get(name, name)

    def _litellms_strategy(self, core: Any) -> Any:
        return self.band.read(core, "routing_strategy")

    def _prune(self, core: Any) -> None:
        """Forget what the Router does not have any more; its open leases end in their own time."""
        version = self.version
        live = vars(core).get("model_id_to_deployment_index_map")
        if live is None:
            return
        for id_ in [id_ for id_ in self.engine.deployments if id_ not in live]:
            del self.engine.deployments[id_]
            self._specs.pop(id_, None)
            self._warned = {told for told in self._warned if told[0] != id_}
        names = {d.name for d in self.engine.deployments.values()}
        for name in [name for name, group in self.router.groups.items() if not names & {m.name for m in group.members}]:
            self.engine.drop_group(self.router.groups.pop(name))
        for key in [key for key, group in self._extra.items() if not names & {m.name for m in group.members}]:
            self.engine.drop_group(self._extra.pop(key))
        listed = set(self.band.read(core, "model_names", default=()) or ())
        listed.update(self.band.read(core, "model_group_alias", default=None) or ())
        listed.update(self.band.read(core, "routing_groups", "_routing_groups", default=()) or ())
        for model in [model for model in self.plans if model not in listed]:
            del self.plans[model]
        self._pruned = version

    # -- deployments and groups ------------------------------------------------------------------

    def deployment(self, entry: Mapping[str, Any], strategy: str) -> Deployment:
        """The engine's deployment for one of LiteLLM's entries.

        Raises:
            ConfigurationError: The entry has a weight, limit or order that is no number.
        """
        id_ = str(entry["model_info"]["id"])
        known = self._specs.get(id_)
        found = self.engine.deployments.get(id_)
        rules = strategy if strategy in _LIMIT_RULES else ""
        if found is not None and known is not None and known[0] is entry and known[1:] == (rules, self._read):
            if strategy == "cost_based":
                found.price = price_of(entry)
            return found
        spec = read_entry(entry, f"deployment {id_!r}")
        self._warn(id_, entry)
        limits = spec.limits()
        params = entry.get("litellm_params") or {}
        # LiteLLM's rules: a limit of 0 is no limit, except that it closes a deployment in usage-based routing; a
        # shuffle is weighted by litellm_params alone; without a price of its own a deployment costs what the price
        # list says.
        for key in ("rpm", "tpm"):
            if (rules == "simple_shuffle" and params.get(key) is None) or (not limits[key] and rules != "usage_based"):
                limits[key] = None
        limits["price"] = price_of(entry)
        if found is None:
            found = Deployment(id_, spec.name, entry, **limits)
            self.engine.deployments[id_] = found
        else:
            with self.engine.lock:
                found.update(spec.name, entry, **limits)
        self.engine.apply_limits(found)
        self._specs[id_] = (entry, rules, self._read)
        return found

    def _warn(self, id_: str, entry: Mapping[str, Any]) -> None:
        for key, remedy in unknown_keys(entry).items():
            if (id_, key) not in self._warned:
                self._warned.add((id_, key))
                name = Name(
                    str(entry.get("model_name")), server_of(entry), short_id(id_, list(self.engine.deployments))
                )
                LOGGER.warning(
                    "%s: model_info.fast_router has %s, which means nothing; %s", name, in_words(key), remedy
                )

    def group(
        self, name: str, strategy: str, options: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
    ) -> ModelGroup:
        """The group of that name over exactly these entries, compiled anew only if something differs.

        Raises:
            ConfigurationError: An entry cannot be read.
            UnknownStrategyError: Nobody registered `strategy`.
        """
        with self.lock:
            specs = self._specs
            ids = [str(entry["model_info"]["id"]) for entry in entries]
            read = [specs.get(id_) for id_ in ids]
            prices = [self._price(id_) for id_ in ids]
            members = tuple(self.deployment(entry, strategy) for entry in entries)
            former = self.router.groups.get(name)
            if (
                former is not None
                and former.strategy == strategy
                and former.members == members
                and former.options == dict(options)
                and former.contender is self.engine.contender
                and all(specs.get(id_) is known for id_, known in zip(ids, read, strict=True))
                and prices == [member.price for member in members]
            ):
                return former
            group = self.engine.compile_group(name, members, strategy, options, replaces=former)
            self.router.groups[name] = group
            return group

    def _price(self, id_: str) -> float | None:
        found = self.engine.deployments.get(id_)
        return None if found is None else found.price

    def group_containing(
        self, name: str, strategy: str, options: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
    ) -> ModelGroup:
        """A group that these entries belong to, for a choice among them alone.

        The entries may be copies that LiteLLM has made of listed ones; they are known by their ids.
        """
        with self.lock:
            members = {d.id: d for d in (self.known(entry) or self.deployment(entry, strategy) for entry in entries)}
            name = self._kept_name(name, members)
            for group in (self.router.groups.get(name), self._extra.get((name, strategy))):
                if (
                    group is not None
                    and group.strategy == strategy
                    and group.options == dict(options)
                    and group.contender is self.engine.contender
                    and members.keys() <= {member.id for member in group.members}
                ):
                    return group
            return self._compile_extra(name, strategy, options, members)

    def _kept_name(self, name: str, members: Mapping[str, Deployment]) -> str:
        """The name under which a group is kept: one of the model list's, not whatever a caller writes under a `*`."""
        listed = {member.name for member in members.values()}
        if name in listed:
            return name
        if len(listed) == 1:
            return listed.pop()
        # A routing group has a name of its own. A wildcard of several names must not grow without end.
        known = any(kept == name for kept, _ in self._extra)
        return name if known or len(self._extra) < _FOREIGN_NAMES else "*"

    def _compile_extra(
        self, name: str, strategy: str, options: Mapping[str, Any], members: dict[str, Deployment]
    ) -> ModelGroup:
        """A group over `members` and whoever was chosen among under that name and strategy before."""
        extra = self._extra.get((name, strategy))
        if extra is not None:
            for member in extra.members:
                if self.engine.deployments.get(member.id) is member:
                    members.setdefault(member.id, member)
        group = self.engine.compile_group(name, tuple(members.values()), strategy, options, replaces=extra)
        self._extra[name, strategy] = group
        return group

    def known(self, entry: Any) -> Deployment | None:
        """The deployment behind a dict that LiteLLM picked, a copy of a listed one included."""
        info = entry.get("model_info") if isinstance(entry, dict) else None
        id_ = info.get("id") if isinstance(info, dict) else None
        return None if id_ is None else self.engine.deployments.get(str(id_))


def _completing(reference: weakref.ref[Binding]) -> Callable[[], None]:
    def complete() -> None:
        binding = reference()
        core = None if binding is None else binding.core()
        if binding is not None and core is not None:
            try:
                binding.list_all(core)
            except Exception as error:  # noqa: BLE001 - whoever looks sees what there is
                tally.failed(error, "listing deployments")

    return complete


def _laning(reference: weakref.ref[Binding]) -> Callable[[str], str | None]:
    def lane(model: str) -> str | None:
        binding = reference()
        plan = None if binding is None else binding.plans.get(model)
        if binding is None or plan is None:
            return None
        keys = ", ".join(sorted(key.strip("_") for key in plan.special))
        if plan.why is None:
            return f"fast, unless a callback filters or the request has one of: {keys}"
        return f"LiteLLM's filters run first: {plan.why}"

    return lane


def _reading(reference: weakref.ref[Binding]) -> Callable[[], None]:
    def read() -> None:
        binding = reference()
        if binding is not None:
            binding.invalidate()

    return read


def existing(core: Any) -> Binding | None:
    """The binding of a core, if it has one."""
    state: RouterState | None = vars(core).get(KEY)
    return None if state is None else state.binding


def bind(core: Any, band: Band) -> Binding:
    """The binding of a core, made now if it has none."""
    state = state_of(core)
    found: Binding | None = state.binding
    if found is None:
        with _birth:
            found = state.binding
            if found is None:
                found = state.binding = band.keeper.new_binding(core)
                _alive.add(found)
                for hook in on_bind:
                    hook(found, core)
    return found
