"""The pick itself, in three lanes.

Fast: a compiled plan says that nothing special is in use, and the engine answers. Filtered: LiteLLM's own method
runs, with all its filters, errors and side effects, and only its last step, the strategy's choice among the
candidates that are left, is ours (see `choosing`). Delegated: LiteLLM decides everything.

What stands in the place of LiteLLM's selection methods is a plain function each; the fast lane in it makes no
closure, copies nothing and logs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router.engine import Ask
from fast_router.litellm_plugin.layers.lease import current
from fast_router.litellm_plugin.picks.binding import KEY, Binding, bind
from fast_router.litellm_plugin.picks.callback_filters import CallbackVerdict
from fast_router.litellm_plugin.picks.filtered import Filtered, ask_of, filtered_pick, install_choice
from fast_router.litellm_plugin.picks.plan_compiler import SPECIAL, watched_attributes
from fast_router.litellm_plugin.rests.mirror import refresh, watch_redis
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine import Deployment
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.layers.lease import Attempt
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.plan_compiler import Plan

__all__ = ["Seam", "install", "seam"]

_COMPACTION = "_context_compaction_state"
_WEB_SEARCH = frozenset({"web_search", "web_search_preview"})
_NEVER = float("inf")
_NOBODY = "nobody is eligible"
_PASS_THROUGH = "pass-through"
_STREAMED = Ask((), 0.0, True)


def _holds(binding: Binding, plan: Plan) -> bool:
    """Whether `plan` still describes its Router: see `_watched_write` for how assignments are noticed."""
    return (
        plan.version == binding.version
        and len(plan.model_list) == plan.size
        and (not plan.alias or plan.alias.get(plan.model) is plan.target)
    )


class Seam:
    """Where somebody can stand around asynchronous picks, at no cost while nobody does.

    Attributes:
        active: True to have every asynchronous pick go through `around`.
        around: `await around(pick, core, model, request_kwargs, messages, input, specific_deployment)` answers
            with a deployment, normally `await pick(...)` of the same arguments.
    """

    __slots__ = ("_wanted", "active", "around")

    def __init__(self) -> None:
        self.active = False
        self.around: Callable[..., Awaitable[Any]] | None = None
        self._wanted: set[str] = set()

    def want(self, name: str, *, wanted: bool) -> None:
        """Let `name` stand around picks, or no longer."""
        (self._wanted.add if wanted else self._wanted.discard)(name)
        self.active = bool(self._wanted)


seam = Seam()


class _Selection:
    """What the replacements of one LiteLLM's selection methods share."""

    def __init__(self, patches: PatchSet, band: Band) -> None:
        import litellm  # noqa: PLC0415 - LiteLLM is imported

        self.patches = patches
        self.band = band
        self.litellm = litellm
        self.verdict = CallbackVerdict()
        self.popped = band.narrowing_keys
        self.strict = band.order_is_strict()
        variables = vars(band.module)
        self.routed = variables.get("_routed_call_type")
        self.resolvers = variables.get("_ROUTE_CAPABILITY_RESOLVERS") or {}
        self.video = variables.get("_video_call_deployment_id")
        # None where no endpoint marks its calls: a pick then does not ask.
        self.marked = None if self.routed is None and self.video is None else self.call_marked

    def call_marked(self) -> bool:
        """True if the endpoint that is running narrows the candidates by its own kind (from 1.108 on)."""
        if self.routed is not None:
            handler = self.routed.get()
            if handler is not None and handler in self.resolvers:
                return True
        return self.video is not None and self.video.get() is not None

    # -- everything but the shortest way -------------------------------------------------------

    def decide(
        self,
        core: Any,
        model: Any,
        request_kwargs: dict[str, Any] | None,
        prompt: tuple[Any, Any],
        *,
        specific: Any,
        synchronous: bool,
    ) -> Mapping[str, Any] | Filtered | None:
        """The picked deployment's dict; or under what LiteLLM's pipeline is to run; None for LiteLLM alone."""
        if not self.patches.active or not isinstance(model, str):
            return None
        binding = bind(core, self.band)
        if binding.engine.clock() >= binding.redis_due:
            refresh(binding, core)
        plan = binding.plans.get(model)
        if plan is None or not _holds(binding, plan):
            watch_redis(binding, core)
            plan = binding.plan(core, model)
        attempt = current.get()
        why = plan.why_sync if synchronous else plan.why
        if why is None:
            why = self._why(plan, request_kwargs or {}, specific=specific, synchronous=synchronous)
        if why is None:
            deployment = self._pick(binding, plan, attempt, request_kwargs, prompt)
            if deployment is not None:
                tally.fast += 1
                return deployment.entry
            # LiteLLM answers, and if nobody is eligible there either, its error is the right one.
            return Filtered(binding, plan, attempt, _NOBODY, chooses=False)
        return Filtered(binding, plan, attempt, why)

    def _why(self, plan: Plan, kwargs: Mapping[str, Any], *, specific: Any, synchronous: bool) -> str | None:
        """Why this request cannot take the fast lane of its plan, None if it can."""
        if specific:
            return "a specific deployment"
        if not synchronous:
            callbacks = self.litellm.callbacks
            if callbacks != self.verdict.seen:
                self.verdict.update(callbacks)
            if self.verdict.keys and not self.verdict.keys.isdisjoint(kwargs):
                return "a callback that filters"
            if self.verdict.why is not None:
                return self.verdict.why
            if plan.services and self.litellm.service_callback:
                return "service callbacks"
        if self.call_marked():
            return "an endpoint that narrows the candidates"
        for key in SPECIAL | plan.special:
            if key in kwargs and key not in self.popped and _matters(key, kwargs[key]):
                return f"the request's {key.strip('_')}"
        state = kwargs.get(_COMPACTION)
        if state is not None and getattr(state, "config", None) is not None:
            return "context compaction"
        for bucket in (kwargs.get("metadata"), kwargs.get("litellm_metadata")):
            if isinstance(bucket, Mapping):
                for key in plan.gated:
                    if bucket.get(key) is not None:
                        return f"metadata {key.strip('_')}"
        return None

    def _pick(
        self,
        binding: Binding,
        plan: Plan,
        attempt: Attempt | None,
        request_kwargs: dict[str, Any] | None,
        prompt: tuple[Any, Any],
    ) -> Deployment | None:
        group = plan.group
        if group is None:
            return None
        kwargs = request_kwargs or {}
        engine = binding.engine
        ask = ask_of(group.strategy, kwargs, prompt, counts=plan.counts) if plan.asks else None
        tried = attempt.ledger if attempt is not None and attempt.ledger is not None else None
        if (tried is None or not tried.tried) and not any(key in kwargs for key in self.popped):
            lease = engine.acquire(group, ask)
        else:
            engine.settle()
            candidates = _candidates(group.members, kwargs, self.popped, tried, strict=self.strict)
            lease = engine.acquire_from(group, candidates, ask) if candidates else None
            if lease is not None and request_kwargs:
                for key in self.popped:
                    request_kwargs.pop(key, None)
        if lease is None:
            return None
        if attempt is None:
            # Nobody will tell how it goes: a pick outside any attempt counts as none.
            lease.release(cancelled=True)
        else:
            attempt.take(lease)
        return lease.deployment


