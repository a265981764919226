"""Run one scenario against LiteLLM as it is and with the bookkeeping features, and compare everything.

Both runs start from the same state: the same random seed, price map, callbacks and deployment ids, and
upstreams that answer the same. What is compared: every response with its headers, every error, what
callbacks were told, the Router's usage numbers, its model lists, and the log lines at INFO and above.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import time
from typing import Any

import litellm
import litellm.router
import pytest
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

from fast_router import settings
from fast_router.litellm_plugin import overhead
from fast_router.litellm_plugin.bands.find import find_band
from fast_router.litellm_plugin.patching import PatchSet

CALLBACK_LISTS = (
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "service_callback",
    "_async_success_callback",
    "_async_failure_callback",
    "_async_input_callback",
)
# Names whose values differ between any two runs of the same LiteLLM.
VOLATILE = re.compile(
    r"^id$|_id$|trace|time|timing|created|date|duration|_ms$|latency|logging_obj|^async_|client|port|overhead"
    r"|^server$|^response_headers$|^headers$|^raw_|fingerprint|cache_key|^original_response$|^exception$"
    r"|exception_str|content-length|ratelimit-reset",
    re.IGNORECASE,
)
KEEP = frozenset({"model_id", "deployment_id"})
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|chatcmpl-[\w-]+|0x[0-9a-f]+")
PORT = re.compile(r"127\.0\.0\.1:\d+")
MINUTE = re.compile(r"\d\d-\d\d$")


def stable(value: Any, depth: int = 0) -> Any:
    """The parts of a value that two equal runs share, as plain data."""
    if depth > 9:
        return "…"
    if isinstance(value, dict):
        return {
            str(key): stable(item, depth + 1)
            for key, item in value.items()
            if str(key) in KEEP or not VOLATILE.search(str(key))
        }
    if isinstance(value, (list, tuple)):
        return [stable(item, depth + 1) for item in value]
    if isinstance(value, str):
        return PORT.sub("<host>", UUID.sub("<id>", value))
    if isinstance(value, (int, float, bool, type(None))):
        return value
    if hasattr(value, "model_dump"):
        return stable(value.model_dump(), depth + 1)
    return type(value).__name__


class Listener(CustomLogger):
    """Keeps what callbacks are told."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def _note(self, kind: str, kwargs: dict[str, Any]) -> None:
        payload = kwargs.get("standard_logging_object") or {}
        params = kwargs.get("litellm_params") or {}
        self.events.append(
            stable(
                {
                    "kind": kind,
                    "payload": dict(payload),
                    "metadata": params.get("metadata"),
                    "model_info": params.get("model_info"),
                    "cost": kwargs.get("response_cost"),
                    "error": type(kwargs.get("exception")).__name__,
                }
            )
        )

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time) -> None:
        self._note("success", kwargs)

    async def async_log_failure_event(self, kwargs, response_obj, start_time, end_time) -> None:
        self._note("failure", kwargs)


