"""The filtered lane: LiteLLM's pipeline runs, and where it asks its strategy to choose, it asks us.

The context says for whom the pipeline runs. LiteLLM's strategy objects and its `simple_shuffle` are replaced by
functions that look there, and that are LiteLLM's own wherever nobody has put anything there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, cast

from fast_router.errors import FastRouterError
from fast_router.litellm_plugin.picks import strategies_by_name
from fast_router.litellm_plugin.picks.binding import existing
from fast_router.litellm_plugin.picks.replaced_selectors import before_choice
from fast_router.litellm_plugin.picks.request_facts import ask_of
from fast_router.litellm_plugin.request import Context, here
from fast_router.litellm_plugin.strategy_names import SELECTORS, STRATEGIES, options_of
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine import Deployment, Lease
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding
    from fast_router.litellm_plugin.picks.plan import Plan
    from fast_router.litellm_plugin.request import Attempt

__all__ = ["Filtered", "filtered_pick", "install_choice", "install_selectors"]

_LITELLM = object()
"""The choice is LiteLLM's."""

_ALONE = "fast_router stood aside"


class Filtered:
    """A pick that runs through LiteLLM's own pipeline.

    Args:
        binding: Of the Router that picks.
        plan: What is known about the name that was asked for; None where LiteLLM resolves names out of our sight.
        attempt: The running one.
        why: The reason, for the status.
        chooses: False to leave the choice to LiteLLM as well.
    """

    __slots__ = ("_attempt", "_binding", "_chooses", "_plan", "lease", "why")

    def __init__(
        self, binding: Binding, plan: Plan | None, attempt: Attempt | None, why: str, *, chooses: bool = True
    ) -> None:
        self._binding = binding
        self._plan = plan
        self._attempt = attempt
        self._chooses = chooses
        self.why = why
        self.lease: Lease | None = None

    def choose(
        self,
        strategy: str,
        options: Mapping[str, Any] | None,
        model: str,
        candidates: Sequence[Mapping[str, Any]],
        request_kwargs: Mapping[str, Any],
        prompt: tuple[Any, Any],
    ) -> Any:
        """One of LiteLLM's candidates, or `_LITELLM` if the choice is LiteLLM's."""
        binding = self._binding
        own = self._own_strategy(model, candidates) if request_kwargs.get("routing_strategy") is None else None
        if own is not None:
            strategy, options = own
        elif strategy == "simple_shuffle" and request_kwargs.get("_router_weights"):
            return _LITELLM
        if not self._chooses or options is None or not candidates:
            return _LITELLM
        group = binding.group_containing(model, strategy, options, candidates)
        binding.engine.settle()
        entries: dict[str, Mapping[str, Any]] = {}
        eligible: list[Deployment] = []
        for entry in candidates:
            deployment = binding.known(entry)
            if deployment is not None and not deployment.held:
                entries[deployment.id] = entry
                eligible.append(deployment)
        left = self._best(eligible)
        if not left:
            return _LITELLM
        limits = any(tier.respects_limits for tier in group.tiers.values())
        counts = limits and any(d.tpm is not None for d in left)
        ask = ask_of(group, request_kwargs, prompt, counts=counts)
        self._drop()
        self.lease = binding.engine.acquire_from(group, left, ask)
        if self.lease is None:
            return _LITELLM
        if len(eligible) == 1 and self._others_serve(eligible[0]):
            self.lease.bound = True
        return entries[self.lease.deployment.id]

    def _best(self, eligible: Sequence[Deployment]) -> Sequence[Deployment]:
        """Those whom the choice is made among."""
        tried = self._attempt.ledger if self._attempt is not None else None
        return tried.narrow(eligible) if tried is not None and tried.tried else eligible

    def _others_serve(self, deployment: Deployment) -> bool:
        """Whether the filters have left out others that would serve."""
        group = self._binding.router.groups.get(deployment.name)
        return group is not None and any(
            member is not deployment and member.order == deployment.order and not member.held
            for member in group.members
        )

    def _own_strategy(
        self, model: str, candidates: Sequence[Mapping[str, Any]]
    ) -> tuple[str, Mapping[str, Any]] | None:
        plan = self._plan
        if plan is None:
            return strategies_by_name.of_model(candidates)
        if plan.overlay is not None:
            return plan.overlay, plan.options
        core = self._binding.core()
        target = (plan.alias or {}).get(model)
        if isinstance(target, Mapping):
            target = target.get("model")
        resolved = target if isinstance(target, str) else model
        return strategies_by_name.of_model(candidates) or strategies_by_name.of_router(
            core, self._binding.band, resolved
        )

    def settled(self, picked: Any) -> None:
        """LiteLLM's pipeline has ended with `picked`: the lease of the choice, or one on that, is the attempt's."""
        lease, self.lease = self.lease, None
        counter = tally.delegated if lease is None else tally.filtered
        tally.count(counter, self.why)
        deployment = self._binding.known(picked)
        if lease is not None and lease.deployment is not deployment:
            # Something after the strategy decided otherwise.
            lease.release(cancelled=True)
            lease = None
        attempt = self._attempt
        if attempt is None or not attempt.open:
            if lease is not None:
                lease.release(cancelled=True)
        elif lease is not None:
            attempt.take(lease)
        elif deployment is not None:
            attempt.take(self._binding.engine.acquire_deployment(deployment))

    def failed(self) -> None:
        """LiteLLM's pipeline has ended with an error."""
        self._drop()
        tally.count(tally.delegated, self.why)

    def _drop(self) -> None:
        if self.lease is not None:
            self.lease.release(cancelled=True)
            self.lease = None


