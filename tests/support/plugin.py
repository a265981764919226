"""What the plugin's own tests share: Routers over real or imagined deployments, and how to look inside."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

from litellm import Router

import fast_router
from fast_router.engine.deployment import Deployment

MESSAGES = [{"role": "user", "content": "hello"}]


def entry(id_: str, api_base: str = "http://127.0.0.1:9/v1", name: str = "m", **params: Any) -> dict[str, Any]:
    """One deployment as LiteLLM takes it; `info_<key>` goes to model_info."""
    info = {key.removeprefix("info_"): params.pop(key) for key in list(params) if key.startswith("info_")}
    params = {"model": "openai/test-model", "api_base": api_base, "api_key": "sk-test", **params}
    return {"model_name": name, "litellm_params": params, "model_info": {"id": id_, **info}}


def router(*entries: dict[str, Any], **options: Any) -> Router:
    """A Router that does not retry and does not fall back unless told to."""
    made = Router(model_list=list(entries), **{"num_retries": 0, **options})
    _made.append(made)
    return made


_made: list[Router] = []


def discard() -> None:
    """Take the callbacks of all Routers made so far out of LiteLLM's lists, which hold a hundred at most."""
    while _made:
        _made.pop().discard()


def core_of(made: Router) -> Any:
    """The object that routes: the Router, or the core behind it."""
    return vars(made).get("_core", made)


def pick(made: Router, model: str = "m", /, **request: Any) -> dict[str, Any]:
    """An asynchronous pick as an endpoint makes it."""

    async def run() -> Any:
        return await asynchronous(made)(model=model, messages=MESSAGES, request_kwargs=request)

    return asyncio.run(run())


def asynchronous(made: Router) -> Callable[..., Any]:
    """The asynchronous selection, by whatever name this LiteLLM has it."""
    core = core_of(made)
    names = ("_core_async_get_available_deployment", "async_get_available_deployment", "select")
    return next(found for name in names if (found := getattr(core, name, None)) is not None)


def pick_id(made: Router, model: str = "m", /, **request: Any) -> str:
    """The id of an asynchronous pick."""
    return str(pick(made, model, **request)["model_info"]["id"])


def sync_id(made: Router, model: str = "m", /, **request: Any) -> str:
    """The id of a synchronous pick."""
    found = core_of(made).get_available_deployment(model=model, messages=MESSAGES, request_kwargs=request)
    return str(found["model_info"]["id"])


def picks() -> dict[str, Any]:
    """The plugin's counters."""
    return fast_router.status()["picks"]


def deployments(made: Router) -> dict[str, Deployment]:
    """The engine's deployments behind a Router."""
    return fast_router.advanced_router(made).deployments


def in_flight(made: Router) -> int:
    """Open leases on a Router's deployments; what was dropped is closed first."""
    ours = fast_router.advanced_router(made)
    gc.collect()
    ours.engine.settle()
    return sum(d.in_flight for d in ours.deployments.values())


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)
