"""What the plugin's own tests share: Routers over real or imagined deployments, and how to look inside."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

from litellm import Router

import fast_router
from fast_router.engine.deployment import Deployment
from fast_router.litellm_plugin.rests.policy import policy_of
from fast_router.litellm_plugin.switch import switch
from fast_router.testing import Behaviour
from fast_router.testing.upstream import UpstreamFace
from tests.support.waiting import until

__all__ = [
    "MESSAGES",
    "asynchronous",
    "calm",
    "core_of",
    "deployments",
    "discard",
    "entry",
    "failover_of",
    "in_flight",
    "over",
    "pick",
    "pick_id",
    "picks",
    "refused",
    "router",
    "sync_id",
    "until",
]

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


def over(
    servers: Iterable[UpstreamFace], *, model: str = "openai/test-model", each: Any = None, **options: Any
) -> Router:
    """A Router over servers, its deployments `d0`, `d1`, …, that tries three times as LiteLLM does."""
    entries = [entry(f"d{i}", server.api_base, model=model, **(each or {})) for i, server in enumerate(servers)]
    return router(*entries, **{"num_retries": 2, **options})


def calm(servers: Iterable[UpstreamFace]) -> list[UpstreamFace]:
    """Servers without any orders, and without memories."""
    found = list(servers)
    for server in found:
        server.order(**Behaviour().as_dict())
        server.reset()
    return found


def refused() -> str:
    """An address on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}/v1"


_made: list[Router] = []


def discard() -> None:
    """Take the callbacks of all Routers made so far out of LiteLLM's lists, which hold a hundred at most."""
    while _made:
        _made.pop().discard()


def core_of(made: Router) -> Any:
    """The object that routes: the Router, or the core behind it."""
    return vars(made).get("_core", made)


def failover_of(made: Router) -> Any:
    """The failover of a Router's core."""
    return policy_of(switch.band.core_of(made), switch.band)


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


def run_python(text: str, **environment: str) -> dict[str, Any]:
    """Run a program in a process of its own; what its last line says, as JSON."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=250,
        check=True,
    )
    found: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return found
