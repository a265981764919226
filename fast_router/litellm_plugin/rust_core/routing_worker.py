"""LiteLLM 1.110: with Celery routing a routing worker chooses the deployment, and the core's steps are answered so.

The worker is asked while the core waits for the answer to a step: for a strategy's choice, or, where the core would
shuffle by itself, to its callback filters. The core goes on as with any choice of ours: if its later filters refuse the
worker's, the pick is made without it and the slot is given back. No request takes the lane, which awaits nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.celery_routing.process import candidates_of, process_routing
from fast_router.errors import ModelBusyError, RoutingTimeoutError
from fast_router.litellm_plugin.layers.routing_worker import DECIDED, as_litellm, keep, priority_of
from fast_router.litellm_plugin.request import aside, set_aside
from fast_router.litellm_plugin.rust_core import standing, steps
from fast_router.litellm_plugin.rust_core.binding import binding_of
from fast_router.litellm_plugin.rust_core.elsewhere import Assignment, elsewhere
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.celery_routing.grant import Grant
    from fast_router.celery_routing.routing import CeleryRouting
    from fast_router.engine import Deployment
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]

# What a name may stand for that a worker knows.
_MODELS = ("Group", "Alias")


class _Question:
    """What one pick asks a worker.

    Args:
        routing: The process's.
        walking: The walk that picks, None for a pick without a call.
        deployments: Whom it may take, all of one model.
        strategy: How they are compared.
        request: The request.
    """

    __slots__ = ("_deployments", "_more", "_routing", "_walking", "model")

    def __init__(
        self,
        routing: CeleryRouting,
        walking: steps.Walk | None,
        deployments: Sequence[Deployment],
        strategy: str,
        request: Mapping[str, Any],
    ) -> None:
        self._routing = routing
        self._walking = walking
        self._deployments = candidates_of(deployments)
        self._more: dict[str, Any] = {"priority": priority_of(request), "strategy": strategy}
        self.model = deployments[0].name

    async def asked(self) -> str | None:
        return self._answered(await self._routing.decide(self.model, self._deployments, **self._more))

    def asked_sync(self) -> str | None:
        if not self._routing.may_block():
            return None
        return self._answered(self._routing.decide_sync(self.model, self._deployments, **self._more))

    def _answered(self, grant: Grant | None) -> str | None:
        if grant is None:
            return None
        if self._walking is None:
            grant.release(cancelled=True)  # whoever picks for himself tells nobody how it went
        else:
            self._walking.assign(Assignment(str(grant), partial(keep, grant)))
        return str(grant)


class _Workers:
    """Routing workers, as the core's steps ask them."""

    async def decide(
        self, band: RustBand, core: Any, step: Mapping[str, Any], request: Any, among: Sequence[str]
    ) -> str | None:
        """As of `Elsewhere`."""
        question: _Question | None = None
        try:
            question = _question(band, core, step, request, among)
            return None if question is None else await question.asked()
        except (ModelBusyError, RoutingTimeoutError) as error:
            raise as_litellm(error, step.get("model")) from None
        except Exception as error:  # noqa: BLE001 - the pick is made here
            tally.failed(error, "asking a routing worker")
            return None

    def decide_sync(
        self, band: RustBand, core: Any, step: Mapping[str, Any], request: Any, among: Sequence[str]
    ) -> str | None:
        """As of `Elsewhere`."""
        try:
            question = _question(band, core, step, request, among)
            return None if question is None else question.asked_sync()
        except (ModelBusyError, RoutingTimeoutError) as error:
            raise as_litellm(error, step.get("model")) from None
        except Exception as error:  # noqa: BLE001 - the pick is made here
            tally.failed(error, "asking a routing worker")
            return None


def _question(
    band: RustBand, core: Any, step: Mapping[str, Any], request: Any, among: Sequence[str]
) -> _Question | None:
    routing = process_routing()
    walking = steps.current_walk()
    if routing is None or not among or (not aside().picks_alone if walking is None else walking.handed is not None):
        return None
    if walking is not None:
        walking.assign(None)  # whatever the pick before this one was given
    said: Mapping[str, Any] = request if isinstance(request, Mapping) else {}
    if any(said.get(key) for key in DECIDED):
        return None
    found = core._handle.resolve(str(step.get("model")))
    if found is None or found["kind"] not in _MODELS:
        return None
    binding = binding_of(band, core)
    binding.engine.settle()
    known = binding.engine.deployments
    deployments = [known[id_] for id_ in among if id_ in known]
    group = binding.router.groups.get(deployments[0].name) if len(deployments) == len(among) else None
    if group is None or any(one.name != group.name for one in deployments):
        return None
    routing.follow(binding.engine)
    eligible = steps.eligible(walking, step, deployments)
    return _Question(routing, walking, eligible, group.strategy, said) if eligible else None


# -- where they are asked ------------------------------------------------------------------------------------


def _select_sync(original: Any) -> Any:
    def select_sync(self: Any, step: Any) -> Any:
        answer = original(self, step)
        if step.get("stage") == "callback_filters" and isinstance(answer, dict):
            # The core takes a filter that failed at this stage; at one that is marked as a pick's failure it panics.
            answer.pop("raised", None)
        return answer

    return select_sync


def _alone(_original: Any, inner: Any) -> Any:
    async def select(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("kind", "pick") != "pick":
            return await inner(self, *args, **kwargs)
        outer = aside()
        set_aside(outer._replace(picks_alone=True, walk=None))
        try:
            return await inner(self, *args, **kwargs)
        finally:
            set_aside(outer)

    return select


def _alone_sync(_original: Any, inner: Any) -> Any:
    def get_available_deployment(self: Any, *args: Any, **kwargs: Any) -> Any:
        outer = aside()
        set_aside(outer._replace(picks_alone=True, walk=None))
        try:
            return inner(self, *args, **kwargs)
        finally:
            set_aside(outer)

    return get_available_deployment


def install(patches: PatchSet, band: RustBand) -> None:
    """Have routing workers asked for each pick of the Rust core's."""
    workers = _Workers()

    def adopt(changed: settings.Settings) -> None:
        standing.keep("celery_routing", "Celery routing" if changed.routing == "celery" else None)

    elsewhere.append(workers)
    patches.on_restore(lambda: elsewhere.remove(workers))
    patches.replace(band.driver, "select_sync", _select_sync)
    band.around_picks(patches, _alone, _alone_sync)
    patches.on_restore(settings.on_change(adopt))
    patches.on_restore(lambda: standing.keep("celery_routing", None))
    adopt(settings.current())
