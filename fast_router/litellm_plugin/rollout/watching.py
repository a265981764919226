"""LiteLLM's own picks as we see them: they count as in flight with us; while we only watch, we say what we would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.picks.guard import Guard
from fast_router.litellm_plugin.picks.request_facts import ask_of
from fast_router.litellm_plugin.rests.policy import policy_of
from fast_router.litellm_plugin.router_state import given_now
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine import Deployment
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding
    from fast_router.litellm_plugin.rollout.observer import Observer
    from fast_router.litellm_plugin.rollout.request import Request

__all__ = ["Watching"]

_LEAST_BUSY = "least-busy"
_MOST = 32  # deployments whose counters are read at a pick


class Watching:
    """What the gates share about one LiteLLM.

    Args:
        patches: Those of this `enable()`.
        band: Where the gates stand.
    """

    def __init__(self, patches: PatchSet, band: Band) -> None:
        self._band = band
        self._guard = None if band.core_walks else Guard(patches, band)

    # -- where picks are a method's ---------------------------------------------------------------

    @staticmethod
    def request_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request that a pick is for."""
        found = kwargs.get("request_kwargs") or next((value for value in args if isinstance(value, Mapping)), None)
        return found or {}

    def picked(
        self, core: Any, request: Request, picked: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """LiteLLM has picked; never raises."""
        try:
            binding = self._band.keeper.binding(core)
            model = kwargs.get("model", args[0] if args else None)
            deployment = binding.known(picked)
            if deployment is None:
                binding.plan_for(core, str(model))  # nobody has asked for it yet
                deployment = binding.known(picked)
            if deployment is None:
                return
            if request.observer is not None:
                asked = self.request_of(args, kwargs)
                self._observe(binding, core, request.observer, deployment, str(model), asked, kwargs)
            request.hold(binding.engine.acquire_deployment(deployment))
        except Exception as error:  # noqa: BLE001 - there is a pick
            tally.failed(error, "a pick of LiteLLM's own")

    def _observe(
        self,
        binding: Binding,
        core: Any,
        observer: Observer,
        deployment: Deployment,
        model: str,
        asked: Mapping[str, Any],
        kwargs: Mapping[str, Any],
    ) -> None:
        policy_of(core, self._band)  # so that our breaker hears how it ends
        plan = binding.plan_for(core, model)
        prompt = (kwargs.get("messages"), kwargs.get("input"))
        why = plan.why
        if why is None and self._guard is not None:
            why = self._guard.why_not(plan, asked, specific=kwargs.get("specific_deployment"), synchronous=False)
        ours = None
        binding.engine.settle()
        if plan.group is not None:
            ask = ask_of(plan.group, asked, prompt, counts=plan.counts) if plan.asks else None
            ours = binding.engine.peek(plan.group, ask)
        observer.picked(deployment, "fast" if why is None else "filtered", None if ours is None else ours.id)
        if plan.group is not None:
            self._counters(core, observer, model, plan.group.members)

    def _counters(self, core: Any, observer: Observer, model: str, members: Sequence[Deployment]) -> None:
        """Compare what LiteLLM's least-busy goes by with what is in flight, at the first deployments of a group."""
        strategy = self._band.read(core, "routing_strategy")
        given = given_now(core)
        # A core that lacks a strategy of ours is told least-busy, and its arm picks by another one.
        if getattr(strategy, "value", strategy) != _LEAST_BUSY or (given is not None and given.router is not None):
            return
        some = members[:_MOST]
        said = self._band.busy(core, model, [one.id for one in some])
        observer.counters(zip(said, [one.in_flight for one in some], strict=True))

    # -- where a core walks from step to step -------------------------------------------------------

    def begins(self, owner: Any, request: Request, args: tuple[Any, ...]) -> None:
        """An attempt of LiteLLM's own begins; never raises."""
        if not self._band.core_walks:
            return
        try:
            step, core = args[0], owner._core
            binding = self._band.keeper.binding(core)
            deployment = binding.engine.deployments.get(str(step.get("deployment_id")))
            if deployment is None:
                return
            group = None
            if request.observer is not None:
                policy_of(core, self._band)  # so that our breaker hears how it ends
                group = binding.router.groups.get(str(step.get("model")))
                binding.engine.settle()
                ours = None if group is None else binding.engine.peek(group)
                request.observer.picked(deployment, "core", None if ours is None else ours.id)
            request.hold(binding.engine.acquire_deployment(deployment))
            if group is not None and request.observer is not None:
                # The core has reserved a place for this very call, which is in flight with us from here on.
                self._counters(core, request.observer, group.name, group.members)
        except Exception as error:  # noqa: BLE001 - the call is made all the same
            tally.failed(error, "a pick of LiteLLM's own")

    def answered(self, owner: Any, request: Request, answer: Any) -> None:
        """An attempt of LiteLLM's own has ended, but for a stream that is yet to be read; never raises."""
        if self._band.core_walks and isinstance(answer, Mapping) and answer.get("ok") is not True:
            request.failed(getattr(owner, "_last_error", None) or RuntimeError("an attempt of LiteLLM's failed"))
