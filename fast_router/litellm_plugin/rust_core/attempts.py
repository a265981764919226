"""LiteLLM 1.110: requests followed through the Rust core, and leases around its attempts.

One request is one walk of the core (`_run`), whatever its retries and fallbacks: for that long its context holds what
it has tried. An attempt takes over the lease that its pick has taken, or begins one, and ends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router.engine.failover.failures import remember
from fast_router.litellm_plugin import request as running
from fast_router.litellm_plugin.answers import is_cache_hit
from fast_router.litellm_plugin.layers import failures, request_ledger
from fast_router.litellm_plugin.layers.lease import answered, failed
from fast_router.litellm_plugin.layers.stream import install_usage
from fast_router.litellm_plugin.request import Attempt, Context, RequestLedger, here
from fast_router.litellm_plugin.rust_core.binding import binding_of
from fast_router.litellm_plugin.rust_core.steps import RUST, Walk, carrying, current_walk, new_ledger, on_a_loop
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]

_OWN_PICK = "a shuffle of LiteLLM's Rust core"


# -- one request -------------------------------------------------------------------------------------------


class _Walking:
    """`with _Walking(core, request):` around one walk."""

    __slots__ = ("_outer", "_token", "_walk")

    def __init__(self, core: Any, request: Any, *, may_wait: bool = True) -> None:
        self._outer = here.get()
        ledger = self._outer.aside.carried or new_ledger(core, request if isinstance(request, Mapping) else {})
        ledger.may_wait = may_wait
        if isinstance(request, Mapping):
            request_ledger.appeal(ledger, request.get("model"))
        self._walk = Walk(core, ledger)

    def __enter__(self) -> None:
        outer = self._outer
        # The ledger is this walk's; a call that one of its attempts makes through a Router begins with none.
        aside = outer.aside._replace(walk=self._walk, carried=None, permits=None)
        here.set(Context(outer.attempt, outer.reading, outer.filtered, aside))
        self._token = running.ledger.set(self._walk.ledger)

    def __exit__(self, *error: object) -> None:
        running.ledger.reset(self._token)
        here.set(self._outer)
        self._walk.ledger.raised = None
        try:
            self._walk.over()
        except Exception as ours:  # noqa: BLE001 - the answer, or LiteLLM's error, must reach the caller
            tally.failed(ours, "the end of a request")


def _run(original: Any) -> Any:
    async def _run(self: Any, plan: Any, call: Any, prepared: Any, *args: Any, **kwargs: Any) -> Any:
        with _Walking(self, prepared):
            return await original(self, plan, call, prepared, *args, **kwargs)

    return _run


def _run_sync(original: Any) -> Any:
    def _run_sync(self: Any, plan: Any, call: Any, prepared: Any, *args: Any, **kwargs: Any) -> Any:
        with _Walking(self, prepared, may_wait=not on_a_loop()):
            return original(self, plan, call, prepared, *args, **kwargs)

    return _run_sync


def _stream_broke(core: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> RequestLedger | None:
    """End the attempt of the stream that is to be recovered; its last argument is how it failed."""
    try:
        error = kwargs.get("failure", args[-1] if args else None)
        watch = here.get().reading
        if watch is None or not isinstance(error, BaseException):
            return None
        error = getattr(error, "original_exception", None) or error
        watch.broken(error)
        request = next((value for value in (kwargs.get("request"), *args) if isinstance(value, Mapping)), {})
        ledger = new_ledger(core, request)
        earlier = watch.attempt.ledger
        for attempt in earlier.attempts if isinstance(earlier, RequestLedger) else ():
            ledger.failed(*attempt)
        return ledger
    except Exception as ours:  # noqa: BLE001 - LiteLLM recovers the stream all the same
        tally.failed(ours, "a stream that broke")
        return None


def _recover(original: Any) -> Any:
    async def recover(self: Any, *args: Any, **kwargs: Any) -> Any:
        with carrying(_stream_broke(self, args, kwargs)):
            return await original(self, *args, **kwargs)

    return recover


def _recover_sync(original: Any) -> Any:
    def recover_sync(self: Any, *args: Any, **kwargs: Any) -> Any:
        with carrying(_stream_broke(self, args, kwargs)):
            return original(self, *args, **kwargs)

    return recover_sync


# -- attempts ----------------------------------------------------------------------------------------------


def _begin_attempt(band: RustBand, core: Any, step: Mapping[str, Any]) -> Attempt | None:
    """The attempt of this step, with a lease on its deployment; None if it has none that we know."""
    walking = current_walk()
    if walking is None:
        return None
    walking.step = step
    attempt = _attempt_on(band, core, walking, step)
    try:
        walking.begin(attempt)
    except Exception as error:  # noqa: BLE001 - the call is made all the same
        tally.failed(error, "the lease of a pick")
    return attempt


def _attempt_on(band: RustBand, core: Any, walking: Walk, step: Mapping[str, Any]) -> Attempt | None:
    id_ = step.get("deployment_id")
    if not isinstance(id_, str):
        return None
    try:
        walking.picked()
        attempt, preferred = walking.attempt, walking.preferred
        if attempt is not None and attempt.lease is not None and attempt.lease.id == id_:
            walking.attempt, walking.preferred = None, False
            if preferred and attempt is not walking.counted:
                tally.count(tally.filtered, RUST)
            return attempt
        walking.drop()
        binding = binding_of(band, core)
        deployment = binding.engine.deployments.get(id_)
        if deployment is None:
            return None
        if walking.assigned is not None and walking.assigned.id == id_:
            tally.count(tally.filtered, RUST)
        elif attempt is None or preferred:
            tally.count(tally.delegated, _OWN_PICK)
        attempt = Attempt(step.get("model"), walking.ledger)
        taken = binding.engine.acquire_deployment(deployment)
        if preferred:
            taken.bound = True  # the core's later filters have left out whom we would have it take
        attempt.take(taken)
        return attempt
    except Exception as error:  # noqa: BLE001 - the call is made all the same
        tally.failed(error, "the lease of a pick")
        return None


def _end_attempt(driver: Any, attempt: Attempt, outcome: Any) -> None:
    """What the driver tells the core about the attempt, told to us."""
    try:
        if outcome.get("ok") is True:
            response = driver._last_response
            streams = driver._request.get("stream") and not attempt.foreign
            if attempt.lease is not None and streams and not is_cache_hit(response):
                # The first chunk of a stream was read within the attempt.
                attempt.lease.first_token()
                failover = attempt.ledger.failover if isinstance(attempt.ledger, RequestLedger) else None
                if failover is not None:
                    failover.policy.first_token(attempt.lease)
            driver._last_response = answered(attempt, response)
            return
        error = driver._last_error
        ledger = attempt.ledger
        if isinstance(ledger, RequestLedger) and isinstance(error, Exception):
            ledger.raised = error
            if outcome.get("outside_deployment") or outcome.get("caller_scoped"):
                # LiteLLM knows that it says nothing about the deployment: refused before the provider heard of it,
                # or made with the caller's own key.
                attempt.end(cancelled=True)
                failures.enter(ledger, attempt, error)
                return
        attempt.end(error, cancelled=error is None)
    except Exception as ours:  # noqa: BLE001 - LiteLLM goes on with the outcome
        tally.failed(ours, "the end of an attempt")
        attempt.end(cancelled=True)


def _failed(original: Any) -> Any:
    def _failed(self: Any, step: Any, deployment: Any, call: Any, error: Any) -> Any:
        # LiteLLM chains a retry's failure to the first one: what was behind it is lost then.
        remember(error)
        return original(self, step, deployment, call, error)

    return _failed


def _running(attempt: Attempt) -> None:
    walking = current_walk()
    if walking is not None:
        walking.running = attempt
        if walking.beside is not None:
            walking.beside.take(attempt)


@contextmanager
def _current(begun: Attempt) -> Iterator[None]:
    """Let `begun` be the attempt that is being made; whatever ends it is its failure."""
    outer = here.get()
    here.set(Context(begun, outer.reading, outer.filtered, outer.aside))
    _running(begun)
    try:
        yield
    except BaseException as error:
        failed(begun, error)
        raise
    finally:
        here.set(outer)


def _attempt(original: Any, band: RustBand) -> Any:
    async def attempt(self: Any, step: Any) -> Any:
        begun = _begin_attempt(band, self._core, step)
        if begun is None:
            return await original(self, step)
        with _current(begun):
            outcome = await original(self, step)
        _end_attempt(self, begun, outcome)
        return outcome

    return attempt


def _attempt_sync(original: Any, band: RustBand) -> Any:
    def attempt_sync(self: Any, step: Any) -> Any:
        begun = _begin_attempt(band, self._core, step)
        if begun is None:
            return original(self, step)
        with _current(begun):
            outcome = original(self, step)
        _end_attempt(self, begun, outcome)
        return outcome

    return attempt_sync


def install(patches: PatchSet, band: RustBand) -> list[str]:
    """Follow the requests of the Rust core, and their attempts."""
    core, driver = band.core, band.driver
    for owner, name, make in (
        (core, "recover_stream", _recover),
        (core, "retry_stream", _recover),
        (core, "recover_stream_sync", _recover_sync),
        (driver, "_failed", _failed),
    ):
        patches.replace(owner, name, make)
    band.around_request(patches, _run, _run_sync)
    band.around_attempt(patches, partial(_attempt, band=band), partial(_attempt_sync, band=band))
    install_usage(patches)
    running.on_end.append(failures.ended)
    patches.on_restore(lambda: running.on_end.remove(failures.ended))
    return ["attempts"]
