"""A failure of the lane, handed over to LiteLLM's walk without a second call.

LiteLLM's own endpoint is called with the request, and what the lane has seen happens to it again: its pick falls on
the deployment that the lane had called, and its call of LiteLLM's function raises the error that the lane has caught
(or gives the answer that a fallback may replace). Everything after that is LiteLLM's: stamps, records, cooldowns,
retries, fallbacks, messages. What LiteLLM would read before its call is told as it was before the lane's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

from fast_router.litellm_plugin.layers import failures
from fast_router.litellm_plugin.request import aside, set_aside
from fast_router.litellm_plugin.rust_core import steps
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.request import Attempt
    from fast_router.litellm_plugin.rust_core.lane.guard import Open
    from fast_router.litellm_plugin.rust_core.lane.parts import Parts
    from fast_router.litellm_plugin.rust_core.steps import Walk

__all__ = ["Replay", "install", "replayed", "replaying"]


class Replay:
    """What happened to one request in the lane.

    Attributes:
        found: How its group is served.
        model: The name that it asked for.
        id: The deployment that was called.
        op: LiteLLM's function that was called.
        error: What it raised; None if `response` is to be given again.
        response: What it answered.
        attempt: The attempt with its lease: LiteLLM's walk ends it.
        logged: Whether the request's logging object had logged a failure before the call, by event.
        reading: Whether it was its stream's first chunk that failed, not the call.
        started: When the call began, as LiteLLM notes it.
        sync: Whether it was a synchronous call.
        armed: True while LiteLLM's own attempt runs on the deployment.
        done: Whether it has happened again.
        inputs: What the core was started with, until its walk begins.
        walk: The walk that takes it over, None before its first pick.
    """

    __slots__ = (
        "armed", "attempt", "done", "error", "found", "id", "inputs", "logged", "model", "op", "reading", "response",
        "started", "sync", "walk",
    )  # fmt: skip

    def __init__(
        self,
        found: Open,
        model: str,
        id_: str,
        op: str,
        attempt: Attempt,
        error: BaseException | None,
        response: Any,
        logged: Mapping[str, bool],
        started: Any,
    ) -> None:
        self.found = found
        self.model = model
        self.id = id_
        self.op = op
        self.attempt = attempt
        self.error = error
        self.response = response
        self.logged = logged
        self.started = started
        self.reading = False
        self.sync = False
        self.armed = False
        self.done = False
        self.walk: Walk | None = None
        self.inputs: Mapping[str, Any] | None = None

    def again(self) -> Any:
        """The call, as LiteLLM's attempt makes it."""
        self.armed = False
        self.done = True
        error, self.error = self.error, None
        if error is not None:
            raise error
        return self.response


def replaying() -> Replay | None:
    """Give what is being handed over in this context."""
    return cast("Replay | None", aside().replay)


@contextmanager
def replayed(replay: Replay) -> Iterator[None]:
    """Have the core's walk inside begin with what has happened; what it did not ask for is given up."""
    outer = aside()
    set_aside(outer._replace(replay=replay))
    try:
        yield
    finally:
        set_aside(aside()._replace(replay=outer.replay))
        _lost(replay)


def _pending() -> Replay | None:
    found = replaying()
    return None if found is None or found.done else found


def _hand_over() -> Replay | None:
    replay, walking = _pending(), steps.current_walk()
    if replay is not None and walking is not None:
        walking.handed = replay.attempt
    return replay


def _prefer(replay: Replay, kept: Any) -> str | None:
    """The deployment that was called, if it is still a candidate; the walk's request then holds its lease."""
    walking = steps.current_walk()
    if walking is not None:
        walking.handed = None
        replay.attempt.ledger = walking.ledger
    if replay.id in kept:
        if walking is not None:
            walking.drop()
            walking.attempt, walking.counted, walking.preferred = replay.attempt, replay.attempt, True
        return replay.id
    # Another request's failure has taken it out meanwhile: LiteLLM goes on without it.
    replay.done = True
    replay.attempt.end(replay.error)
    if walking is not None and isinstance(replay.error, Exception):
        failures.enter(walking.ledger, replay.attempt, replay.error)
        # The core takes the attempt that it makes now for the first one.
        tally.event("retry", replay.attempt.model)
    return None


def _chosen(step: Mapping[str, Any]) -> list[str] | None:
    """The answer where the core asks a strategy about the one deployment that was called: it holds its lease."""
    replay, walking = _pending(), steps.current_walk()
    if replay is None or walking is None or walking.attempt is not replay.attempt or step.get("stage") != "strategy":
        return None
    return [replay.id] if step.get("candidates") == [replay.id] else None


