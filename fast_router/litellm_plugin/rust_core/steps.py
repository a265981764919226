"""LiteLLM 1.110: our choice among the Rust core's candidates.

A `select` step for a strategy is answered by ours, with the lease taken there and then; the attempt that follows takes
it over (`attempts`). Where the core would shuffle by itself it is told whom we prefer, by the step before (its callback
filters'), and takes that one if its later filters keep it; if not, the lease begins with the attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from fast_router import operator_holds
from fast_router.errors import FastRouterError
from fast_router.litellm_plugin.picks import strategies_by_name
from fast_router.litellm_plugin.picks.filtered import Filtered, filtered_pick, install_selectors
from fast_router.litellm_plugin.picks.request_facts import ask_of
from fast_router.litellm_plugin.request import Attempt, RequestLedger, aside, set_aside
from fast_router.litellm_plugin.rests.by_operator import without_held
from fast_router.litellm_plugin.router_state import given_now
from fast_router.litellm_plugin.rust_core.binding import binding_of
from fast_router.litellm_plugin.rust_core.elsewhere import elsewhere
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine import Deployment, Lease
    from fast_router.engine.failover.waiting import Ticket
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.layers.beside import Beside
    from fast_router.litellm_plugin.layers.wait import Turns
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.rust_core.elsewhere import Assignment

__all__ = [
    "RUST",
    "Walk",
    "carrying",
    "current_walk",
    "eligible",
    "failure",
    "filters",
    "install",
    "make_ledger",
    "new_ledger",
    "on_a_loop",
    "preferred",
    "take_other",
]

RUST = "LiteLLM's Rust core"
_SHUFFLE = "simple-shuffle"


class Walk:
    """One walk of the core through attempts, retries and fallbacks.

    Attributes:
        assigned: Whom the latest pick is to take, None if that is for us to say.
        core: The core.
        ledger: What the request has tried.
        attempt: The attempt whose pick is made but whose call is not.
        beside: What may start a second attempt beside the one that is under way.
        counted: The attempt whose pick the request lane has counted; its call is no second one.
        handed: The attempt that the request lane has made already and hands over, until it is taken up.
        preferred: True if `attempt` was picked by a preference, which the core need not follow.
        step: The latest `attempt` step, None before the first.
        running: The attempt whose call is under way.
        passed: Whether the model of the latest pick was passed by: no attempt follows, and nothing to wait for.
        kept: The deployments that LiteLLM's filters had left for the latest pick, None if that is not known.
        picking: The model that a pick begins for, until somebody has looked at it.
        picks_for: The request that a pick begins for, until somebody has looked at it.
        refused: Why the request was turned away before any call, None if it was not.
        refusal_counted: Whether the tally knows that an admission limit refused this request.
    """

    __slots__ = (
        "_turn", "assigned", "attempt", "beside", "core", "counted", "handed", "kept", "ledger", "passed", "picking",
        "picks_for", "preferred", "refusal_counted", "refused", "running", "step",
    )  # fmt: skip

    def __init__(self, core: Any, ledger: RequestLedger) -> None:
        self.core = core
        self.ledger = ledger
        self.assigned: Assignment | None = None
        self.attempt: Attempt | None = None
        self.beside: Beside | None = None
        self.counted: Attempt | None = None
        self.handed: Attempt | None = None
        self.preferred = False
        self.step: Mapping[str, Any] | None = None
        self.running: Attempt | None = None
        self.kept: Sequence[str] | None = None
        self.passed = False
        self.picking: str | None = None
        self.picks_for: Mapping[str, Any] | None = None
        self.refused: Exception | None = None
        self.refusal_counted = False
        self._turn: tuple[Turns, Ticket] | None = None

    @property
    def targeted(self) -> bool:
        """Whether the core itself goes from one order tier to the next."""
        return self.step is not None and self.step.get("target_order") is not None

    def next_attempt(self, model: Any) -> Attempt:
        """The attempt that the next pick is for."""
        self.drop()
        self.attempt = Attempt(model, self.ledger)
        return self.attempt

    def hold(self, turns: Turns, ticket: Ticket | None) -> None:
        """Keep a waiter's turn until its pick is made: nobody may overtake it on its last step."""
        self.picked()
        if ticket is not None:
            self._turn = (turns, ticket)

    def picked(self) -> None:
        """The pick is made, or there is none."""
        turn, self._turn, self.picks_for = self._turn, None, None
        if turn is not None:
            turn[0].done(turn[1])

    def drop(self) -> None:
        """No call was made with the last pick."""
        attempt, self.attempt, self.preferred = self.attempt, None, False
        if attempt is not None:
            attempt.end(cancelled=True)

    def assign(self, assigned: Assignment | None) -> None:
        """Have the pick that begins take somebody; what became of the one before, if nothing did, is told."""
        before, self.assigned = self.assigned, assigned
        if before is not None:
            before.begun(None)

    def begin(self, attempt: Attempt | None) -> None:
        """The call is to be made with this attempt, None for one that is not known."""
        assigned, self.assigned = self.assigned, None
        if assigned is not None:
            lease = None if attempt is None else attempt.lease
            assigned.begun(attempt if lease is not None and lease.id == assigned.id else None)

    def over(self) -> None:
        """It has ended, or never begun: what its last pick still holds is given back."""
        self.picked()
        self.drop()
        self.assign(None)


