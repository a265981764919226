"""What LiteLLM's core says between a failure and its retry's answer, said from memory: word for word the same."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import litellm
import pytest
from litellm import Router

import fast_router

pytestmark = pytest.mark.skipif(
    not hasattr(Router, "from_config") or fast_router.status()["band"] != "1.110", reason="this core is Python"
)

from fast_router.litellm_plugin.router_state import state_of  # noqa: E402
from tests.litellm_plugin.rust_core.lane.walks import ERRORS, answer  # noqa: E402

MESSAGES = [{"role": "user", "content": "hello"}]
_NAMES = itertools.count()
SETTINGS: dict[str, dict[str, Any]] = {
    "retries": {"num_retries": 2},
    "no cooldowns": {"num_retries": 1, "disable_cooldowns": True},
    "allowed fails": {"num_retries": 1, "allowed_fails": 3},
    "retry policy": {"num_retries": 1, "retry_policy": {"RateLimitErrorRetries": 0, "BadRequestErrorRetries": 2}},
    "fallbacks": {"num_retries": 1, "fallbacks": [{"m": ["other"]}]},
    "a deployment's own": {"num_retries": 1, "params": {"timeout": 9, "cooldown_time": 1}},
}
ROUNDS = 4


@pytest.fixture(autouse=True)
def no_errors_of_ours():
    assert fast_router.enable()
    fast_router.configure(retry_budget_per_second=1e6)
    before = fast_router.status()["errors"]["count"]
    yield
    assert fast_router.status()["errors"]["count"] == before, fast_router.status()["errors"]
    fast_router.configure(retry_budget_per_second=None)


class Heard:
    """The steps of a walk that is handed over: those of the core, and those that its driver gets."""

    def __init__(self) -> None:
        self.of_the_core = 0
        self.steps: list[Any] = []

    def __call__(self, walked: Any, call: Any, *args: Any) -> Any:
        heard = self

        class Core:
            def next(self, answer: Any) -> Any:
                heard.of_the_core += 1
                return call.next(answer)

        inside = walked(Core(), *args)

        class Driver:
            def next(self, answer: Any) -> Any:
                step = inside.next(answer)
                heard.steps.append(step)
                return step

        return Driver()


@contextmanager
def hearing(*, remembers: bool) -> Iterator[Heard]:
    from fast_router.litellm_plugin.rust_core.lane import retry, straight

    heard, walked, known = Heard(), straight.Walked, retry._remembered
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(straight, "Walked", lambda *args: heard(walked, *args))
        patch.setattr(retry, "_remembered", known if remembers else lambda *_: None)
        yield heard


def made(size: int = 5, *, params: Any = None, **options: Any) -> tuple[Router, list[str]]:
    names = [f"retry-{next(_NAMES)}" for _ in range(size)]
    entries = [
        {
            "model_name": "m",
            "litellm_params": {"model": "openai/x", "api_key": "k", **(params or {})},
            "model_info": {"id": id_},
        }
        for id_ in names
    ]
    other = {"model_name": "other", "litellm_params": {"model": "openai/y", "api_key": "k"}}
    return Router(model_list=[*entries, other], **options), names


def ask(router: Router, op: str, fails: Any, called: list[Any]) -> Any:
    """One request, whose calls fail as told; what it ends in."""

    def stub(**kwargs: Any) -> Any:
        called.append({k: v for k, v in kwargs.items() if k not in ("litellm_trace_id", "metadata", "messages")})
        called[-1]["metadata"] = {k: v for k, v in kwargs["metadata"].items() if k != "model_info"}
        error = fails(len(called))
        if error is not None:
            raise ERRORS[error]()
        return answer()

    async def later(**kwargs: Any) -> Any:
        return stub(**kwargs)

    async def no_sleep(*_: Any) -> None:
        return

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(litellm, "acompletion", later)
        patch.setattr(litellm, "completion", stub)
        patch.setattr("litellm.router_python_host.PythonHost.sleep", no_sleep)
        patch.setattr("litellm.router_python_host.PythonHost.sleep_sync", lambda *_: None)
        try:
            found = getattr(router, op)(model="m", messages=MESSAGES)
            found = asyncio.run(found) if op.startswith("a") else found
        except Exception as error:
            return type(error).__name__, getattr(error, "max_retries", None), getattr(error, "num_retries", None)
        return dict(found._hidden_params["additional_headers"]), found._hidden_params["model_id"]


def plain(value: Any, names: dict[str, str]) -> Any:
    """Without what differs by chance: who was picked, how long that took, the minute, the core's jitter."""
    if isinstance(value, dict):
        left_out = ("pick_seconds", "keys", "_context_compaction_state", "client")
        found = {plain(k, names): plain(v, names) for k, v in value.items() if k not in left_out}
        return {**found, "seconds": found["seconds"] > 0} if "seconds" in found else found
    if isinstance(value, (list, tuple)):
        return [plain(v, names) for v in value]
    if isinstance(value, str):
        for id_, name in names.items():
            value = value.replace(id_, name)
        return re.sub(r":\d\d-\d\d$", ":<minute>", value)
    return value


