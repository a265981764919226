"""May this request take the fast lane? Everything about a pick but the shortest way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.picks.binding import Binding, bind
from fast_router.litellm_plugin.picks.callback_filters import CallbackVerdict
from fast_router.litellm_plugin.picks.filtered import Filtered
from fast_router.litellm_plugin.picks.plan import SPECIAL
from fast_router.litellm_plugin.picks.request_facts import ask_of
from fast_router.litellm_plugin.request import here
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine import Deployment
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.plan import Plan
    from fast_router.litellm_plugin.request import Attempt

__all__ = ["COMPACTION", "Guard"]


COMPACTION = "_context_compaction_state"


_WEB_SEARCH = frozenset({"web_search", "web_search_preview"})


_NOBODY = "nobody is eligible"


class Guard:
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

    def layers(self, core: Any) -> Binding | None:
        """The binding of a Router, with the layers around its picks as they are wanted now; None if we stand aside."""
        if not self.patches.active:
            return None
        try:
            binding = bind(core, self.band)
            binding.heed_changes(core)
        except Exception:  # noqa: BLE001 - `decided` meets it again, and counts it
            return None
        return binding

    # -- everything but the shortest way -------------------------------------------------------

    def decided(
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
        try:
            if not self.patches.active or not isinstance(model, str):
                return None
            binding = bind(core, self.band)
            if binding.look is not None and binding.engine.clock() >= binding.redis_due:
                binding.look(binding, core)
            plan = binding.plan_for(core, model)
            attempt = here.get().attempt
            why = plan.why_sync if synchronous else plan.why
            if why is None:
                why = self.why_not(plan, request_kwargs or {}, specific=specific, synchronous=synchronous)
            if why is None:
                deployment = self._pick(binding, plan, attempt, request_kwargs, prompt)
                if deployment is not None:
                    tally.fast += 1
                    return deployment.entry
                # LiteLLM answers, and if nobody is eligible there either, its error is the right one.
                return Filtered(binding, plan, attempt, _NOBODY, chooses=False)
            return Filtered(binding, plan, attempt, why)
        except Exception as error:  # noqa: BLE001 - LiteLLM's own pick answers
            tally.failed(error, "a pick")
            return None

    def why_not(self, plan: Plan, kwargs: Mapping[str, Any], *, specific: Any, synchronous: bool) -> str | None:
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
        state = kwargs.get(COMPACTION)
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
        ask = ask_of(group, kwargs, prompt, counts=plan.counts) if plan.asks else None
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