def _matters(key: str, value: Any) -> bool:
    if key == "enable_tag_filtering":
        return value is True
    if key == "tools":
        return any(isinstance(tool, Mapping) and tool.get("type") in _WEB_SEARCH for tool in value or ())
    return value is not None


def _candidates(
    members: Sequence[Deployment], kwargs: Mapping[str, Any], popped: Sequence[str], tried: Any, *, strict: bool
) -> Sequence[Deployment]:
    """Who may be picked for a request with a target order, with ids to leave out, or that has failed before.

    The steps and their order are LiteLLM's; what was tried is left out last.
    """
    candidates: Sequence[Deployment] = [d for d in members if not d.held]
    retried = tried is not None and bool(tried.tried)
    target = kwargs.get("_target_order")
    if target is not None:
        wanted = [d for d in candidates if d.order == target]
        if wanted or strict:
            candidates = wanted
    elif not retried:
        candidates = _lowest(candidates)
    if "_excluded_deployment_ids" in popped:
        excluded = set(kwargs.get("_excluded_deployment_ids") or ())
        candidates = [d for d in candidates if d.id not in excluded]
    if "_retry_skipped_deployment_ids" in popped:
        skipped = kwargs.get("_retry_skipped_deployment_ids")
        if isinstance(skipped, (list, tuple, set, frozenset)):
            candidates = [d for d in candidates if d.id not in skipped] or candidates
    if retried:
        candidates = tried.narrow(candidates)
        if target is None:
            candidates = _lowest(candidates)
    return candidates


def _lowest(candidates: Sequence[Deployment]) -> Sequence[Deployment]:
    orders = [d.order for d in candidates if d.order is not None]
    if not orders:
        return candidates
    lowest = min(orders)
    return [d for d in candidates if d.order == lowest]