def current_walk() -> Walk | None:
    """Give the walk that is running in this context."""
    return cast("Walk | None", aside().walk)


make_ledger: list[Callable[[Any, Mapping[str, Any]], RequestLedger]] = []
"""Gives the ledger of a request, from its core and itself; failover has one that knows its policy."""


# -- one request -------------------------------------------------------------------------------------------


def new_ledger(core: Any, request: Mapping[str, Any]) -> RequestLedger:
    """Give the ledger of a request that begins now."""
    if make_ledger:
        return make_ledger[-1](core, request)
    return RequestLedger(None, request)


class carrying:  # noqa: N801 - used as a function
    """`with carrying(ledger):` around the calls of one request, whose walks share what it has tried."""

    __slots__ = ("_ledger", "_outer")

    def __init__(self, ledger: RequestLedger | None) -> None:
        self._ledger = ledger
        self._outer: RequestLedger | None = None

    def __enter__(self) -> None:
        outer = aside()
        self._outer = outer.carried
        set_aside(outer._replace(carried=self._ledger))

    def __exit__(self, *error: object) -> None:
        set_aside(aside()._replace(carried=self._outer))


def on_a_loop() -> bool:
    """Tell whether this thread runs an event loop, which a blocking wait would stop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# -- the choice --------------------------------------------------------------------------------------------


class _Choice(Filtered):
    """A `select` step of the core's, for a strategy that it asks its host about.

    Args:
        band: This LiteLLM.
        core: The Router's core.
        step: The step.
        asked: The request, its messages and its input.
        assigned: Whom it is to take, None if that is for us to say.
    """

    __slots__ = ("_asked", "_assigned", "_own")

    def __init__(
        self, band: RustBand, core: Any, step: Mapping[str, Any], asked: Sequence[Any], assigned: str | None
    ) -> None:
        walking = current_walk()
        attempt = None if walking is None else walking.next_attempt(step.get("model"))
        # No plan: the core has resolved the name and filtered.
        super().__init__(binding_of(band, core), None, attempt, RUST)
        self._asked = asked
        self._assigned = assigned
        self._own = _given(core, step)

    def choose(
        self,
        strategy: str,
        options: Mapping[str, Any] | None,
        model: str,
        candidates: Sequence[Mapping[str, Any]],
        request_kwargs: Mapping[str, Any],
        prompt: tuple[Any, Any],
    ) -> Any:
        """As of any pick; the strategy that stands in for ours is told less about the request than ours needs."""
        if len(self._asked) == 3:
            request_kwargs, prompt = self._asked[0], (self._asked[1], self._asked[2])
        return super().choose(strategy, options, model, candidates, request_kwargs, prompt)

    def _own_strategy(
        self,
        model: str,  # noqa: ARG002 - as of the base class
        candidates: Sequence[Mapping[str, Any]],
    ) -> tuple[str, Mapping[str, Any]] | None:
        return strategies_by_name.of_model(candidates) or self._own

    def _best(self, eligible: Sequence[Deployment]) -> Sequence[Deployment]:
        return [one for one in eligible if one.id == self._assigned] or super()._best(eligible)

    def settled(self, picked: Any) -> None:
        """The answer is a list with the id, or with the index where candidates share an id."""
        answer = picked[0] if isinstance(picked, list) and picked else None
        if isinstance(answer, int) and self.lease is not None:
            answer = self.lease.id
        super().settled({"model_info": {"id": answer}} if isinstance(answer, str) else None)


def _given(core: Any, step: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """The strategy of ours that stands behind the one that the core names."""
    given = given_now(core)
    if given is None or step.get("scope") == "override":
        return None
    if step.get("scope") == "group":
        return given.groups.get(str(step.get("group")))
    return None if given.router is None else (given.router, given.options)


def _choosing(
    band: RustBand, core: Any, step: Mapping[str, Any], asked: Sequence[Any], assigned: str | None
) -> _Choice | None:
    try:
        return _Choice(band, core, step, asked, assigned)
    except Exception as error:  # noqa: BLE001 - LiteLLM's own strategy answers
        tally.failed(error, "a pick")
        return None


def _assigned_before(step: Mapping[str, Any]) -> str | None:
    """Whom this very pick was told to take when the core's filters were about to be asked."""
    walking = current_walk()
    if walking is None or walking.assigned is None or walking.assigned.id not in (step.get("candidates") or ()):
        return None
    return walking.assigned.id