class Lines(logging.Handler):
    """Keeps log lines at INFO and above."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {stable(record.getMessage())}")


class World:
    """What a scenario works with; it notes what it sees in `seen`."""

    def __init__(self, upstreams: Any) -> None:
        self.upstreams = upstreams
        self.seen: list[Any] = []
        self.routers: list[Any] = []
        self.listener = Listener()

    def deployment(self, name: str, place: int, *, model: str = "openai/gpt-4o", info: Any = None, **params: Any):
        upstream = self.upstreams[place % len(self.upstreams)]
        return {
            "model_name": name,
            "litellm_params": {"model": model, "api_key": "sk-test", "api_base": upstream.api_base, **params},
            "model_info": {"id": f"{name}-{place}", **(info or {})},
        }

    def router(self, model_list: list[Any], **options: Any) -> Any:
        options.setdefault("num_retries", 0)
        made = litellm.Router(model_list=model_list, **options)
        self.routers.append(made)
        return made

    async def call(self, router: Any, model: str = "m", text: str = "hello there", **more: Any) -> Any:
        """One chat completion; its outcome is noted, an error too."""
        try:
            answer = await router.acompletion(model=model, messages=[{"role": "user", "content": text}], **more)
        except Exception as error:
            self.note("error", type(error).__name__, str(error), getattr(error, "status_code", None))
            return None
        if more.get("stream"):
            chunks = [chunk.model_dump() async for chunk in answer]
            self.note("stream", chunks, answer._hidden_params)
        else:
            self.note("answer", answer, answer._hidden_params)
        await self.settle()
        return answer

    def note(self, *what: Any) -> None:
        self.seen.append(stable(what))

    async def settle(self) -> None:
        """Let LiteLLM finish what it does after an answer."""
        await asyncio.sleep(0)
        await GLOBAL_LOGGING_WORKER.flush()
        for _ in range(5):
            await asyncio.sleep(0)


def usage(router: Any) -> dict[str, Any]:
    """The Router's usage numbers and rests, keys without the minute."""
    core = vars(router).get("_core", router)
    cache = core._core_cache if hasattr(core, "_core_cache") else core.cache
    found: dict[str, Any] = {}
    for key, value in cache.in_memory_cache.cache_dict.items():
        if isinstance(value, (int, float)) and value < 1e9:  # larger ones are times
            name = MINUTE.sub("MM", key)
            found[name] = found.get(name, 0) + value
    return found


@contextlib.contextmanager
def same_start(cost: dict[str, Any]):
    """Put LiteLLM's global state at a defined start, and back afterwards."""
    before = {name: getattr(litellm, name) for name in CALLBACK_LISTS}
    kept_cost = litellm.model_cost
    for name in CALLBACK_LISTS:
        setattr(litellm, name, [])
    litellm.model_cost = {key: dict(row) for key, row in cost.items()}
    litellm.utils._invalidate_model_cost_lowercase_map()
    random.seed(20)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(litellm, name, value)
        litellm.model_cost = kept_cost
        litellm.utils._invalidate_model_cost_lowercase_map()


#: The features for which the LiteLLM that is here has the seam.
FITTING = overhead.fitting(find_band(litellm.router))


@contextlib.contextmanager
def features(monkeypatch: pytest.MonkeyPatch, wanted: Any):
    """Install the bookkeeping features in `wanted` (None: all of them); yields the names of those that are on."""
    off = set() if wanted is None else set(FITTING) - set(wanted)
    monkeypatch.setenv("FAST_ROUTER_DISABLED_FEATURES", ",".join(sorted(off)))
    settings.configure()
    patches = PatchSet()
    installed = overhead.install(patches, find_band(litellm.router))
    try:
        yield [*installed, *sorted(patches.late)]
    finally:
        assert patches.restore() == []


async def observe(scenario: Any, upstreams: Any, cost: dict[str, Any]) -> dict[str, Any]:
    """Run a scenario once and return all that could be seen of it."""
    world = World(upstreams)
    for upstream in upstreams:
        upstream.reset()
        upstream.order(script=(), error_rate=0, error_status=500, throttle_rate=0, hold=False, retry_after=None)
    lines = Lines()
    loggers = [logging.getLogger(name) for name in ("LiteLLM", "LiteLLM Router")]
    levels = [logger.level for logger in loggers]
    # A minute that ends in the middle would change the numbers in either run.
    while time.gmtime().tm_sec > 56:
        await asyncio.sleep(0.2)
    # LiteLLM's queue goes over to a new loop: what an earlier test has left in it is none of this scenario's.
    GLOBAL_LOGGING_WORKER.start()
    await world.settle()
    with same_start(cost):
        litellm.callbacks.append(world.listener)
        for logger in loggers:
            logger.addHandler(lines)
            logger.setLevel(logging.INFO)
        try:
            await scenario(world)
            await world.settle()
            return {
                "seen": world.seen,
                "events": world.listener.events,
                "usage": [usage(router) for router in world.routers],
                "lines": lines.lines,
                "requests": [upstream.records.requests for upstream in upstreams],
            }
        finally:
            for logger, level in zip(loggers, levels, strict=False):
                logger.removeHandler(lines)
                logger.setLevel(level)
            for router in world.routers:
                router.discard()