def _running() -> Filtered | None:
    return cast("Filtered | None", here.get().filtered)


class filtered_pick:  # noqa: N801 - used as a function
    """`with filtered_pick(filtered, core) as pick: return pick.settled(original(...))`.

    Args:
        filtered: Under what LiteLLM's pipeline runs, None for LiteLLM alone.
        core: The Router's core.
    """

    __slots__ = ("_core", "_filtered", "_outer")

    def __init__(self, filtered: Filtered | None, core: Any) -> None:
        self._filtered = filtered
        self._core = core
        self._outer = here.get()

    def __enter__(self) -> filtered_pick:  # noqa: PYI034 - it is never subclassed
        outer = self._outer
        here.set(Context(outer.attempt, outer.reading, self._filtered, outer.aside))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        here.set(self._outer)
        if error is not None and self._filtered is not None:
            try:
                self._filtered.failed()
            except Exception as ours:  # noqa: BLE001 - LiteLLM's error is the one to raise
                tally.failed(ours, "a pick that failed")

    def settled(self, picked: Any) -> Any:
        """Take the lease for what LiteLLM's pipeline has picked, and hand that on."""
        try:
            if self._filtered is not None:
                self._filtered.settled(picked)
            else:
                tally.count(tally.delegated, _ALONE)
                self._count_in(picked)
        except Exception as error:  # noqa: BLE001 - there is a pick: it counts, whatever is wrong with us
            tally.failed(error, "the lease of a pick")
        return picked

    def _count_in(self, picked: Any) -> None:
        binding, attempt = existing(self._core), here.get().attempt
        deployment = binding.known(picked) if binding is not None else None
        if binding is not None and deployment is not None and attempt is not None:
            attempt.take(binding.engine.acquire_deployment(deployment))


# -- what stands in LiteLLM's place ------------------------------------------------------------------------


_SELECTOR_ARGUMENTS = ("model_group", "healthy_deployments", "messages", "input", "request_kwargs")


def _choose(strategy: str, selector: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    filtered = _running()
    if filtered is None:
        return _LITELLM
    try:
        given = dict(zip(_SELECTOR_ARGUMENTS, args, strict=False))
        given.update(kwargs)
        return filtered.choose(
            strategy,
            options_of(selector),
            given["model_group"],
            given["healthy_deployments"],
            given.get("request_kwargs") or {},
            (given.get("messages"), given.get("input")),
        )
    except Exception as error:  # noqa: BLE001 - LiteLLM's own choice answers
        _not_chosen(error)
        return _LITELLM


def _not_chosen(error: Exception) -> None:
    # A mistake in the configuration is no error of ours; it was told when the plan was compiled.
    if not isinstance(error, FastRouterError):
        tally.failed(error, "a choice")


def _async_selector(strategy: str, original: Any) -> Any:
    async def async_get_available_deployments(self: Any, *args: Any, **kwargs: Any) -> Any:
        chosen = _choose(strategy, self, args, kwargs)
        if chosen is not _LITELLM:
            return chosen
        for hook in before_choice:
            hook(self)
        return await original(self, *args, **kwargs)

    return async_get_available_deployments


def _sync_selector(strategy: str, original: Any) -> Any:
    def get_available_deployments(self: Any, *args: Any, **kwargs: Any) -> Any:
        chosen = _choose(strategy, self, args, kwargs)
        if chosen is not _LITELLM:
            return chosen
        for hook in before_choice:
            hook(self)
        return original(self, *args, **kwargs)

    return get_available_deployments


def _shuffle(original: Any) -> Any:
    def simple_shuffle(*args: Any, **kwargs: Any) -> Any:
        filtered = _running()
        if filtered is not None:
            try:
                # (how to resolve an alias, or the Router; the candidates; the model; the request from 1.106 on)
                candidates = kwargs["healthy_deployments"] if "healthy_deployments" in kwargs else args[1]
                model = kwargs["model"] if "model" in kwargs else args[2]
                request = kwargs.get("request_kwargs") or (args[3] if len(args) > 3 else None) or {}
                chosen = filtered.choose("simple_shuffle", {}, model, candidates, request, (None, None))
            except Exception as error:  # noqa: BLE001 - LiteLLM's own choice answers
                _not_chosen(error)
            else:
                if chosen is not _LITELLM:
                    return chosen
        return original(*args, **kwargs)

    return simple_shuffle


def install_choice(patches: PatchSet, band: Band) -> None:
    """Replace what LiteLLM asks for a choice."""
    patches.replace(band.module, "simple_shuffle", _shuffle)
    install_selectors(patches, band.module)


def install_selectors(patches: PatchSet, module: ModuleType) -> None:
    """Replace the choice of LiteLLM's strategy objects, whose classes are found in `module`."""
    for theirs, (_, name) in SELECTORS.items():
        cls, strategy = vars(module).get(name), STRATEGIES[theirs]
        if cls is None:
            continue
        for method, make in (
            ("async_get_available_deployments", _async_selector),
            ("get_available_deployments", _sync_selector),
        ):
            if method in vars(cls):
                patches.replace(cls, method, partial(make, strategy))
