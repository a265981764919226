"""Celery routing for `litellm.Router`: with `FAST_ROUTER_ROUTING=celery` a routing worker chooses the deployment.

The worker is asked first; then LiteLLM's pick runs as always, with every deployment but the chosen one left
out by LiteLLM's own request key for that (before 1.91, which has none: by the attempt's ledger). So all its
filters still count, whatever they are: if they refuse the worker's choice, the pick is made without it and
the slot is given back. The reservation lives as long as the attempt does.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router import settings as options
from fast_router.celery_routing.process import candidates_of, process_routing
from fast_router.engine.failover.blame import Blame, Case
from fast_router.errors import ModelBusyError, RoutingTimeoutError
from fast_router.litellm_plugin import request as running
from fast_router.litellm_plugin.layers.stack import Around, Installed, Pick, PickSync, plug
from fast_router.litellm_plugin.litellm_errors import busy, timed_out
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.celery_routing.grant import Grant
    from fast_router.celery_routing.routing import CeleryRouting
    from fast_router.engine import Deployment
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding
    from fast_router.litellm_plugin.picks.plan import Plan
    from fast_router.litellm_plugin.request import Attempt, Ledger

__all__ = ["DECIDED", "as_litellm", "install", "install_layer", "keep", "priority_of"]

_EXCLUDED = "_excluded_deployment_ids"
# Keys with which a request goes to one particular deployment: there is nothing to ask.
DECIDED = ("specific_deployment", "deployment_id")

_grants: weakref.WeakKeyDictionary[Attempt, Grant] = weakref.WeakKeyDictionary()


class _Chosen:
    """A ledger for one pick, which leaves the worker's choice alone if it may be picked at all."""

    __slots__ = ("_id", "_ledger", "tried")

    def __init__(self, ledger: Ledger | None, id_: str, left_out: Sequence[str]) -> None:
        self._ledger = ledger
        self._id = id_
        self.tried: Collection[str] = left_out or (id_,)

    @property
    def terms(self) -> int:
        return 0 if self._ledger is None else self._ledger.terms

    @property
    def case(self) -> Case:
        return Case() if self._ledger is None else self._ledger.case

    def narrow(self, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        chosen = [d for d in candidates if d.id == self._id]
        if chosen or self._ledger is None:
            return chosen or candidates
        return self._ledger.narrow(candidates)


class _Question:
    """What one pick asks a worker, and what is done with the answer."""

    __slots__ = ("binding", "candidates", "deployments", "grant", "model", "priority", "steered", "strategy")

    def __init__(
        self, binding: Binding, plan: Plan, deployments: Sequence[Deployment], kwargs: Mapping[str, Any]
    ) -> None:
        group = plan.group
        assert group is not None
        self.binding = binding
        self.deployments = deployments
        self.model = group.name
        self.candidates = candidates_of(deployments)
        self.strategy = group.strategy
        self.priority = priority_of(kwargs)
        self.grant: Grant | None = None
        # The attempt whose ledger stands in for LiteLLM's request key, and how it was.
        self.steered: tuple[Attempt, Ledger | None, bool] | None = None

    def steer(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Leave out everybody but the chosen one; returns the request as it was."""
        before = dict(kwargs)
        left_out = [d.id for d in self.deployments if d.id != self.grant]
        if not _excludes(self.binding.band):
            attempt = running.here.get().attempt
            if attempt is not None and self.grant is not None:
                self.steered = (attempt, attempt.ledger, attempt.fresh)
                attempt.ledger = _Chosen(attempt.ledger, str(self.grant), left_out)
                attempt.fresh = False
            return before
        kwargs[_EXCLUDED] = [*(kwargs.get(_EXCLUDED) or ()), *left_out]
        return before

    def settled(self, picked: Any, kwargs: dict[str, Any]) -> None:
        """The pick is made: its attempt keeps the reservation, if it goes where that is."""
        kwargs.pop(_EXCLUDED, None)
        self._let_go()
        grant, self.grant = self.grant, None
        if grant is None:
            return
        deployment = self.binding.known(picked)
        attempt = running.here.get().attempt
        if deployment is None or deployment.id != grant:
            grant.release(cancelled=True)
        else:
            keep(grant, attempt)

    def dropped(self) -> None:
        """Nothing came of it."""
        self._let_go()
        if self.grant is not None:
            self.grant.release(cancelled=True)
            self.grant = None

    def _let_go(self) -> None:
        if self.steered is not None:
            attempt, ledger, fresh = self.steered
            self.steered = None
            attempt.ledger = ledger
            attempt.fresh = fresh and attempt.lease is None


def _excludes(band: Band) -> bool:
    """True if this LiteLLM has a request key for ids to leave out; before 1.86 there was none."""
    return "_excluded_deployment_ids" in band.narrowing_keys


def _question(
    routing: CeleryRouting, core: Any, binding: Binding, model: Any, kwargs: Mapping[str, Any] | None, specific: Any
) -> _Question | None:
    if kwargs is None or specific or not isinstance(model, str) or any(kwargs.get(key) for key in DECIDED):
        return None
    plan = binding.plan_for(core, model)
    if plan.group is None or (running.here.get().attempt is None and not _excludes(binding.band)):
        return None
    binding.engine.settle()
    routing.follow(binding.engine)
    excluded = set(kwargs.get(_EXCLUDED) or ())
    eligible = [d for d in plan.group.members if not d.held and d.id not in excluded]
    attempt = running.here.get().attempt
    if attempt is not None and attempt.ledger is not None and attempt.ledger.tried:
        eligible = list(attempt.ledger.narrow(eligible))
    orders = [d.order for d in eligible if d.order is not None]
    wanted = kwargs.get("_target_order")
    tier = wanted if wanted is not None else min(orders) if orders else None
    if tier is not None:
        eligible = [d for d in eligible if d.order == tier]
    return _Question(binding, plan, eligible, kwargs) if len(eligible) > 0 else None


def priority_of(kwargs: Mapping[str, Any]) -> int:
    """How urgent a request is."""
    priority = kwargs.get("priority")
    return priority if isinstance(priority, int) else 0


def keep(grant: Grant, attempt: Attempt | None) -> None:
    """Have a reservation live as long as an attempt does; without one it is given back."""
    if attempt is None or not attempt.open:
        grant.release(cancelled=True)
    else:
        _grants[attempt] = grant


def as_litellm(error: ModelBusyError | RoutingTimeoutError, model: Any) -> Exception:
    """A worker's refusal as LiteLLM's error."""
    refusal = busy if isinstance(error, ModelBusyError) else timed_out
    return refusal(model, str(error), retry_after=error.retry_after or 1)


def _ended(attempt: Attempt, error: BaseException | None, cancelled: bool) -> None:
    grant = _grants.pop(attempt, None)
    if grant is not None:
        lease = attempt.lease
        first = lease.seconds_to_first_token if lease is not None else None
        if error is not None and getattr(lease, "blame", None) is not Blame.DEPLOYMENT:
            error, cancelled = None, True
        grant.release(error, completion_tokens=attempt.completion_tokens, first_token=first, cancelled=cancelled)


def _around(inner: Pick, binding: Binding) -> Pick:
    async def asked(
        lane: Any, core: Any, model: Any, request_kwargs: Any, messages: Any, text: Any, specific: Any
    ) -> Any:
        question: _Question | None = None
        try:
            routing = process_routing()
            if routing is not None:
                question = _question(routing, core, binding, model, request_kwargs, specific)
            if routing is not None and question is not None:
                question.grant = await routing.decide(
                    question.model, question.candidates, priority=question.priority, strategy=question.strategy
                )
        except (ModelBusyError, RoutingTimeoutError) as error:
            raise as_litellm(error, model) from None
        except Exception as error:  # noqa: BLE001 - the pick is made here
            tally.failed(error, "asking a routing worker")
        rest = (messages, text, specific)
        if question is None or question.grant is None:
            return await inner(lane, core, model, request_kwargs, *rest)
        before = question.steer(request_kwargs)
        outer = running.aside()
        running.set_aside(outer._replace(worker_asked=True))
        try:
            picked = await inner(lane, core, model, request_kwargs, *rest)
        except Exception:  # noqa: BLE001 - LiteLLM's filters refuse the choice, or nobody is left
            question.dropped()
            _restore(request_kwargs, before)
            return await inner(lane, core, model, request_kwargs, *rest)
        except BaseException:
            question.dropped()
            raise
        finally:
            running.set_aside(outer)
        question.settled(picked, request_kwargs)
        return picked

    return asked


def _around_sync(inner: PickSync, binding: Binding) -> PickSync:
    def asked(lane: Any, core: Any, model: Any, messages: Any, text: Any, specific: Any, request_kwargs: Any) -> Any:
        question: _Question | None = None
        try:
            routing = None if running.aside().worker_asked else process_routing()
            if routing is not None and routing.may_block():
                question = _question(routing, core, binding, model, request_kwargs, specific)
            if routing is not None and question is not None:
                question.grant = routing.decide_sync(
                    question.model, question.candidates, priority=question.priority, strategy=question.strategy
                )
        except (ModelBusyError, RoutingTimeoutError) as error:
            raise as_litellm(error, model) from None
        except Exception as error:  # noqa: BLE001 - the pick is made here
            tally.failed(error, "asking a routing worker")
        rest = (messages, text, specific)
        if question is None or question.grant is None:
            return inner(lane, core, model, *rest, request_kwargs)
        before = question.steer(request_kwargs)
        try:
            picked = inner(lane, core, model, *rest, request_kwargs)
        except Exception:  # noqa: BLE001 - see above
            question.dropped()
            _restore(request_kwargs, before)
            return inner(lane, core, model, *rest, request_kwargs)
        except BaseException:
            question.dropped()
            raise
        question.settled(picked, request_kwargs)
        return picked

    return asked


def _restore(request_kwargs: dict[str, Any], before: dict[str, Any]) -> None:
    """Undo what a failed pick took out of the request or put in."""
    request_kwargs.clear()
    request_kwargs.update(before)


def install_layer(patches: PatchSet, band: Band) -> None:
    """Ask before every pick that is a method of LiteLLM's."""
    plug(patches, band, Around.PICK, "celery_routing", Installed(lambda _binding, _core: True, _around, _around_sync))


def install(patches: PatchSet, band: Band) -> list[str]:
    """Ask a routing worker before every pick, if the settings say so when LiteLLM is patched.

    Raises:
        ConfigurationError: Celery routing is asked for with wrong settings.
    """
    if options.current().routing != "celery":
        return []
    process_routing()
    band.keeper.ask_workers(patches, partial(install_layer, band=band))
    running.on_end.append(_ended)
    patches.on_restore(lambda: running.on_end.remove(_ended))
    return ["celery_routing"]