def _answer_select(original: Any, band: RustBand) -> Any:
    async def _answer_select(self: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
        if step.get("stage") != "strategy":
            return await original(self, step, *args, **kwargs)
        assigned = None
        if elsewhere:
            assigned = _assigned_before(step)
            if assigned is None:
                request = args[0] if args else kwargs.get("request")
                assigned = await elsewhere[-1].decide(band, self, step, request, step.get("candidates") or ())
        with filtered_pick(_choosing(band, self, step, args, assigned), self) as pick:
            return pick.settled(await original(self, step, *args, **kwargs))

    return _answer_select


def _answer_select_sync(original: Any, band: RustBand) -> Any:
    def _answer_select_sync(self: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
        stage = step.get("stage")
        request = args[0] if args else kwargs.get("request")
        if stage == "callback_filters":
            kept = _unheld(band, self, original(self, step, *args, **kwargs))
            assigned = None
            if elsewhere and _shuffles(self, step, request):
                assigned = elsewhere[-1].decide_sync(band, self, step, request, kept)
            wanted = preferred(band, self, step, request, kept) or assigned
            return kept if wanted is None else (kept, wanted)
        if stage != "strategy":
            return original(self, step, *args, **kwargs)
        assigned = None
        if elsewhere:
            assigned = _assigned_before(step)
            if assigned is None:
                assigned = elsewhere[-1].decide_sync(band, self, step, request, step.get("candidates") or ())
        with filtered_pick(_choosing(band, self, step, args, assigned), self) as pick:
            return pick.settled(original(self, step, *args, **kwargs))

    return _answer_select_sync


# -- the core's own shuffle --------------------------------------------------------------------------------


def _answer_callback_filters(original: Any, band: RustBand) -> Any:
    async def _answer_callback_filters(self: Any, step: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        answer, error = await original(self, step, request, *args, **kwargs)
        if error is None and isinstance(answer, tuple):
            kept = _unheld(band, self, answer[0])
            wanted = answer[1] if answer[1] in kept else None
            assigned = None
            if elsewhere and _shuffles(self, step, request):
                among = kept if wanted is None else [wanted]
                try:
                    assigned = await elsewhere[-1].decide(band, self, step, request, among)
                except Exception as refused:  # noqa: BLE001 - the core fails the try with it
                    return failure(refused), refused
            if wanted is None:
                wanted = preferred(band, self, step, request, kept) or assigned
            answer = (kept, wanted)
        return answer, error

    return _answer_callback_filters


def failure(error: Exception) -> Any:
    """What the core is answered where a pick is refused: any other answer to its callback filters is a choice."""
    from litellm.router_rust.core import attempt_failure  # noqa: PLC0415 - LiteLLM is imported

    return attempt_failure(error)


def _unheld(band: RustBand, core: Any, kept: Any) -> Any:
    """Leave out what an operator holds: the core filters by its own cooldowns only."""
    try:
        if isinstance(kept, list) and operator_holds.any_order():
            binding = binding_of(band, core)
            binding.engine.settle()
            return without_held(binding, kept)
    except Exception as error:  # noqa: BLE001 - LiteLLM's own candidates stand
        tally.failed(error, "an operator's hold")
    return kept


def preferred(band: RustBand, core: Any, step: Mapping[str, Any], request: Any, kept: Any) -> str | None:
    """Whom the core should take where it would shuffle by itself: it does if its later filters keep that one."""
    walking = current_walk()
    if walking is None:
        return None
    walking.kept = kept
    made = None if walking.handed is None else walking.handed.lease
    if made is not None and made.id in kept:
        return made.id  # one call is one pick
    try:
        binding = binding_of(band, core)
        known = binding.engine.deployments
        members = [known[id_] for id_ in kept if id_ in known]
        named = _shuffled_by(core, step, request, members)
        if named is None or len(members) < len(kept):
            return None
        left = eligible(walking, step, members)
        if walking.assigned is not None:
            left = [member for member in left if member.id == walking.assigned.id] or left
        if not left:
            return None
        name = str(step.get("model"))
        group = binding.group_containing(name, *named, [d.entry for d in left])
        ask = ask_of(group, request, (request.get("messages"), request.get("input")), counts=False)
        taken = binding.engine.acquire_from(group, left, ask)
        if taken is None:
            return None
        walking.next_attempt(name).take(taken)
        walking.preferred = True
        return taken.id
    except FastRouterError:
        return None  # a mistake in the configuration: told when it was read
    except Exception as error:  # noqa: BLE001 - the core's own shuffle answers
        tally.failed(error, "a pick")
        return None


def _shuffles(core: Any, step: Mapping[str, Any], request: Any) -> bool:
    """Tell whether the core chooses by itself, once its filters have been asked; else it asks for a strategy."""
    try:
        own = request.get("routing_strategy") if isinstance(request, Mapping) else None
        return bool((own or core._handle.routing_context(str(step.get("model")))[0]) == _SHUFFLE)
    except Exception as error:  # noqa: BLE001 - the question comes again if it asks
        tally.failed(error, "a pick")
        return True


def _shuffled_by(
    core: Any, step: Mapping[str, Any], request: Any, members: Sequence[Deployment]
) -> tuple[str, Mapping[str, Any]] | None:
    """The strategy to choose by where the core asks nobody; None where it will ask, or was told weights."""
    if not isinstance(request, Mapping) or request.get("_router_weights") or request.get("routing_strategy"):
        return None
    resolved = core._resolved
    strategy = resolved.routing_strategy
    if resolved.routing_groups:
        named = {step.get("model"), step.get("model_group")}
        groups = [g for g in resolved.routing_groups if g.group_name in named or not named.isdisjoint(g.models)]
        if len(groups) > 1 or resolved.routing_group_members is not None:
            return None
        strategy = groups[0].routing_strategy if groups else strategy
    if strategy != _SHUFFLE:
        return None
    return strategies_by_name.of_model([member.entry for member in members]) or ("simple_shuffle", {})


def eligible(walking: Walk | None, step: Mapping[str, Any], members: Sequence[Deployment]) -> Sequence[Deployment]:
    """Who may take the pick that a step is about: those whom the request has not tried, if there are any."""
    found = _candidates(step, members)
    return found if walking is None else walking.ledger.narrow(found)


def _candidates(step: Mapping[str, Any], members: Sequence[Deployment]) -> list[Deployment]:
    """Who may take the attempt: LiteLLM's lowest order, or the one that the request is at."""
    left_out = {*(step.get("excluded_ids") or ()), *(step.get("skipped_ids") or ())}
    found = [member for member in members if member.id not in left_out and not member.held]
    order = step.get("target_order")
    if order is None:
        order = min((member.order for member in found if member.order is not None), default=None)
    return found if order is None else [member for member in found if member.order == order]


async def take_other(
    band: RustBand, walking: Walk, step: Mapping[str, Any], request: Any, kept: Sequence[str] | None
) -> Lease | None:
    """A lease for an attempt beside that of `step`, on somebody whom the walk's ledger does not know."""
    binding = binding_of(band, walking.core)
    known = binding.engine.deployments
    members = [known[id_] for id_ in kept or () if id_ in known and walking.ledger.knows(id_) is None]
    left = eligible(walking, step, members)
    if not left:
        return None
    if elsewhere:
        assigned = await elsewhere[-1].decide(band, walking.core, step, request, [member.id for member in left])
        left = [member for member in left if member.id == assigned] or left
    group = binding.router.groups.get(left[0].name)
    name = group.strategy if group is not None else "simple_shuffle"
    options = group.options if group is not None else {}
    found = binding.engine.acquire_from(
        binding.group_containing(str(step.get("model")), name, options, [d.entry for d in left]), left
    )
    if found is not None:
        walking.next_attempt(step.get("model")).take(found)
    return found


def filters(core: Any) -> bool:
    """Tell whether the core may filter out, after our choice, whom we would have it take."""
    resolved = core._resolved
    return bool(
        resolved.enable_tag_filtering
        or resolved.enable_pre_call_checks
        or resolved.routing_plugins
        or core._model_tag_filtering()
    )


def install(patches: PatchSet, band: RustBand) -> list[str]:
    """Choose for the Rust core."""
    core = band.core
    install_selectors(patches, band.selection)
    for name, make in (
        ("_answer_select", _answer_select),
        ("_answer_select_sync", _answer_select_sync),
        ("_answer_callback_filters", _answer_callback_filters),
    ):
        patches.replace(core, name, partial(make, band=band))
    return ["selection"]
