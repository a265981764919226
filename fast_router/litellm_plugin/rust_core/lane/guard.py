"""Whether a request may take the lane: compiled per Router and group, checked per request by what changes.

LiteLLM's core counts up a version with every change of its registry, and replaces its settings as a whole; comparing
those is the guard. What no version tells is compared beside them. A change has the group compiled anew by the next
request; what is expensive about a deployment is left until it is first picked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fast_router.errors import FastRouterError
from fast_router.litellm_plugin.picks import strategies_by_name
from fast_router.litellm_plugin.picks.replaced_selectors import replaces
from fast_router.litellm_plugin.picks.request_facts import asks
from fast_router.litellm_plugin.rests import mirror
from fast_router.litellm_plugin.router_state import given_now
from fast_router.litellm_plugin.rust_core.binding import binding_of
from fast_router.litellm_plugin.rust_core.lane.ordinary import why_entry, why_router
from fast_router.litellm_plugin.rust_core.lane.rehearsal import Unknown, rehearse
from fast_router.litellm_plugin.rust_core.lane.retry import Retries
from fast_router.litellm_plugin.rust_core.lane.template import Template, compile_template
from fast_router.litellm_plugin.strategy_names import SELECTORS, STRATEGIES, options_of
from fast_router.litellm_plugin.tally import LOGGER

if TYPE_CHECKING:
    from fast_router.engine import ModelGroup
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.rust_core.binding import RustBinding
    from fast_router.litellm_plugin.rust_core.lane.endpoint import Endpoint
    from fast_router.litellm_plugin.rust_core.lane.parts import Parts

__all__ = ["CoreLane", "Open", "compile_group"]


class CoreLane:
    """The lane of one Router.

    Attributes:
        binding: Its picks.
        groups: What was compiled, by endpoint and model name.
    """

    __slots__ = ("binding", "groups")

    def __init__(self, binding: RustBinding) -> None:
        self.binding = binding
        self.groups: dict[tuple[str, str], Open] = {}


class Open:
    """How one endpoint serves one model name of one Router, until something changes.

    Attributes:
        seen: The binding's version that this was compiled at.
        why: What keeps requests out, None if nothing does.
        group: Whom we pick from.
        ids: Its members.
        asks: Whether the strategy wants to know about the request.
        counts: Whether its tokens matter.
        step: The first attempt of a rehearsed walk.
        name: The group as LiteLLM's headers call it.
        teams: Whether a deployment of this Router belongs to a team.
        guarded: Whether a member is in an access group.
        images: Whether a request with an image has the same candidates; None until one comes by.
        records: Deployments as LiteLLM reads them, by id; from their first picks on.
        paced: Whether a member has a limit of requests per minute.
        remaining: Whether LiteLLM tells remaining limits in headers; None until the first answer.
        counters: The minute, and LiteLLM's counters of the group in it; None until first read.
        retries: How LiteLLM's core retries here, as far as it is known.
    """

    __slots__ = (
        "asks", "cache", "cooldowns", "counters", "counts", "group", "guarded", "handle", "hosted", "ids", "images",
        "name", "paced", "records", "remaining", "resolved", "retries", "rewritten", "seen", "step", "teams",
        "templates", "version", "why",
    )  # fmt: skip

    def __init__(self, core: Any) -> None:
        # Read before anything else: a change during the compilation then makes this outdated.
        handle = core._handle
        self.handle = handle
        self.version = handle.registry_version()
        self.rewritten = handle.registry_rewritten()
        self.resolved = core._resolved
        self.cache = core._cache
        self.cooldowns = core._cooldowns
        self.hosted = core._hosted
        self.seen = -1
        self.why: str | None = None
        self.group: ModelGroup | None = None
        self.ids: Sequence[str] = ()
        self.asks = False
        self.counts = False
        self.step: Mapping[str, Any] = {}
        self.name = ""
        self.teams = False
        self.guarded = False
        self.images: bool | None = None
        self.paced = False
        self.records: dict[str, dict[str, Any]] = {}
        self.remaining: bool | None = None
        self.counters: tuple[str, Any] | None = None
        self.templates: dict[tuple[str, bool], Template] = {}
        self.retries = Retries()

    def holds(self, core: Any) -> bool:
        """Whether the Router is still as it was compiled for."""
        handle = self.handle
        return (
            core._handle is handle
            and core._resolved is self.resolved
            and handle.registry_version() == self.version
            and handle.registry_rewritten() == self.rewritten
            and core._cache is self.cache
            and core._cooldowns is self.cooldowns
            and core._custom_strategy is None
            and not core._deleted
            and not core._index_written
            and not self.hosted._core_routing_plugins
            and core._checks._outcome_callbacks_listed
            and not core._checks.optional_callbacks
            and core._endpoints._default_priority is None
        )

    def template(self, parts: Parts, core: Any, endpoint: Endpoint, id_: str, *, stream: bool) -> Template:
        """The template of a deployment, compiled at its first pick."""
        found = self.templates.get((id_, stream))
        if found is None:
            deployment = self.handle.deployment(id_)
            step = {**self.step, "deployment_id": id_, "deployment": deployment, "candidate_ids": [id_]}
            found = compile_template(parts, core, endpoint, step, stream=stream)
            found.tracks = core.deployment_tracks_usage(id_, found.model)
            found.slots = not endpoint.sync and _most_parallel(parts, core, found) > 0
            self.templates[id_, stream] = found
        return found


def _most_parallel(parts: Parts, core: Any, template: Template) -> int:
    params = template.params
    most = parts.most_parallel(
        rpm=params.get("rpm"),
        max_parallel_requests=params.get("max_parallel_requests"),
        tpm=params.get("tpm"),
        default_max_parallel_requests=core._endpoints.default_max_parallel_requests,
    )
    return int(most or 0)


def compile_group(parts: Parts, band: RustBand, core: Any, endpoint: Endpoint, model: str) -> Open:
    """Compile the guard of a model name, whatever it is; never raises for what a Router may hold."""
    found = Open(core)
    try:
        _open(parts, band, core, endpoint, model, found)
    except Unknown as reason:
        found.why = str(reason)
    except FastRouterError as error:
        LOGGER.warning("fast_router: the model %r is left to LiteLLM: %s", model, error)
        found.why = f"a mistake in the configuration ({type(error).__name__})"
    return found


def _open(parts: Parts, band: RustBand, core: Any, endpoint: Endpoint, model: str, found: Open) -> None:
    why = why_router(core)
    if why is not None:
        raise Unknown(why)
    resolution = core._handle.resolve(model)
    if resolution is None or resolution["kind"] not in ("Group", "Alias"):
        kind = "nothing" if resolution is None else str(resolution["kind"])
        raise Unknown(f"a name that stands for {_STANDS_FOR.get(kind, 'something else')}")
    group = str(resolution["model_group"])
    binding = binding_of(band, core)
    ids = [str(id_) for id_ in resolution["ids"]]
    members = [binding.engine.deployments.get(id_) for id_ in ids]
    if not members or len(set(ids)) != len(ids) or any(member is None for member in members):
        raise Unknown("deployments that share an id")
    entries = [member.entry for member in members if member is not None]
    for id_, entry in zip(ids, entries, strict=True):
        why = why_entry(entry, parts.declared)
        if why is not None:
            raise Unknown(why)
        if core._hosted.live_params(id_) or core._hosted.live_info(id_):
            raise Unknown("a deployment with values that are not JSON")
    if parts.prompt_managed(core._port, model):
        raise Unknown("prompt management")
    found.teams = any((d.entry.get("model_info") or {}).get("team_id") for d in binding.engine.deployments.values())
    found.guarded = any((entry.get("model_info") or {}).get("access_groups") for entry in entries)
    found.step, candidates = rehearse(core, endpoint, model)
    if sorted(candidates) != sorted(ids):
        raise Unknown("deployments that LiteLLM leaves out")
    found.name = str(found.step["model"])
    strategy, options = _strategy(binding, core, entries, group)
    found.group = binding.group(group, strategy, options, entries)
    found.ids = ids
    if found.group.reads_prompts:
        raise Unknown("a strategy that reads prompts")
    limits = any(tier.respects_limits for tier in found.group.tiers.values())
    found.counts = limits and any(member.tpm is not None for member in found.group.members)
    found.asks = found.counts or asks(found.group)
    found.paced = any(_asked_for(entry, "rpm") for entry in entries)
    mirror.watch_redis(binding, core)


def _asked_for(entry: Mapping[str, Any], key: str) -> bool:
    places = (entry, entry.get("litellm_params") or {}, entry.get("model_info") or {})
    return any(place.get(key) is not None for place in places)


_STANDS_FOR = {"nothing": "nothing", "RoutingGroup": "a routing group", "Id": "an id"}


def _strategy(
    binding: RustBinding, core: Any, entries: list[Mapping[str, Any]], model: str
) -> tuple[str, Mapping[str, Any]]:
    own = strategies_by_name.of_model(entries)
    if own is not None:
        return own
    given = given_now(core)
    if given is not None and given.router is not None:
        return given.router, given.options
    name, scope, _ = core._handle.routing_context(model)
    if name not in STRATEGIES or scope != "default" or name == "usage-based-routing":
        raise Unknown(f"the strategy {name!r} is LiteLLM's alone")
    if name == "simple-shuffle":
        return STRATEGIES[name], {}
    selector = core._selectors.default
    if type(selector).__name__ != SELECTORS[name][1] or not type(selector).__module__.startswith("litellm."):
        raise Unknown("a strategy object of somebody else")
    options = options_of(selector)
    if options is None:
        raise Unknown("strategy options that only LiteLLM has")
    replaces(selector, binding)
    return STRATEGIES[name], options
