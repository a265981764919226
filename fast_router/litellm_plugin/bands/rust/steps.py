"""LiteLLM 1.110: our choice among the Rust core's candidates, leases around its attempts.

One request is one `_run` of the core, whatever its retries and fallbacks: for that long a ContextVar holds what it
has tried. A `select` step for a strategy is answered by ours, with the lease taken there and then; the attempt that
follows takes it over and ends it. Where the core picks by itself (its shuffle), the lease begins with the attempt,
and after a failure the core is told whom we prefer: it takes that one if its later filters keep it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router.engine.failover.failures import classify
from fast_router.engine.failover.ledger import AttemptLedger
from fast_router.engine.failover.retry_after import retry_after_from_error
from fast_router.litellm_plugin.layers.lease import Attempt, answered, failed
from fast_router.litellm_plugin.layers.stream_end import driving, install_usage
from fast_router.litellm_plugin.picks import strategies_by_name
from fast_router.litellm_plugin.picks.filtered import Filtered, filtered_pick, install_selectors
from fast_router.litellm_plugin.tally import LOGGER, tally

if TYPE_CHECKING:
    from fast_router.engine import Deployment
    from fast_router.litellm_plugin.bands.rust.band import RustBand, RustBinding
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]

_RUST = "LiteLLM's Rust core"
_RETRY = "a retry of LiteLLM's Rust core"
_OWN_PICK = "a shuffle of LiteLLM's Rust core"


class _Request:
    """What one request has tried, and the attempt whose pick is made but whose call is not."""

    __slots__ = ("attempt", "ledger", "preferred")

    def __init__(self) -> None:
        self.ledger = AttemptLedger()
        self.attempt: Attempt | None = None
        # True if `attempt` was picked by a preference, which the core need not follow.
        self.preferred = False

    def next_attempt(self, model: Any) -> Attempt:
        """The attempt that the next pick is for."""
        self.drop()
        self.attempt = Attempt(model, self.ledger)
        return self.attempt

    def drop(self) -> None:
        """No call was made with the last pick."""
        attempt, self.attempt, self.preferred = self.attempt, None, False
        if attempt is not None:
            attempt.end(cancelled=True)

    def note(self, attempt: Attempt, error: BaseException | None) -> None:
        """Remember a failed attempt: the next pick goes elsewhere."""
        lease = attempt.lease
        if lease is not None and isinstance(error, Exception):
            self.ledger.failed(lease.id, classify(error), lease._engine.clock(), retry_after_from_error(error))


_request: ContextVar[_Request | None] = ContextVar("fast_router_rust_request", default=None)
_broken: ContextVar[_Request | None] = ContextVar("fast_router_rust_broken_stream", default=None)


# -- one request -------------------------------------------------------------------------------------------


def _begin_request() -> tuple[_Request, _Request | None]:
    # The request of a stream that broke goes on with what it has tried.
    request, outer = _broken.get() or _Request(), _request.get()
    _request.set(request)
    return request, outer


def _end_request(request: _Request, outer: _Request | None) -> None:
    _request.set(outer)
    try:
        request.drop()
    except Exception as error:  # noqa: BLE001 - the answer, or LiteLLM's error, must reach the caller
        tally.failed(error, "the end of a request")


def _run(original: Any) -> Any:
    async def _run(self: Any, *args: Any, **kwargs: Any) -> Any:
        request, outer = _begin_request()
        try:
            return await original(self, *args, **kwargs)
        finally:
            _end_request(request, outer)

    return _run


def _run_sync(original: Any) -> Any:
    def _run_sync(self: Any, *args: Any, **kwargs: Any) -> Any:
        request, outer = _begin_request()
        try:
            return original(self, *args, **kwargs)
        finally:
            _end_request(request, outer)

    return _run_sync


def _stream_broke(args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Request | None:
    """End the attempt of the stream that is to be recovered; its last argument is how it failed."""
    try:
        error = kwargs.get("failure", args[-1] if args else None)
        watch = driving.get()
        if watch is None or not isinstance(error, BaseException):
            return None
        error = getattr(error, "original_exception", None) or error
        request = _Request()
        request.note(watch.attempt, error)
        watch.broken(error)
        return request
    except Exception as ours:  # noqa: BLE001 - LiteLLM recovers the stream all the same
        tally.failed(ours, "a stream that broke")
        return None


def _recover(original: Any) -> Any:
    async def recover(self: Any, *args: Any, **kwargs: Any) -> Any:
        outer = _broken.get()
        _broken.set(_stream_broke(args, kwargs))
        try:
            return await original(self, *args, **kwargs)
        finally:
            _broken.set(outer)

    return recover


def _recover_sync(original: Any) -> Any:
    def recover_sync(self: Any, *args: Any, **kwargs: Any) -> Any:
        outer = _broken.get()
        _broken.set(_stream_broke(args, kwargs))
        try:
            return original(self, *args, **kwargs)
        finally:
            _broken.set(outer)

    return recover_sync


# -- the choice --------------------------------------------------------------------------------------------


class _Choice(Filtered):
    """A `select` step of the core's, for a strategy that it asks its host about.

    Args:
        band: This LiteLLM.
        core: The Router's core.
        step: The step.
        asked: The request, its messages and its input.
    """

    __slots__ = ("_asked", "_own")

    def __init__(self, band: RustBand, core: Any, step: Mapping[str, Any], asked: Sequence[Any]) -> None:
        request = _request.get()
        attempt = None if request is None else request.next_attempt(step.get("model"))
        # No plan: the core has resolved the name and filtered.
        super().__init__(band.binding(core), None, attempt, _RUST)
        self._asked = asked
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

    def settled(self, picked: Any) -> None:
        """The answer is a list with the id, or with the index where candidates share an id."""
        answer = picked[0] if isinstance(picked, list) and picked else None
        if isinstance(answer, int) and self.lease is not None:
            answer = self.lease.id
        super().settled({"model_info": {"id": answer}} if isinstance(answer, str) else None)


def _given(core: Any, step: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """The strategy of ours that stands behind the one that the core names."""
    given: strategies_by_name.Strategies | None = vars(core).get(strategies_by_name.KEY)
    if given is None or step.get("scope") == "override":
        return None
    if step.get("scope") == "group":
        return given.groups.get(str(step.get("group")))
    return None if given.router is None else (given.router, given.options)


def _choosing(band: RustBand, core: Any, step: Mapping[str, Any], asked: Sequence[Any]) -> _Choice | None:
    try:
        return _Choice(band, core, step, asked)
    except Exception as error:  # noqa: BLE001 - LiteLLM's own strategy answers
        tally.failed(error, "a pick")
        return None


def _answer_select(original: Any, band: RustBand) -> Any:
    async def _answer_select(self: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
        if step.get("stage") != "strategy":
            return await original(self, step, *args, **kwargs)
        with filtered_pick(_choosing(band, self, step, args), self) as pick:
            return pick.settled(await original(self, step, *args, **kwargs))

    return _answer_select


def _answer_select_sync(original: Any, band: RustBand) -> Any:
    def _answer_select_sync(self: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
        stage = step.get("stage")
        if stage == "callback_filters":
            kept = original(self, step, *args, **kwargs)
            preferred = _preferred(band, self, step, kept)
            return kept if preferred is None else (kept, preferred)
        if stage != "strategy":
            return original(self, step, *args, **kwargs)
        with filtered_pick(_choosing(band, self, step, args), self) as pick:
            return pick.settled(original(self, step, *args, **kwargs))

    return _answer_select_sync


# -- retries of the core's own shuffle ---------------------------------------------------------------------


def _answer_callback_filters(original: Any, band: RustBand) -> Any:
    async def _answer_callback_filters(self: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
        answer, error = await original(self, step, *args, **kwargs)
        if error is None and isinstance(answer, tuple) and answer[1] is None:
            answer = (answer[0], _preferred(band, self, step, answer[0]))
        return answer, error

    return _answer_callback_filters


def _preferred(band: RustBand, core: Any, step: Mapping[str, Any], kept: Any) -> str | None:
    """Whom a request that has failed before should go to, if the core is about to shuffle."""
    request = _request.get()
    if request is None or not request.ledger.tried:
        return None
    try:
        if core.settings().routing_strategy != "simple-shuffle" or core._resolved.routing_groups:
            return None  # a strategy will be asked, or might be
        binding = band.binding(core)
        left = request.ledger.narrow(_candidates(binding, step, kept))
        if not left:
            return None
        name = str(step.get("model"))
        group = binding.group_containing(name, "simple_shuffle", {}, [d.entry for d in left])
        lease = binding.engine.acquire_from(group, left)
        if lease is None:
            return None
        request.next_attempt(name).take(lease)
        request.preferred = True
        return lease.id
    except Exception as error:  # noqa: BLE001 - the core's own shuffle answers
        tally.failed(error, "a retry's pick")
        return None


def _candidates(binding: RustBinding, step: Mapping[str, Any], kept: Any) -> list[Deployment]:
    left_out = {*(step.get("excluded_ids") or ()), *(step.get("skipped_ids") or ())}
    known = binding.engine.deployments
    found = [known[id_] for id_ in kept if id_ in known and id_ not in left_out and not known[id_].held]
    order = step.get("target_order")
    return found if order is None else [d for d in found if d.order == order]


# -- attempts ----------------------------------------------------------------------------------------------


def _begin_attempt(band: RustBand, core: Any, step: Mapping[str, Any]) -> Attempt | None:
    """The attempt of this step, with a lease on its deployment; None if it has none that we know."""
    request, id_ = _request.get(), step.get("deployment_id")
    if request is None or not isinstance(id_, str):
        return None
    try:
        attempt, preferred = request.attempt, request.preferred
        if attempt is not None and attempt.lease is not None and attempt.lease.id == id_:
            request.attempt, request.preferred = None, False
            if preferred:
                tally.count(tally.filtered, _RETRY)
            return attempt
        request.drop()
        binding = band.binding(core)
        deployment = binding.engine.deployments.get(id_)
        if deployment is None:
            return None
        if attempt is None or preferred:
            tally.count(tally.delegated, _OWN_PICK)
        attempt = Attempt(step.get("model"), request.ledger)
        attempt.take(binding.engine.acquire_deployment(deployment))
        return attempt
    except Exception as error:  # noqa: BLE001 - the call is made all the same
        tally.failed(error, "the lease of a pick")
        return None


def _end_attempt(driver: Any, attempt: Attempt, outcome: Any) -> None:
    """What the driver tells the core about the attempt, told to us."""
    try:
        if outcome.get("ok") is True:
            response = driver._last_response
            if attempt.lease is not None and driver._request.get("stream"):
                # The first chunk of a stream was read within the attempt.
                attempt.lease.first_token()
            driver._last_response = answered(attempt, response)
            return
        error = driver._last_error
        request = _request.get()
        if request is not None:
            request.note(attempt, error)
        attempt.end(error, cancelled=error is None)
    except Exception as ours:  # noqa: BLE001 - LiteLLM goes on with the outcome
        tally.failed(ours, "the end of an attempt")
        attempt.end(cancelled=True)


def _attempt(original: Any, band: RustBand) -> Any:
    async def attempt(self: Any, step: Any) -> Any:
        begun = _begin_attempt(band, self._core, step)
        if begun is None:
            return await original(self, step)
        try:
            outcome = await original(self, step)
        except BaseException as error:
            failed(begun, error)
            raise
        _end_attempt(self, begun, outcome)
        return outcome

    return attempt


def _attempt_sync(original: Any, band: RustBand) -> Any:
    def attempt_sync(self: Any, step: Any) -> Any:
        begun = _begin_attempt(band, self._core, step)
        if begun is None:
            return original(self, step)
        try:
            outcome = original(self, step)
        except BaseException as error:
            failed(begun, error)
            raise
        _end_attempt(self, begun, outcome)
        return outcome

    return attempt_sync


def install(patches: PatchSet, band: RustBand) -> list[str]:
    """Choose for the Rust core, and follow its attempts."""
    core, driver = band.core, band.driver
    install_selectors(patches, band.selection)
    for owner, name, make in (
        (core, "_answer_select", partial(_answer_select, band=band)),
        (core, "_answer_select_sync", partial(_answer_select_sync, band=band)),
        (core, "_answer_callback_filters", partial(_answer_callback_filters, band=band)),
        (core, "_run", _run),
        (core, "_run_sync", _run_sync),
        (core, "recover_stream", _recover),
        (core, "retry_stream", _recover),
        (core, "recover_stream_sync", _recover_sync),
        (driver, "attempt", partial(_attempt, band=band)),
        (driver, "attempt_sync", partial(_attempt_sync, band=band)),
    ):
        patches.replace(owner, name, make)
    install_usage(patches)
    LOGGER.warning(
        "fast_router: LiteLLM %s routes in a core of its own: strategies, exact counts and the choice at a retry are "
        "ours; failover, waiting, shared state and constant-time picks are not to be had. For all of it: litellm<1.110",
        band.version,
    )
    return ["attempts", "selection"]