# -- the replacements --------------------------------------------------------------------------------------


# Both hold the shortest way written out: a call saved here is a tenth of the pick.


def _asynchronous(selection: _Selection, original: Any) -> Any:
    verdict = selection.verdict
    litellm = selection.litellm
    marked = selection.marked
    attempt_of = current.get

    async def longer(
        self: Any, model: Any, request_kwargs: Any, messages: Any, text: Any, specific_deployment: Any
    ) -> Any:
        try:
            decided = selection.decide(
                self, model, request_kwargs, (messages, text), specific=specific_deployment, synchronous=False
            )
        except Exception as error:  # noqa: BLE001 - LiteLLM's own pick answers
            tally.failed(error, "a pick")
            decided = None
        if decided is not None and not isinstance(decided, Filtered):
            return decided
        with filtered_pick(decided, self) as pick:
            return pick.settled(
                await original(
                    self,
                    model=model,
                    request_kwargs=request_kwargs,
                    messages=messages,
                    input=text,
                    specific_deployment=specific_deployment,
                )
            )

    async def async_get_available_deployment(
        self: Any,
        model: Any,
        request_kwargs: Any,
        messages: Any = None,
        input: Any = None,  # noqa: A002
        specific_deployment: Any = False,
    ) -> Any:
        try:
            binding = self.__dict__.get(KEY)
            plan = None if binding is None else binding.plans.get(model)
            attempt = attempt_of()
            if (
                plan is not None
                and plan.short
                and (attempt is None or attempt.fresh)
                and plan.version == binding.version
                and len(plan.model_list) == plan.size
                and (not plan.alias or plan.alias.get(model) is plan.target)
                and verdict.seen == litellm.callbacks
                and (verdict.clear or (verdict.why is None and request_kwargs.keys().isdisjoint(verdict.keys)))
                and not specific_deployment
                and not seam.active
                and (binding.redis_due == _NEVER or binding.redis_due > binding.engine.clock())
                and not (plan.services and litellm.service_callback)
                and (marked is None or not marked())
                and request_kwargs.keys().isdisjoint(plan.special)
            ):
                gated = plan.gated
                compaction = request_kwargs.get(_COMPACTION)
                metadata = request_kwargs.get("metadata")
                internal = request_kwargs.get("litellm_metadata")
                if (
                    (compaction is None or compaction.config is None)
                    and (not metadata or (type(metadata) is dict and metadata.keys().isdisjoint(gated)))
                    and (not internal or (type(internal) is dict and internal.keys().isdisjoint(gated)))
                ):
                    ask = _STREAMED if plan.streams and request_kwargs.get("stream") is True else None
                    if attempt is None:
                        deployment = plan.peek(plan.group, ask)
                        if deployment is not None:
                            tally.fast += 1
                            return deployment.entry
                    else:
                        lease = plan.acquire(plan.group, ask)
                        if lease is not None:
                            attempt.lease = lease
                            lease.deployment.attempts.add(attempt)
                            attempt.fresh = False
                            tally.fast += 1
                            return lease.deployment.entry
        except Exception as error:  # noqa: BLE001 - the longer way begins anew
            tally.failed(error, "a pick")
        if seam.active and seam.around is not None:
            return await seam.around(longer, self, model, request_kwargs, messages, input, specific_deployment)
        return await longer(self, model, request_kwargs, messages, input, specific_deployment)

    return async_get_available_deployment


