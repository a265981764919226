"""One request through LiteLLM 1.110's own walk, or through the lane, and everything that can be seen of it.

LiteLLM's function is replaced by one that fails to order; who is picked is written in a script that both ways follow,
LiteLLM's walk through the answer in which its host may prefer a deployment, the lane through its engine.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import httpx
import litellm
from litellm import Router
from litellm.integrations.custom_logger import CustomLogger

import fast_router
from fast_router.litellm_plugin.switch import switch

MESSAGES = [{"role": "user", "content": "hello"}]
IDS = ("a", "b", "c")
MOCKED: dict[str, Any] = {"mock_response": "one two three", "api_key": "k"}


# -- what a deployment does --------------------------------------------------------------------------------


def _response(status: int, headers: Mapping[str, str] | None = None) -> httpx.Response:
    return httpx.Response(status, headers=dict(headers or {}), request=httpx.Request("POST", "http://test/v1"))


def _status(cls: Any, status: int, headers: Mapping[str, str] | None = None) -> Callable[[], Exception]:
    return lambda: cls(
        message=f"told to say {status}", llm_provider="openai", model="m", response=_response(status, headers)
    )


ERRORS: dict[str, Callable[[], BaseException]] = {
    "bad request": _status(litellm.BadRequestError, 400),
    "authentication": _status(litellm.AuthenticationError, 401),
    "not found": _status(litellm.NotFoundError, 404),
    "too many": _status(litellm.RateLimitError, 429),
    "too many, retry after": _status(litellm.RateLimitError, 429, {"retry-after": "3"}),
    "server": lambda: litellm.InternalServerError(message="told to say 500", llm_provider="openai", model="m"),
    "unavailable": lambda: litellm.ServiceUnavailableError(message="told to say 503", llm_provider="openai", model="m"),
    "timeout": lambda: litellm.Timeout(message="told to time out", llm_provider="openai", model="m"),
    "connection": lambda: litellm.APIConnectionError(message="told to break", llm_provider="openai", model="m"),
    "context window": _status(litellm.ContextWindowExceededError, 400),
    "content policy": _status(litellm.ContentPolicyViolationError, 400),
    "any": lambda: ValueError("told to fail"),
}

SETTINGS: dict[str, dict[str, Any]] = {
    "no retries": {"num_retries": 0},
    "retries": {"num_retries": 2},
    "fallbacks": {"num_retries": 1, "fallbacks": [{"m": ["other"]}]},
    "special fallbacks": {
        "num_retries": 0,
        "context_window_fallbacks": [{"m": ["other"]}],
        "content_policy_fallbacks": [{"m": ["other"]}],
    },
    "retry policy": {
        "num_retries": 1,
        "retry_policy": {"BadRequestErrorRetries": 1, "RateLimitErrorRetries": 0, "InternalServerErrorRetries": 3},
    },
    "allowed fails": {"num_retries": 1, "allowed_fails": 1, "cooldown_time": 30},
    "no cooldowns": {"num_retries": 2, "disable_cooldowns": True},
    "default fallbacks": {"num_retries": 0, "default_fallbacks": ["other"]},
}


def answer(text: str = "hi", finish: str = "stop") -> litellm.ModelResponse:
    return litellm.ModelResponse(
        id="chatcmpl-test",
        created=1,
        model="test",
        choices=[{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    )


class Calls:
    """LiteLLM's function, as told: what each deployment does by its id."""

    def __init__(self, does: Mapping[str, Any]) -> None:
        self.does = does
        self.made: list[tuple[str, dict[str, Any]]] = []
        self.raised: list[BaseException] = []
        self.real: Any = None

    def _next(self, kwargs: dict[str, Any]) -> Any:
        id_ = kwargs["model_info"]["id"]
        self.made.append((id_, seen(kwargs)))
        what = self.does.get(id_)
        if isinstance(what, str):
            error = ERRORS[what]()
            self.raised.append(error)
            raise error
        return answer() if what is None else what(kwargs)

    async def asynchronous(self, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        if kwargs.get("stream") is True:
            return await self._stream(kwargs)
        return self._next(kwargs)

    def synchronous(self, **kwargs: Any) -> Any:
        if kwargs.get("stream") is True:
            return self._stream_sync(kwargs)
        return self._next(kwargs)

    def _breaks(self, kwargs: dict[str, Any]) -> tuple[int, str] | None:
        """After how many chunks the stream breaks, and how."""
        id_ = kwargs["model_info"]["id"]
        what = self.does.get(id_)
        if not isinstance(what, tuple):
            self._next(kwargs)
            return None
        self.made.append((id_, seen(kwargs)))
        return what

    async def _stream(self, kwargs: dict[str, Any]) -> Any:
        breaks = self._breaks(kwargs)
        real: Any = self.real
        response = await real(
            model="openai/x", messages=MESSAGES, mock_response="one two three", stream=True, api_key="k"
        )
        inner = response.completion_stream

        async def broken() -> Any:
            count = 0
            async for chunk in inner:
                if breaks is not None and count == breaks[0]:
                    raise ERRORS[breaks[1]]()
                count += 1
                yield chunk

        response.completion_stream = broken()
        return response

    def _stream_sync(self, kwargs: dict[str, Any]) -> Any:
        breaks = self._breaks(kwargs)
        real: Any = self.real
        response = real(model="openai/x", messages=MESSAGES, stream=True, **MOCKED)
        inner = response.completion_stream

        def broken() -> Any:
            for count, chunk in enumerate(inner):
                if breaks is not None and count == breaks[0]:
                    raise ERRORS[breaks[1]]()
                yield chunk

        response.completion_stream = broken()
        return response


# -- what is seen ------------------------------------------------------------------------------------------

_LETTERS = {"litellm_trace_id", "_context_compaction_state", "client"}


def seen(value: Any) -> Any:
    """A copy of what may be compared: values by their own equality, ids that are made anew left out."""
    if isinstance(value, dict):
        return {key: ("*" if key in _LETTERS else seen(inner)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [seen(inner) for inner in value]
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, BaseException):
        return (type(value).__name__, str(value))
    return type(value).__name__


class Events(CustomLogger):
    """The fallback events that LiteLLM tells its loggers."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    async def log_success_fallback_event(
        self, original_model_group: str, kwargs: dict, original_exception: Exception
    ) -> None:
        self.told.append(("success", original_model_group, kwargs.get("model"), type(original_exception).__name__))

    async def log_failure_fallback_event(
        self, original_model_group: str, kwargs: dict, original_exception: Exception
    ) -> None:
        self.told.append(("failure", original_model_group, kwargs.get("model"), type(original_exception).__name__))


@dataclass
class Seen:
    """Everything that one scenario has shown."""

    calls: list[Any] = field(default_factory=list)
    outcomes: list[Any] = field(default_factory=list)
    metadata: list[Any] = field(default_factory=list)
    counters: Any = None
    cooldowns: Any = None
    counts: Any = None
    events: Any = None
    sleeps: list[float] = field(default_factory=list)


def outcome_of(response: Any) -> Any:
    hidden = getattr(response, "_hidden_params", None)
    hidden = dict(hidden) if isinstance(hidden, dict) else {}
    return {
        "answer": seen(response.model_dump()) if hasattr(response, "model_dump") else type(response).__name__,
        "headers": seen(hidden.get("additional_headers")),
        "model_id": hidden.get("model_id"),
    }


_ATTRIBUTES = (
    "status_code", "num_retries", "max_retries", "failed_deployment_id", "retry_skip_deployment_id", "llm_provider",
    "model",
)  # fmt: skip


def failure_of(error: BaseException) -> Any:
    chain = []
    context: BaseException | None = error
    while context is not None and len(chain) < 6:
        chain.append((type(context).__name__, str(context)))
        context = context.__context__
    return {"error": chain, **{name: getattr(error, name, None) for name in _ATTRIBUTES}}


def state_of(core: Any) -> tuple[Any, Any, Any]:
    counters = core._endpoints.counters
    counted = {
        name: {key: value for key, value in getattr(counters, name).items() if value}
        for name in ("total_calls", "success_calls", "fail_calls")
    }
    snapshot = core._cooldowns.cooldown_store.snapshot()
    cooling = {
        key: {name: item for name, item in seen(dict(value)).items() if name != "timestamp"}
        for key, value in snapshot.items()
    }
    for value in cooling.values():
        # With us a later cooldown of the same length does not replace the first, nor its words.
        value["exception_received"] = value["exception_received"].partition("\n\nLiteLLM:")[0]
    kept = {
        key: value for key, value in core._cache.in_memory_cache.cache_dict.items() if isinstance(value, (int, float))
    }
    return counted, cooling, kept


# -- one scenario ------------------------------------------------------------------------------------------


class Script:
    """Who is picked: the first of a rotation who may be."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._turns = itertools.count()
        self._ids = ids

    def choose(self, candidates: Sequence[str]) -> str | None:
        turn = next(self._turns)
        for offset in range(len(self._ids)):
            id_ = self._ids[(turn + offset) % len(self._ids)]
            if id_ in candidates:
                return id_
        return candidates[0] if candidates else None


@contextmanager
def scripted(script: Script) -> Iterator[None]:
    """Have LiteLLM's walk follow the script (not a request that the lane hands over)."""
    from litellm.router_rust.core import RustCore

    before = RustCore.__dict__.get("_answer_callback_filters"), RustCore.__dict__["_answer_select_sync"]
    filters, select_sync = RustCore._answer_callback_filters, RustCore._answer_select_sync

    def handed_over() -> bool:
        from fast_router.litellm_plugin.rust_core.lane import replay

        return replay._pending() is not None

    async def answer_filters(self: Any, step: Any, request: Any, messages: Any) -> Any:
        found, error = await filters(self, step, request, messages)
        if error is None and not handed_over():
            found = (found[0], script.choose(found[0]))
        return found, error

    def answer_select(self: Any, step: Any, request: Any, messages: Any, text: Any) -> Any:
        found = select_sync(self, step, request, messages, text)
        if step.get("stage") == "callback_filters" and not handed_over():
            kept = found[0] if isinstance(found, tuple) else found
            found = (kept, script.choose(kept))
        return found

    RustCore._answer_callback_filters, RustCore._answer_select_sync = answer_filters, answer_select
    try:
        yield
    finally:
        if before[0] is None:
            del RustCore._answer_callback_filters
        else:
            RustCore._answer_callback_filters = before[0]
        RustCore._answer_select_sync = before[1]


def entries(**params: Any) -> list[dict[str, Any]]:
    made = [
        {
            "model_name": "m",
            "litellm_params": {"model": f"openai/{id_}", "api_key": "sk", "api_base": f"http://{id_}/v1", **params},
            "model_info": {"id": id_},
        }
        for id_ in IDS[:2]
    ]
    other = {"model": "openai/c", "api_key": "sk", "api_base": "http://c/v1"}
    return [*made, {"model_name": "other", "litellm_params": other, "model_info": {"id": "c"}}]


def follow(made: Router, script: Script) -> None:
    """Have the lane's engine follow the script."""
    binding = switch.band.keeper.binding(vars(made)["_core"])
    engine = binding.engine

    def acquire(group: Any, ask: Any = None) -> Any:
        id_ = script.choose([member.id for member in group.members if not member.held])
        return None if id_ is None else engine.acquire_deployment(engine.deployments[id_])

    engine.acquire = acquire


CALLBACKS = (
    "callbacks", "success_callback", "failure_callback", "_async_success_callback", "_async_failure_callback",
    "input_callback",
)  # fmt: skip


def run(
    settings: Mapping[str, Any],
    does: Mapping[str, Any],
    *,
    op: str = "acompletion",
    lane: bool,
    requests: int = 2,
    model_list: Sequence[Mapping[str, Any]] | None = None,
    metadata: bool = True,
    failover: bool = False,
    **request: Any,
) -> Seen:
    """Run a scenario: some requests in a row through one Router."""
    shown = Seen()
    function = {"aanthropic_messages": "anthropic_messages"}.get(op, op)
    calls, script = Calls(does), Script(IDS[:2])
    before = {name: list(getattr(litellm, name)) for name in CALLBACKS}
    events = Events()
    fast_router.disable()
    if lane:
        # What is ours after a failure has rows of its own in docs/failover.md.
        fast_router.configure(disabled_features=None if failover else ("failover",))
        fast_router.enable()
    real = calls.real = getattr(litellm, function)
    asynchronous = op.startswith("a")
    bucket = "litellm_metadata" if op in ("aresponses", "aanthropic_messages", "anthropic_messages") else "metadata"
    prompt = {} if "messages" in request or "input" in request or "prompt" in request else {"messages": MESSAGES}

    async def all_of_them(made: Router) -> None:
        for _ in range(requests):
            given = {"caller": "test"}
            kwargs = {**copy.deepcopy(prompt), **request, **({bucket: given} if metadata else {})}
            try:
                if asynchronous:
                    response = await getattr(made, op)(model="m", **kwargs)
                else:
                    response = getattr(made, op)(model="m", **kwargs)
                shown.outcomes.append(outcome_of(response))
                if kwargs.get("stream") is True:
                    text: list[Any] = []
                    shown.outcomes.append(text)
                    if asynchronous:
                        async for chunk in response:
                            text.append(chunk.choices[0].delta.content)  # noqa: PERF401 - what came before it broke counts
                    else:
                        for chunk in response:
                            text.append(chunk.choices[0].delta.content)  # noqa: PERF401 - as above
            except Exception as error:
                shown.outcomes.append(failure_of(error))
            if asynchronous:
                # Streams tell how they ended in the background.
                for _ in range(20):
                    await asyncio.sleep(0)
            shown.metadata.append(seen(given))
            await asyncio.sleep(0)

    try:
        litellm.callbacks.append(events)
        setattr(litellm, function, calls.asynchronous if asynchronous else calls.synchronous)
        made = Router(model_list=copy.deepcopy(list(model_list or entries())), **settings)
        core = vars(made)["_core"]
        # With failover a retry goes to whom the request has not tried: of two there is no choice.
        with nullcontext() if failover else scripted(script), _slept(shown):
            if lane:
                follow(made, script)
            if asynchronous:
                asyncio.run(all_of_them(made))
            else:
                coroutine = all_of_them(made)
                try:
                    while True:
                        coroutine.send(None)
                except StopIteration:
                    pass
        shown.calls = calls.made
        shown.counters, shown.cooldowns, shown.counts = state_of(core)
        shown.events = events.told
    finally:
        setattr(litellm, function, real)
        for name, value in before.items():
            getattr(litellm, name)[:] = value
        fast_router.disable()
        fast_router.configure(disabled_features=None)
        fast_router.enable()
    return shown


@contextmanager
def _slept(shown: Seen) -> Iterator[None]:
    from litellm.router_python_host import PythonHost

    real, real_sync = PythonHost.sleep, PythonHost.sleep_sync

    async def sleep(self: Any, seconds: float) -> None:
        shown.sleeps.append(round(seconds))

    def sleep_sync(self: Any, seconds: float) -> None:
        shown.sleeps.append(round(seconds))

    PythonHost.sleep, PythonHost.sleep_sync = sleep, sleep_sync
    try:
        yield
    finally:
        PythonHost.sleep, PythonHost.sleep_sync = real, real_sync


def differences(one: Seen, other: Seen) -> list[str]:
    """What two runs differ in, by name."""
    found = []
    for name in ("calls", "outcomes", "metadata", "counters", "cooldowns", "counts", "events", "sleeps"):
        left, right = getattr(one, name), getattr(other, name)
        if _normal(left) != _normal(right):
            found.append(f"{name}: {_normal(left)!r}\n    {_normal(right)!r}")
    return found


def _normal(value: Any) -> Any:
    """A value without the seconds until somebody is back, which with us are the true ones."""
    if isinstance(value, dict):
        return {key: _normal(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_normal(inner) for inner in value]
    return re.sub(r"Try again in [\d.]+ seconds", "Try again", value) if isinstance(value, str) else value


def lane_counts() -> dict[str, Any]:
    return dict(fast_router.status()["lane"])


__all__ = ["ERRORS", "IDS", "MESSAGES", "SETTINGS", "defaultdict", "differences", "entries", "lane_counts", "run"]
