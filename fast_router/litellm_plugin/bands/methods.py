"""Which LiteLLM is here, and where its seams lie.

Up to 1.108 the routing is methods of `litellm.Router`; 1.109 is a facade over `PythonCore`, whose members that
outside code used to reach carry the prefix `_core_`; 1.110 is a facade over a core in Rust (see `rust`). A `Band`
translates: ask it for a member by its plain name. What a LiteLLM has is found by looking, not by its version; the
version only names the band and rules out what nobody has looked at.

The fast lane answers in LiteLLM's place, so it must know what LiteLLM would have done. It is therefore opened only
for pipelines whose source text is one of those it was written against; any other pipeline is run, and only its
last step, the choice among the candidates that are left, is ours.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.litellm_plugin.bands.contract import Keeper, Layer, Outer, Seam
from fast_router.litellm_plugin.bands.member_names import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["KNOWN_PIPELINES", "RUST", "Band", "UnknownBandError", "innermost", "litellm_version", "numbers_of"]


class UnknownBandError(Exception):
    """This LiteLLM lacks members that the plugin needs; the message says which."""


# Without these there is nothing to hold on to.
_NEEDED = (
    "async_get_available_deployment",
    "get_available_deployment",
    "async_get_healthy_deployments",
    "_common_checks_available_deployment",
    "_invalidate_access_groups_cache",
    "make_call",
)
_NEEDED_GLOBALS = ("simple_shuffle",)
# From here on the core is written in Rust.
RUST = (1, 110)

_BANDS = (((1, 91), "1.83"), ((1, 99), "1.91"), ((1, 106), "1.99"), ((1, 109), "1.106"), (RUST, "1.109"))

# What the fast lane stands in for.
_PIPELINE = (
    "async_get_available_deployment",
    "_async_get_available_deployment",
    "get_available_deployment",
    "_get_available_deployment_unresolved",
    "async_get_healthy_deployments",
    "_common_checks_available_deployment",
    "async_pre_routing_hook",
    "_get_routing_context",
    "_select_deployment_async",
    "_select_deployment_sync",
    "async_callback_filter_deployments",
    "_filter_cooldown_deployments",
    "_filter_blocked_deployments",
    "_filter_reserved_deployments",
    "_drop_strategy_markers",
    "_filter_deployments_by_model_access_groups",
)
_PIPELINE_GLOBALS = (
    "get_deployments_for_tag",
    "filter_team_based_models",
    "filter_web_search_deployments",
    "simple_shuffle",
)

# Pipelines by the hash of their source, with the LiteLLM releases they were found in. Every difference between one
# and the next was read: a step that was added is either guarded here, or does nothing for an ordinary request.
KNOWN_PIPELINES: dict[str, str] = {
    "f43379613ead2328": "1.83.14",
    "6e724e934d930f07": "1.84.0 to 1.85.7",
    "1bfdbaaec5e67d59": "1.86.0 to 1.86.7",
    "1b48af051295499e": "1.87.0 to 1.90.7",
    "b284c4665f959555": "1.91.0 to 1.91.5",
    "851ca57f11a35dbc": "1.92.0 to 1.93.2",
    "91ac6c49f88e586b": "1.94.0 to 1.95.1",
    "af19e84def0f9ae6": "1.96.0 to 1.96.2",
    "5a3ec5e73dcdcecd": "1.97.0",
    "1b58ff64dcb70616": "1.98.0 to 1.98.1",
    "7c8fcd2c1c42d905": "1.99.0 to 1.99.4",
    "265866f08f108084": "1.100.0 to 1.100.5",
    "d524c0a55493bb58": "1.101.0 to 1.101.6",
    "be9fb06917b2018d": "1.102.0 to 1.102.4",
    "f65434a07563f574": "1.103.0 to 1.103.11",
    "ed9f114b57f941b6": "1.104.0 to 1.104.9",
    "7481b34fa17002ae": "1.105.0 to 1.105.7",
    "0ba1dbfb3ffda68d": "1.106.0 to 1.106.12",
    "e9f20b18ce71e31f": "1.108.0 to 1.108.1",
    "695542a6201bba24": "1.108.2 to 1.108.3",
    "19e0be9d474a2bbc": "1.108.4 to 1.108.6",
    "2584b71b68199273": "1.108.7 to 1.108.10",
    "71a53bf8eef12236": "1.108.11 to 1.108.13",
    "dda75180e952f770": "1.108.14",
    "3dce83a87831f00c": "1.109.0 to 1.109.3",
}

# Keys by which a request narrows its own candidates; LiteLLM's selection takes out those that it understands.
_NARROWING = ("_target_order", "_excluded_deployment_ids", "_retry_skipped_deployment_ids")


class Band:
    """One LiteLLM as the plugin sees it.

    Attributes:
        name: The range of versions with the same seams.
        version: LiteLLM's own version.
        module: Where the core class and the functions it calls live.
        core: The class whose instances route (`litellm.Router` itself up to 1.106).
        router: `litellm.Router`.
        facade: True if a Router is only a facade over its core.
        core_walks: Whether a core goes from step to step by itself, and picks in the course of it.
        has_cooldown_cache: Whether cooldowns are read and written by way of LiteLLM's `CooldownCache`.
        keeper: How its Routers are bound; there once the floors above have given it.
    """

    core_walks = False
    has_cooldown_cache = True
    keeper: Keeper

    seams: frozenset[Seam] = frozenset(
        {
            Seam.REQUEST,
            Seam.ATTEMPT,
            Seam.PICK,
            Seam.AWAITED_PICK,
            Seam.CHOICE,
            Seam.CHANGES,
            Seam.REST_STORE,
            Seam.RETRY_TIMING,
            Seam.STRATEGY_NAMES,
            Seam.STREAM_RECOVERY,
            Seam.MEMBERS,
        }
    )
    installers: ClassVar[Mapping[str, str]] = {}
    within: ClassVar[Mapping[str, str]] = {}

    def __init__(self, router_module: ModuleType) -> None:
        self.version: str = litellm_version()
        self.router: type = router_module.Router
        self.core: type = getattr(router_module, "PythonCore", self.router)
        self.facade = self.core is not self.router
        self.module: ModuleType = sys.modules[self.core.__module__]
        parts = numbers_of(self.version)
        self.name = next((name for end, name in _BANDS if parts < end), "unknown")
        self._known: bool | None = None
        missing = [name for name in _NEEDED if not hasattr(self.core, self.slot(name))]
        missing += [name for name in _NEEDED_GLOBALS if name not in vars(self.module)]
        if missing:
            msg = f"LiteLLM {self.version} has no {', '.join(missing)}"
            raise UnknownBandError(msg)

    def lacks(self, seam: Seam) -> str:
        """Why there is no such seam, in words; empty if there is one."""
        if seam is Seam.PICK and not self.fast_lane:
            return f"the routing code of LiteLLM {self.version} is not one that was checked against"
        return "" if seam in self.seams else f"LiteLLM {self.version} does not have {seam.value}"

    def slot(self, name: str) -> str:
        """The real name of a member of the core class."""
        renamed = f"{PREFIX}{name}"
        return renamed if renamed in vars(self.core) else name

    def spellings(self, name: str) -> tuple[str, ...]:
        """Every name under which a member of a core may be assigned."""
        return (name, f"{PREFIX}{name}")

    def has(self, name: str) -> bool:
        """True if the core class has that member."""
        return hasattr(self.core, self.slot(name))

    def attribute(self, core: Any, *names: str) -> str | None:
        """The real name of the first of these attributes that the instance `core` has."""
        state = vars(core)
        for name in names:
            for spelling in (f"{PREFIX}{name}", name) if self.facade else (name,):
                if spelling in state:
                    return spelling
        return None

    def read(self, core: Any, *names: str, default: Any = None) -> Any:
        """The value of the first of these attributes that the instance `core` has, else `default`."""
        name = self.attribute(core, *names)
        return default if name is None else vars(core)[name]

    def busy(self, core: Any, model: str, ids: Sequence[str]) -> list[float]:
        """What LiteLLM's least-busy goes by, as this process knows it: calls per deployment, in the order of `ids`."""
        cache, key = self.read(core, "cache"), f"{model}_request_count"
        # One map for all deployments, and since 1.106 a counter of each one's own; without either LiteLLM goes by 0.
        known = cache.get_cache(key=key, local_only=True) or {}
        return [known.get(id_) or cache.get_cache(key=f"{key}:{id_}", local_only=True) or 0 for id_ in ids]

    def call(self, core: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of `core` by its plain name."""
        return getattr(core, self.slot(name))(*args, **kwargs)

    def core_of(self, router: Any) -> Any:
        """The object that routes for `router`: itself, or the core behind the facade."""
        return vars(router).get("_core", router) if self.facade else router

    def around_request(self, patches: PatchSet, make: Layer, make_sync: Layer) -> None:  # noqa: ARG002 - they come by here
        """Put a layer around each request, synchronous ones included: LiteLLM runs those on a loop of their own."""
        patches.replace(self.core, self.slot("async_function_with_fallbacks"), make)

    def around_attempt(self, patches: PatchSet, make: Layer, make_sync: Layer) -> None:  # noqa: ARG002 - the same
        """Put a layer around each attempt, from before its pick; synchronous ones come by here, too."""
        patches.replace(self.core, self.slot("make_call"), make)

    def around_whole_request(self, patches: PatchSet, make: Layer, make_sync: Layer) -> None:  # noqa: ARG002 - they come by here
        """Put a layer around each request, outside of everything else."""
        patches.replace(self.core, self.slot("async_function_with_fallbacks"), make)

    def around_picks(self, patches: PatchSet, make: Outer, make_sync: Outer) -> None:
        """Put a layer around each pick, outside of everything else, that knows LiteLLM's own method as well."""
        for name, around in (
            ("async_get_available_deployment", make),
            ("async_get_available_deployment_for_pass_through", make),
            ("get_available_deployment", make_sync),
            ("get_available_deployment_for_pass_through", make_sync),
        ):
            if self.has(name):
                own = innermost(getattr(self.core, self.slot(name)))
                patches.replace(self.core, self.slot(name), partial(around, own))

    def around_own_attempts(self, patches: PatchSet, make: Layer, make_sync: Layer) -> None:
        """Put a layer around each attempt, outside of everything else."""
        self.around_attempt(patches, make, make_sync)

    def installed(self, patches: PatchSet, give_back: Callable[[Any, str], None]) -> None:
        """Everything is installed; `give_back(band, why)` takes it out again where LiteLLM proves to be another one."""

    @property
    def fast_lane(self) -> bool:
        """True if this pipeline is one that the fast lane was written against; found out once, from the source."""
        if self._known is None:
            self._known = self.pipeline() in KNOWN_PIPELINES
        return self._known

    def pipeline(self) -> str:
        """A hash over the source of everything that the fast lane stands in for."""
        digest = hashlib.sha256()
        for name, function in self._pipeline_functions():
            digest.update(name.encode())
            try:
                digest.update(inspect.getsource(function).encode())
            except (OSError, TypeError):
                return ""
        return digest.hexdigest()[:16]

    def _pipeline_functions(self) -> Iterator[tuple[str, Any]]:
        for name in _PIPELINE:
            for cls in self.core.__mro__:
                found = vars(cls).get(self.slot(name))
                if found is not None:
                    yield name, innermost(found)
                    break
        for name in _PIPELINE_GLOBALS:
            found = vars(self.module).get(name)
            if found is not None:
                yield name, innermost(found)

    @cached_property
    def narrowing_keys(self) -> tuple[str, ...]:
        """The request keys that this LiteLLM's selection understands and takes out, in the order of its steps.

        1.83 knows the first, 1.86 added the second, 1.102 the third. None where the selection is not in Python.
        """
        name = self.slot("async_get_healthy_deployments")
        found = next((vars(cls)[name] for cls in self.core.__mro__ if name in vars(cls)), None)
        if found is None:
            return ()
        return tuple(key for key in _NARROWING if key in innermost(found).__code__.co_consts)

    def order_is_strict(self) -> bool:
        """False if an order that no candidate has counts as none, as it does before 1.101."""
        from litellm import utils  # noqa: PLC0415 - it is imported: its Router is here

        narrow = getattr(utils, "get_order_filtered_deployments", None) or utils._get_order_filtered_deployments
        return not narrow([{"litellm_params": {"order": 1}, "model_info": {}}], target_order=2)

    def stock_names(self) -> tuple[str, ...]:
        """The real names of the pipeline's methods: a subclass that overrides one changes the pipeline."""
        return tuple(self.slot(name) for name in _PIPELINE if self.has(name))

    def __repr__(self) -> str:
        return f"<Band {self.name} for LiteLLM {self.version}>"


def innermost(function: Any) -> Any:
    """LiteLLM's own function under the layers of ours."""
    # Ours keep what they replaced under this name, so the hash is that of LiteLLM's own text at any time.
    function = getattr(function, "__func__", function)
    while True:
        inner = getattr(function, "__fast_router_original__", None) or getattr(function, "__wrapped__", None)
        if inner is None:
            return function
        function = getattr(inner, "__func__", inner)


def litellm_version() -> str:
    """The installed version, 0 if it is not known."""
    try:
        return version("litellm")
    except PackageNotFoundError:
        return "0"


def numbers_of(text: str) -> tuple[int, ...]:
    """A version as numbers, as far as it has them."""
    numbers = []
    for part in text.split("."):
        digits = "".join(c for c in part if c.isdigit())
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