def _synchronous(selection: _Selection, original: Any) -> Any:
    marked = selection.marked
    attempt_of = current.get

    def get_available_deployment(
        self: Any,
        model: Any,
        messages: Any = None,
        input: Any = None,  # noqa: A002
        specific_deployment: Any = False,
        request_kwargs: Any = None,
    ) -> Any:
        try:
            binding = self.__dict__.get(KEY)
            plan = None if binding is None else binding.plans.get(model)
            attempt = attempt_of()
            if (
                plan is not None
                and plan.short_sync
                and (attempt is None or attempt.fresh)
                and plan.version == binding.version
                and len(plan.model_list) == plan.size
                and (not plan.alias or plan.alias.get(model) is plan.target)
                and not specific_deployment
                and (binding.redis_due == _NEVER or binding.redis_due > binding.engine.clock())
                and (marked is None or not marked())
                # What its metadata may hold that matters, `decide` looks at.
                and (
                    request_kwargs is None
                    or (
                        request_kwargs.keys().isdisjoint(plan.special)
                        and not (plan.gated and ("metadata" in request_kwargs or "litellm_metadata" in request_kwargs))
                    )
                )
            ):
                ask = _STREAMED if plan.streams and request_kwargs and request_kwargs.get("stream") is True else None
                if attempt is None:
                    deployment = plan.peek(plan.group, ask)
                    if deployment is not None:
                        tally.fast += 1
                        return deployment.entry
                else:
                    lease = plan.acquire(plan.group, ask)
                    if lease is not None:
                        attempt.lease = lease
                        lease.deployment.attempts.add(attempt)
                        attempt.fresh = False
                        tally.fast += 1
                        return lease.deployment.entry
            decided = selection.decide(
                self, model, request_kwargs, (messages, input), specific=specific_deployment, synchronous=True
            )
        except Exception as error:  # noqa: BLE001 - LiteLLM's own pick answers
            tally.failed(error, "a pick")
            decided = None
        if decided is not None and not isinstance(decided, Filtered):
            return decided
        with filtered_pick(decided, self) as pick:
            return pick.settled(
                original(
                    self,
                    model=model,
                    messages=messages,
                    input=input,
                    specific_deployment=specific_deployment,
                    request_kwargs=request_kwargs,
                )
            )

    return get_available_deployment


def _async_pass_through(selection: _Selection, original: Any) -> Any:
    async def async_get_available_deployment_for_pass_through(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        with filtered_pick(_pass_through(selection, self, model), self) as pick:
            return pick.settled(await original(self, model, *args, **kwargs))

    return async_get_available_deployment_for_pass_through


def _sync_pass_through(selection: _Selection, original: Any) -> Any:
    def get_available_deployment_for_pass_through(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        with filtered_pick(_pass_through(selection, self, model), self) as pick:
            return pick.settled(original(self, model, *args, **kwargs))

    return get_available_deployment_for_pass_through


def _pass_through(selection: _Selection, core: Any, model: Any) -> Filtered | None:
    """Pass-through picks always run LiteLLM's pipeline: it alone knows who may pass through."""
    try:
        if not selection.patches.active or not isinstance(model, str):
            return None
        binding = bind(core, selection.band)
        plan = binding.plans.get(model)
        if plan is None or not _holds(binding, plan):
            plan = binding.plan(core, model)
        return Filtered(binding, plan, current.get(), _PASS_THROUGH)
    except Exception as error:  # noqa: BLE001 - LiteLLM's own pick answers
        tally.failed(error, "a pass-through pick")
        return None


def _announced(original: Any) -> Any:
    """Around a method that LiteLLM calls when the deployments, groups or prices of a Router change."""

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        binding = self.__dict__.get(KEY)
        if binding is not None:
            binding.version += 1
        return original(self, *args, **kwargs)

    return changed


def _watched_write(original: Any, watched: frozenset[str]) -> Any:
    """Around `__setattr__` of the core class: whoever assigns a setting makes the plans outdated."""

    def __setattr__(self: Any, name: str, value: Any) -> None:  # noqa: N807 - it stands in for that method
        original(self, name, value)
        if name in watched:
            binding = self.__dict__.get(KEY)
            if binding is not None:
                binding.version += 1

    return __setattr__


def _watched_delete(original: Any, watched: frozenset[str]) -> Any:
    def __delattr__(self: Any, name: str) -> None:  # noqa: N807 - it stands in for that method
        original(self, name)
        if name in watched:
            binding = self.__dict__.get(KEY)
            if binding is not None:
                binding.version += 1

    return __delattr__


def install(patches: PatchSet, band: Band) -> list[str]:
    """Pick for every Router."""
    selection = _Selection(patches, band)
    for name, make in (
        ("async_get_available_deployment", _asynchronous),
        ("get_available_deployment", _synchronous),
        ("async_get_available_deployment_for_pass_through", _async_pass_through),
        ("get_available_deployment_for_pass_through", _sync_pass_through),
    ):
        if band.has(name):
            patches.replace(band.core, band.slot(name), partial(make, selection))
    for name in ("_invalidate_access_groups_cache", "_invalidate_model_group_info_cache"):
        if band.has(name):
            patches.replace(band.core, band.slot(name), _announced)
    watched = watched_attributes(band)
    patches.replace(band.core, "__setattr__", lambda original: _watched_write(original, watched))
    patches.replace(band.core, "__delattr__", lambda original: _watched_delete(original, watched))
    install_choice(patches, band)
    return ["selection"]
