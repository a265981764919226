"""The request lane: guard, pick, call, and what LiteLLM would have recorded of it.

A request that the guard lets in is answered without LiteLLM's walk: our engine picks and holds a lease, a compiled
template gives the arguments, and LiteLLM's own function makes the call. If it fails, or a fallback may take the
answer's place, LiteLLM's walk takes over with what happened (see `replay`). Every other request goes to LiteLLM as it
came, under a counted reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from time import time
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.callers import caller_of
from fast_router.litellm_plugin.layers import threads
from fast_router.litellm_plugin.layers.lease import answered
from fast_router.litellm_plugin.picks.callback_filters import CallbackVerdict
from fast_router.litellm_plugin.picks.request_facts import ask_of
from fast_router.litellm_plugin.request import Attempt
from fast_router.litellm_plugin.rests import mirror
from fast_router.litellm_plugin.rests.policy import policy_of
from fast_router.litellm_plugin.router_state import state_of
from fast_router.litellm_plugin.rust_core import standing, steps
from fast_router.litellm_plugin.rust_core.binding import binding_of
from fast_router.litellm_plugin.rust_core.lane.answer import (
    blocked,
    headed,
    headed_sync,
    opened,
    opened_sync,
    picked,
    succeeded,
    succeeded_sync,
)
from fast_router.litellm_plugin.rust_core.lane.beside import acquire_other, instead, rescuable
from fast_router.litellm_plugin.rust_core.lane.entered import EVENTS, Entered
from fast_router.litellm_plugin.rust_core.lane.guard import CoreLane, Open, compile_group
from fast_router.litellm_plugin.rust_core.lane.ordinary import QUALITY, TAKEN_OUT
from fast_router.litellm_plugin.rust_core.lane.replay import Replay, replayed, replaying
from fast_router.litellm_plugin.rust_core.lane.streams import make_attempt_class
from fast_router.litellm_plugin.rust_core.lane.trust import difference
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine import Ask
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.request import RequestLedger
    from fast_router.litellm_plugin.rust_core.binding import RustBinding
    from fast_router.litellm_plugin.rust_core.lane.endpoint import Endpoint
    from fast_router.litellm_plugin.rust_core.lane.parts import Parts

__all__ = ["Lane"]


class Lane:
    """The lane of all Routers of one LiteLLM.

    Args:
        band: This LiteLLM.
        parts: What is used of it.
    """

    def __init__(self, band: RustBand, parts: Parts) -> None:
        self.band = band
        self.parts = parts
        self.stream_attempt = make_attempt_class(parts)
        self.verdict = CallbackVerdict()
        self.test = band.self_test
        self._checked: list[Any] = []
        self._checks: str | None = None
        self._paces = False

    # -- in, or not ----------------------------------------------------------------------------

    def enter(self, core: Any, endpoint: Endpoint, request: dict[str, Any]) -> Entered | None:
        """Pick for a request and shape its call; None if it is LiteLLM's, which is counted."""
        if replaying() is not None:
            return None
        try:
            entered = self._enter(core, endpoint, request)
        except Exception as error:  # noqa: BLE001 - LiteLLM's walk answers
            tally.failed(error, "the lane")
            entered = "an error of ours"
        if isinstance(entered, str):
            tally.count(tally.left, entered)
            return None
        tally.lane += 1
        return entered

    def _enter(self, core: Any, endpoint: Endpoint, request: dict[str, Any]) -> Entered | str:
        lane, found = self.open(core, endpoint, request)
        return found if isinstance(found, str) else self._pick(lane, core, endpoint, found, request)

    def open(self, core: Any, endpoint: Endpoint, request: Mapping[str, Any]) -> tuple[CoreLane, Open | str]:
        """How a request's group is served; or why this request is not."""
        model = request.get("model")
        state = state_of(core)
        lane: CoreLane | None = state.lane
        if lane is None:
            lane = state.lane = CoreLane(binding_of(self.band, core))
        if type(model) is not str:
            return lane, "a name that is no text"
        found = lane.groups.get((endpoint.op, model))
        if not self.test.passed:
            why = self.test.why(core)
            if why is not None:
                return lane, why
        if found is None or found.seen != lane.binding.version or not found.holds(core):
            found = self._compile(lane, core, endpoint, model)
        why = found.why or (QUALITY if lane.binding.limited else self._why(endpoint, found, request))
        return (lane, found) if why is None else (lane, why)

    def _compile(self, lane: CoreLane, core: Any, endpoint: Endpoint, model: str) -> Open:
        seen = lane.binding.version  # read before: a change during the compilation makes it outdated
        found = compile_group(self.parts, self.band, core, endpoint, model)
        found.seen = seen
        if core._handle.has_model_name(model) or found.why is None:
            lane.groups[endpoint.op, model] = found
        return found

    def _why(self, endpoint: Endpoint, found: Open, request: Mapping[str, Any]) -> str | None:
        """What keeps this request out, None if nothing does."""
        if standing.reasons:
            return next(iter(standing.reasons.values()), "the walk")
        if endpoint.sync and threads.wanted():
            return "a rescue in threads"
        parts = self.parts
        litellm = parts.litellm
        if not request.keys() <= endpoint.keys:
            strange = next(iter(request.keys() - endpoint.keys))
            return f"the request's {strange}" if strange.isidentifier() and len(strange) <= 40 else "a strange key"
        stream = request.get("stream", False)
        if stream is not False and (stream is not True or not endpoint.streams):
            return "a stream"
        callbacks = litellm.callbacks
        if not endpoint.sync and callbacks != self.verdict.seen:
            self.verdict.update(callbacks)
        if not endpoint.sync and self.verdict.why is not None:
            return self.verdict.why
        if callbacks != self._checked:
            self._checks, self._paces = _pre_call_checks(callbacks)
            self._checked = list(callbacks)
        if self._checks is not None:
            return self._checks
        if self._paces and found.paced:
            return "limits that usage-based-routing keeps"
        if parts.deadline() is not None:
            return "a total timeout"
        if parts.native_child():
            return "context compaction"
        metadata = request.get(endpoint.field, _NO_METADATA)
        if type(metadata) is not dict:
            return "metadata that is no dict"
        if not metadata.keys().isdisjoint(parts.gated):
            return "metadata of LiteLLM's routing"
        if found.teams and metadata.get("user_api_key_team_id") is not None:
            return "teams"
        if found.guarded and metadata.get("user_api_key_auth") is not None:
            return "access groups"
        if endpoint.sibling is not None:
            other = request.get(endpoint.sibling)
            if type(other) is dict and not other.keys().isdisjoint(TAKEN_OUT | parts.gated):
                return "metadata of LiteLLM's routing"
            if type(request.get("input")) is list and parts.carries_image(None, request):
                return "an image"
        tools = request.get("tools")
        if tools and (type(tools) is not list or parts.web_search(request)):
            return "web search"
        for message in request.get("messages") or ():
            if type(message) is not dict or type(message.get("content")) not in _PLAIN_CONTENT:
                if parts.carries_image(request["messages"], request):
                    return "an image"
                break
        return None

    def enter_beside(
        self, core: Any, endpoint: Endpoint, request: dict[str, Any], ledger: RequestLedger
    ) -> Entered | str:
        """As `enter`, for an attempt beside one that `ledger` knows, on somebody else; or why there is none."""
        lane, found = self.open(core, endpoint, request)
        return found if isinstance(found, str) else self._pick(lane, core, endpoint, found, request, ledger)

    def _pick(
        self,
        lane: CoreLane,
        core: Any,
        endpoint: Endpoint,
        found: Open,
        request: dict[str, Any],
        ledger: RequestLedger | None = None,
    ) -> Entered | str:
        binding = lane.binding
        engine = binding.engine
        group = found.group
        if group is None:
            return "no group"
        failover = binding.router.failover
        if failover is not None and failover.disputed:
            # One of the group may do, and yet the others need not rest on another caller's word.
            for name in group.names:
                failover.appeal(name, caller_of(request))
        if ledger is None and failover is not None and failover.dead and failover.dead.holds(group.members):
            return _DEAD
        ask = self.asked(binding, core, found, request)
        lease = engine.acquire(group, ask) if ledger is None else acquire_other(engine, group, ledger, ask)
        if lease is None:
            return _NOBODY
        # What the caller brings along decides what its failure says, also that of a stream which breaks later.
        attempt = Attempt(request["model"], steps.new_ledger(core, request) if ledger is None else ledger)
        attempt.take(lease)
        try:
            entered = self._shape(core, endpoint, found, attempt, lease.id, request)
        except BaseException:
            attempt.end(cancelled=True)
            raise
        if isinstance(entered, str):
            attempt.end(cancelled=True)
        return entered

    @staticmethod
    def asked(binding: RustBinding, core: Any, found: Open, request: Mapping[str, Any]) -> Ask | None:
        """What the strategy wants to know about a request, before its pick."""
        if binding.redis_due < _NEVER and binding.engine.clock() >= binding.redis_due:
            mirror.refresh(binding, core)
        if not found.asks or found.group is None:
            return None
        prompt = (request.get("messages"), request.get("input") or request.get("prompt"))
        return ask_of(found.group, request, prompt, counts=found.counts)

    def _shape(
        self, core: Any, endpoint: Endpoint, found: Open, attempt: Attempt, id_: str, request: dict[str, Any]
    ) -> Entered | str:
        parts = self.parts
        stream = request.get("stream") is True
        template = found.templates.get((id_, stream))
        if template is None:
            template = found.template(parts, core, endpoint, id_, stream=stream)
        memory = core._cache.in_memory_cache
        if memory is None or template.client_key in memory.cache_dict:
            return "a client made for the deployment"
        keys = tuple(request)
        if keys not in template.seen:
            differs = difference(parts, core, endpoint, found, template, id_, request)
            if differs is not None:
                found.why = f"another {differs} than LiteLLM's"
                return found.why
            template.remember(keys)
        entered = Entered(found, template, attempt, id_, request)
        logging_object = request.get("litellm_logging_obj")
        if logging_object is not None:
            already = parts.core.failure_already_logged
            entered.logged = {event: already(request, event) for event in EVENTS}
            if endpoint.plan.kind == "embedding":
                refused = parts.endpoints.embedding_batch_refusal
                refused(endpoint.plan, found.handle.deployment(id_), request.get("input"), request, request["model"])
        if template.slots:
            try:
                entered.slot = parts.books.slot(core, template.slots_key)
                if entered.slot is None:
                    entered.slot = parts.enter_slot(core._port, endpoint.plan, found.handle.deployment(id_), request)
            except Exception:  # noqa: BLE001 - LiteLLM's own refusal: its walk says what becomes of it
                return "a deployment without a free slot"
        entered.call = template.build(parts, endpoint, request)
        return entered

    # -- the call ------------------------------------------------------------------------------

    async def run(self, original: Any, core: Any, endpoint: Endpoint, entered: Entered) -> Any:
        """Make the call of an asynchronous request, and record what LiteLLM would have.

        Args:
            original: LiteLLM's way, for a call that fails; None for an attempt beside another one, which just fails.
            core: The Router's core.
            endpoint: What is called.
            entered: The request.
        """
        parts = self.parts
        plan = endpoint.plan
        services = parts.litellm.service_callback
        begun = time() if services else 0.0
        self._begin(core, endpoint, entered)
        routed = parts.routed_attempt()
        token = parts.attempt.set(routed)
        error: BaseException | None = None
        response: Any = None
        stream: Any = None
        pair = None if original is None else rescuable(self, core, endpoint, entered)
        try:
            response = await core._host.invoke(endpoint.invoked)(**entered.call)
            if entered.call.get("stream") is True:
                entered.reading = True
                stream = self._stream_attempt(core, endpoint, entered)
                response = await parts.core.open_attempt_stream(stream, response)
        except Exception as raised:  # noqa: BLE001 - LiteLLM's walk says what becomes of it
            error = raised
        except BaseException as raised:
            await self.gone(core, endpoint, entered, routed, raised)
            if pair is not None and pair.pending:
                return await pair.settle(raised)
            raise
        finally:
            parts.attempt.reset(token)
            if entered.slot is not None:
                # An open stream has taken it along.
                entered.slot.close()
        if pair is not None:
            answer = await instead(self, core, endpoint, entered, routed, pair, error)
            if answer is not None:
                return answer
        if error is not None or blocked(parts, endpoint, response):
            if original is None:
                await self.gone(core, endpoint, entered, routed, error or LookupError(_REPLACED))
                raise error or LookupError(_REPLACED)
            release = parts.release_started(core._selectors.reservations, core._cache, routed.attempt_id)
            if release is not None:
                await parts.released((release,))
            replay, again = self._given_over(core, endpoint, entered, error, response)
            del error, response
            with replayed(replay):
                return await original(core, **again)
        _add(core._endpoints.counters.success_calls, plan.success_key, entered, 1)
        try:
            if plan.kind == "chat":
                picked(parts, core, entered.id, entered.call)
            if stream is not None and stream.reports_outcome:
                stream.counted_tokens = parts.core.total_tokens(response)
                await opened(parts, core, entered.template, entered.id, stream.counted_tokens)
            else:
                await succeeded(parts, core, entered.template, entered.id, response)
            if parts.verbose.isEnabledFor(_INFO):
                parts.core._log_attempt(plan, entered.name)
            response = await headed(parts, core, entered.found, response, entered.id)
            if services and plan.kind == "chat":
                core.service_logged("async_get_available_deployment", begun, begun, entered.call)
                core.service_logged("acompletion", begun, time(), entered.call)
        except Exception as ours:  # noqa: BLE001 - the answer is there: it must reach the caller
            tally.failed(ours, "the record of an answer")
        return self._ended(core, entered, response)

    def run_sync(self, original: Any, core: Any, endpoint: Endpoint, entered: Entered) -> Any:
        """The same for a synchronous request."""
        parts = self.parts
        plan = endpoint.plan
        self._begin(core, endpoint, entered)
        error: BaseException | None = None
        response: Any = None
        stream: Any = None
        try:
            response = core._host.invoke(endpoint.invoked)(**entered.call)
            if entered.call.get("stream") is True:
                entered.reading = True
                stream = self._stream_attempt(core, endpoint, entered)
                response = parts.core.open_attempt_stream_sync(stream, response)
        except Exception as raised:  # noqa: BLE001 - LiteLLM's walk says what becomes of it
            error = raised
        except BaseException as raised:
            entered.attempt.end(raised)
            raise
        if error is not None or blocked(parts, endpoint, response):
            replay, again = self._given_over(core, endpoint, entered, error, response)
            del error, response
            with replayed(replay):
                return original(core, **again)
        _add(core._endpoints.counters.success_calls, plan.success_key, entered, 1)
        try:
            if stream is not None and stream.reports_outcome:
                stream.counted_tokens = parts.core.total_tokens(response)
                opened_sync(parts, core, entered.template, entered.id, stream.counted_tokens)
            else:
                succeeded_sync(parts, core, entered.template, entered.id, response)
            if parts.verbose.isEnabledFor(_INFO):
                parts.core._log_attempt(plan, entered.name)
            response = headed_sync(parts, core, entered.found, response, entered.id)
        except Exception as ours:  # noqa: BLE001 - the answer is there: it must reach the caller
            tally.failed(ours, "the record of an answer")
        return self._ended(core, entered, response)

    def _begin(self, core: Any, endpoint: Endpoint, entered: Entered) -> None:
        entered.started = datetime.now()  # naive, as LiteLLM notes it
        _add(core._endpoints.counters.total_calls, endpoint.plan.total_key, entered, 1)
        self.parts.reserved.set(None)

    def _ended(self, core: Any, entered: Entered, response: Any) -> Any:
        lease = entered.attempt.lease
        if lease is not None and entered.call.get("stream") is True:
            # The first chunk of a stream was read within the attempt.
            lease.first_token()
            if steps.make_ledger:
                policy_of(core, self.band).policy.first_token(lease)
        return answered(entered.attempt, response)

    async def gone(self, core: Any, endpoint: Endpoint, entered: Entered, routed: Any, error: BaseException) -> None:
        """The caller has gone away: what the call still holds is given back."""
        entered.attempt.end(error)
        parts = self.parts
        try:
            if endpoint.plan.kind == "chat":
                picked(parts, core, entered.id, entered.call)
            release = parts.release_started(core._selectors.reservations, core._cache, routed.attempt_id)
        except Exception as ours:  # noqa: BLE001 - the cancellation goes on
            tally.failed(ours, "a cancelled call")
            return
        if release is not None:
            await parts.released((release,), parts.grace)

    def _stream_attempt(self, core: Any, endpoint: Endpoint, entered: Entered) -> Any:
        step = entered.found.step
        request = {**entered.request, endpoint.field: entered.call[endpoint.field]}
        for key in ("litellm_trace_id", "_context_compaction_state"):
            if key in entered.call:
                request[key] = entered.call[key]
        attempt = self.stream_attempt(
            core=core,
            op=endpoint.op,
            request=request,
            kwargs=entered.call,
            group=str(step["model"]),
            order=step.get("target_order"),
            depth=0,
            level=0,
            deployment_id=entered.id,
            attempted_retries=0,
            routed=None,
            slot=entered.slot,
        )
        attempt.found, attempt.template = entered.found, entered.template
        return attempt

    # -- the other way -------------------------------------------------------------------------

    def _given_over(
        self, core: Any, endpoint: Endpoint, entered: Entered, error: BaseException | None, response: Any
    ) -> tuple[Replay, dict[str, Any]]:
        tally.count(tally.handed_over, _REPLACED if error is None else "a failure")
        # LiteLLM counts it again.
        _add(core._endpoints.counters.total_calls, endpoint.plan.total_key, entered, -1)
        replay = Replay(
            entered.found,
            entered.request["model"],
            entered.id,
            endpoint.invoked,
            entered.attempt,
            error,
            response,
            entered.logged,
            entered.started,
        )
        replay.reading, replay.sync = entered.reading, endpoint.sync
        request = {**entered.request, endpoint.field: entered.call[endpoint.field]}
        request["litellm_trace_id"] = entered.call["litellm_trace_id"]
        return replay, request