def _filters(original: Any) -> Any:
    async def _answer_callback_filters(self: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
        replay = _hand_over()
        answer, error = await original(self, step, *args, **kwargs)
        if replay is not None and error is None and isinstance(answer, tuple):
            preferred = _prefer(replay, answer[0])
            if preferred is not None:
                answer = (answer[0], preferred)
        return answer, error

    return _answer_callback_filters


def _select(original: Any) -> Any:
    async def _answer_select(self: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
        chosen = _chosen(step)
        return chosen if chosen is not None else await original(self, step, *args, **kwargs)

    return _answer_select


def _select_sync(original: Any) -> Any:
    def _answer_select_sync(self: Any, step: Any, *args: Any, **kwargs: Any) -> Any:
        chosen = _chosen(step)
        if chosen is not None:
            return chosen
        replay = _hand_over() if step.get("stage") == "callback_filters" else None
        answer = original(self, step, *args, **kwargs)
        if replay is None:
            return answer
        kept = answer[0] if isinstance(answer, tuple) else answer
        preferred = _prefer(replay, kept)
        return answer if preferred is None else (kept, preferred)

    return _answer_select_sync


def _attempt(original: Any) -> Any:
    async def attempt(self: Any, step: Any) -> Any:
        replay = _pending()
        if replay is None or step.get("deployment_id") != replay.id:
            return await original(self, step)
        replay.armed = True
        try:
            return await original(self, step)
        finally:
            replay.armed, replay.done = False, True

    return attempt


def _attempt_sync(original: Any) -> Any:
    def attempt_sync(self: Any, step: Any) -> Any:
        replay = _pending()
        if replay is None or step.get("deployment_id") != replay.id:
            return original(self, step)
        replay.armed = True
        try:
            return original(self, step)
        finally:
            replay.armed, replay.done = False, True

    return attempt_sync


def _called(original: Any) -> Any:
    """LiteLLM's driver notes when its attempt begins: for a replayed one, when it did."""

    def _call(self: Any, step: Any) -> Any:
        found = original(self, step)
        replay = replaying()
        if replay is not None and replay.armed:
            self._attempt_started = replay.started
        return found

    return _call


def _opening(original: Any) -> Any:
    async def open_attempt_stream(attempt: Any, response: Any) -> Any:
        replay = replaying()
        if replay is not None and replay.armed and replay.reading:
            return replay.again()
        return await original(attempt, response)

    return open_attempt_stream


def _opening_sync(original: Any) -> Any:
    def open_attempt_stream_sync(attempt: Any, response: Any) -> Any:
        replay = replaying()
        if replay is not None and replay.armed and replay.reading:
            return replay.again()
        return original(attempt, response)

    return open_attempt_stream_sync


def _invoke(original: Any) -> Any:
    def invoke(self: Any, op: str) -> Any:
        replay = replaying()
        if replay is None or not replay.armed or op != replay.op:
            return original(self, op)

        function = original(self, op)

        def again(**_: Any) -> Any:
            return None if replay.reading else replay.again()

        async def again_later(**_: Any) -> Any:
            return None if replay.reading else replay.again()

        # LiteLLM reads names off it.
        return wraps(function)(again if replay.sync else again_later)

    return invoke


def _logged(original: Any) -> Any:
    def failure_already_logged(kwargs: Any, event: str) -> Any:
        replay = replaying()
        if replay is not None and replay.armed and event in replay.logged:
            return replay.logged[event]
        return original(kwargs, event)

    return failure_already_logged


def _lost(replay: Replay) -> None:
    """LiteLLM's walk has ended without the lane's failure: give the lease back."""
    if not replay.done:
        try:
            replay.attempt.end(replay.error)
        except Exception as error:  # noqa: BLE001 - the walk's own end reaches the caller
            tally.failed(error, "a failure handed over")


def install(patches: PatchSet, parts: Parts) -> None:
    """Let LiteLLM's walk take over what the lane has seen."""
    core, driver = parts.rust_core, parts.driver
    patches.replace(core, "_answer_callback_filters", _filters)
    patches.replace(core, "_answer_select", _select)
    patches.replace(core, "_answer_select_sync", _select_sync)
    patches.replace(driver, "attempt", _attempt)
    patches.replace(driver, "attempt_sync", _attempt_sync)
    patches.replace(driver, "_call", _called)
    patches.replace(parts.host, "invoke", _invoke)
    patches.replace(parts.core, "failure_already_logged", _logged)
    patches.replace(parts.core, "open_attempt_stream", _opening)
    patches.replace(parts.core, "open_attempt_stream_sync", _opening_sync)