def heard_of(op: str, settings: str, fails: Any, *, remembers: bool) -> tuple[list[Any], int]:
    router, ids = made(**SETTINGS[settings])
    core = vars(router)["_core"]
    told: list[Any] = []
    asked_of_the_core = 0
    for _ in range(ROUNDS):
        called: list[Any] = []
        with hearing(remembers=remembers) as heard:
            ended = ask(router, op, fails, called)
        order = dict.fromkeys(call["model_info"]["id"] for call in called)
        names = {id_: f"<{at}>" for at, id_ in enumerate(order)}
        # Its second question after a failure is the one that is not asked from memory.
        steps = [
            step
            for before, step in zip([None, *heard.steps], heard.steps, strict=False)
            if not (before is not None and step.get("op") == before.get("op") == "batch_get")
        ]
        told.append((plain(steps, names), plain(called, names), plain(ended, names)))
        asked_of_the_core += heard.of_the_core
        for id_ in ids:
            core._cooldowns.cooldown_store.evict_local(id_)
    told.append([sum(core._cache.in_memory_cache.get_cache(f"{i}:{what}") or 0 for i in ids) for what in COUNTERS])
    told.append(sorted((name, count) for name, count in core._endpoints.counters.fail_calls.items() if count)[-1:])
    router.discard()
    return told, asked_of_the_core


COUNTERS = ("fails", "successes")
FAILS = {
    "once": lambda error: lambda call: error if call == 1 else None,
    "twice": lambda error: lambda call: error if call <= 2 else None,
    "always": lambda error: lambda _: error,
}


@pytest.mark.parametrize("op", ["acompletion", "completion"])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("often", FAILS)
def test_the_driver_hears_what_the_core_would_say(op, settings, often):
    spared = 0
    for error in ("server", "too many", "too many, retry after", "timeout", "bad request", "authentication"):
        fails = FAILS[often](error)
        theirs, asked = heard_of(op, settings, fails, remembers=False)
        ours, less = heard_of(op, settings, fails, remembers=True)
        assert ours == theirs, error
        spared += asked - less
    if often == "once":
        assert spared > 0


def test_a_failure_that_is_only_counted_asks_the_core_nothing_of_the_group():
    router, _ = made(6, num_retries=1, disable_cooldowns=True)
    core = vars(router)["_core"]
    looked: list[int] = []
    for _ in range(60):
        with hearing(remembers=True) as heard:
            ask(router, "acompletion", FAILS["once"]("server"), [])
        looked.append(heard.of_the_core)
    # The question whom to take, the attempt, the count of the failure: after that it is not asked.
    assert looked[-1] == min(looked) == 3
    retries = state_of(core).lane.groups["acompletion", "m"].retries
    assert len(retries.kinds) == 1
    assert len(retries.silent) == 6
    router.discard()


def test_a_group_that_changes_meanwhile_is_the_cores_to_look_at():
    router, ids = made(6, num_retries=1, disable_cooldowns=True)
    for _ in range(40):
        ask(router, "acompletion", FAILS["once"]("server"), [])

    called: list[Any] = []
    gone: list[str] = []

    def fails(call: int) -> str | None:
        if call == 1:
            gone.append(next(id_ for id_ in ids if id_ != called[0]["model_info"]["id"]))
            router.delete_deployment(gone[0])
            return "server"
        return None

    ended = ask(router, "acompletion", fails, called)
    assert len(called) == 2
    assert ended[0]["x-litellm-attempted-retries"] == 1
    assert called[1]["model_info"]["id"] not in gone
    router.discard()


def test_kinds_are_remembered_within_bounds(monkeypatch):
    from fast_router.litellm_plugin.rust_core.lane import retry

    monkeypatch.setattr(retry, "_MOST_KINDS", 2)
    monkeypatch.setattr(retry, "_MOST_SILENT", 3)
    router, _ = made(6, num_retries=1, disable_cooldowns=True)
    for error in ("server", "too many", "timeout", "unavailable", "connection") * 4:
        ended = ask(router, "acompletion", FAILS["once"](error), [])
        assert ended[0]["x-litellm-attempted-retries"] == 1
    retries = state_of(vars(router)["_core"]).lane.groups["acompletion", "m"].retries
    assert 1 <= len(retries.kinds) <= 2
    assert len(retries.silent) <= 3
    # The last one found room, whatever came before.
    assert "APIConnectionError" in str(list(retries.kinds)[-1])
    router.discard()