_REPLACED = "an answer that a fallback may replace"
_NOBODY = "nobody is eligible"
_DEAD = "nobody is well, and there may be a fallback"
_INFO = 20  # of the logging module
_NEVER = float("inf")
_NO_METADATA: dict[str, Any] = {}
_PLAIN_CONTENT = (str, type(None))


def _add(counter: Any, which: str | None, entered: Entered, by: int) -> None:
    """Count in one of LiteLLM's counters, which are kept by deployment or by group."""
    if which is not None:
        counter[entered.name if which == "deployment" else entered.request["model"] if which == "group" else ""] += by


def _pre_call_checks(callbacks: list[Any]) -> tuple[str | None, bool]:
    """What a callback wants to know about a picked deployment, and whether one refuses by requests per minute."""
    from litellm.integrations.custom_logger import CustomLogger  # noqa: PLC0415 - LiteLLM is imported

    paces = False
    for callback in callbacks:
        if not isinstance(callback, CustomLogger):
            continue
        cls = type(callback)
        if cls.__name__ == "LowestTPMLoggingHandler_v2" and cls.__module__.startswith("litellm."):
            paces = True
            continue
        for name in ("async_pre_call_check", "pre_call_check"):
            base = getattr(CustomLogger, name, None)
            if getattr(cls, name, base) is not base or name in vars(callback):
                return "a callback that checks deployments", paces
    return None, paces
