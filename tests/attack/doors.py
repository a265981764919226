"""The two doors that callers come through: LiteLLM's real proxy, and a `litellm.Router` in this process.

Both take the same requests of the same two callers and give the same `Answer`, so that each attack is written once.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import httpx

from fast_router.engine.deployment import RESTING
from tests.attack.upstreams import KEY, MEMBERS

LITELLM = tuple(int(part) for part in version("litellm").split(".")[:2])
GOOD, EVE = "sk-of-good", "sk-of-eve"
HUNG_UP = "the caller has hung up"
# More chunks than any answer here has. Up to 1.96, a synchronous stream that breaks is begun anew without end, by
# LiteLLM's Router alone as well: its caller has to leave.
_ENDLESS = 16 if LITELLM < (1, 97) else None


@dataclass(frozen=True)
class Answer:
    """How one request ended: the deployment that answered, or what its caller was told."""

    deployment: str | None = None
    error: str | None = None


def entries(fleet: Any, group: str, params: Mapping[str, Any] = {}, info: Mapping[str, Any] = {}) -> list[dict]:
    """The deployments of one group, an upstream each."""
    return [
        {
            "model_name": group,
            "litellm_params": {
                "model": "openai/test-model",
                "api_base": fleet[name].api_base,
                "api_key": KEY,
                **params,
            },
            "model_info": {"id": f"{group}-{name}", **info},
        }
        for name in MEMBERS
    ]


class RouterDoor:
    """A `litellm.Router` in this process.

    Args:
        model_list: Its deployments.
        sync: Whether its synchronous endpoints are called, each call on a thread.
        named: Whether callers are known by their keys, as in the proxy; else nobody is told from anybody.
        options: The Router's own.
    """

    kind = "router"

    def __init__(self, model_list: list[dict], *, sync: bool = False, named: bool = True, **options: Any) -> None:
        from litellm import Router

        self.router = Router(model_list=model_list, **{"num_retries": 2, "retry_after": 0, **options})
        self._sync = sync
        self._named = named

    def close(self) -> None:
        """Take its callbacks out of LiteLLM's lists."""
        self.router.discard()

    async def chat(self, group: str, prompt: str = "hi", by: str = GOOD, **request: Any) -> Answer:
        """Make one chat request and read its answer to the end."""
        request.setdefault("messages", [{"role": "user", "content": prompt}])
        return await self._ask("completion", group, by, request)

    async def embed(self, group: str, by: str = GOOD, **request: Any) -> Answer:
        """Make one embedding request."""
        return await self._ask("embedding", group, by, {"input": "hi", **request})

    async def text(self, group: str, prompt: str = "hi", by: str = GOOD, **request: Any) -> Answer:
        """Make one text completion and read its answer to the end."""
        return await self._ask("text_completion", group, by, {"prompt": prompt, **request})

    async def respond(self, group: str, prompt: str = "hi", by: str = GOOD, **request: Any) -> Answer:
        """Make one request of the Responses API and read its answer to the end."""
        return await self._ask("responses", group, by, {"input": prompt, **request}, "litellm_metadata")

    async def message(self, group: str, prompt: str = "hi", by: str = GOOD, **request: Any) -> Answer:
        """Make one request of the Messages API and read its answer to the end."""
        asked = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 8, **request}
        return await self._ask("anthropic_messages", group, by, asked, "litellm_metadata")

    async def _ask(
        self, endpoint: str, group: str, by: str, request: dict[str, Any], metadata: str = "metadata"
    ) -> Answer:
        request = _without_headers(request)
        if self._named:
            given = request.get(metadata)
            known = {"user_api_key": by, "user_api_key_hash": by, "user_api_key_user_id": by}
            # As the proxy does it: what a caller says of itself there gives way.
            request[metadata] = {**(given if isinstance(given, dict) else {}), **known}
        try:
            if self._sync:
                return await asyncio.to_thread(self._now, endpoint, group, request)
            response = await getattr(self.router, f"a{endpoint}")(**{"model": group, **request})
            if request.get("stream") and hasattr(response, "__aiter__"):
                async for _ in response:
                    pass
            return _of(response)
        except Exception as error:
            return Answer(error=f"{type(error).__name__}: {error}")

    def _now(self, endpoint: str, group: str, request: dict[str, Any]) -> Answer:
        response = getattr(self.router, endpoint)(model=group, **request)
        if request.get("stream") and hasattr(response, "__iter__"):
            for read, _ in enumerate(response):
                if read == _ENDLESS:
                    return Answer(error=HUNG_UP)
        return _of(response)

    def known(self) -> dict[str, Any]:
        """What has been learnt about each deployment's health and speed."""
        import fast_router

        if without_plugin():
            return {}
        ours = fast_router.advanced_router(self.router)
        gc.collect()  # a stream that was dropped is over once it is found
        ours.engine.settle()
        return {
            id_: (d.ewma, d.ewma_failed, d.latency, tuple(d.latencies), d.speed, d.held & RESTING, d.in_flight)
            for id_, d in ours.deployments.items()
        }

    def resting(self) -> list[str]:
        """Ids of the deployments that get nothing now, with the reason."""
        import fast_router

        if without_plugin():
            return []
        ours = fast_router.advanced_router(self.router)
        failover = ours.failover
        return [
            f"{id_}: {failover.describe(id_) if failover is not None else ''}"
            for id_, deployment in ours.deployments.items()
            if deployment.held & RESTING
        ]


# What the proxy reads from headers and gives to the Router as arguments.
_FROM_HEADERS = {
    "x-litellm-num-retries": ("num_retries", int),
    "x-litellm-timeout": ("timeout", float),
    "x-litellm-stream-timeout": ("stream_timeout", float),
}


def _without_headers(request: dict[str, Any]) -> dict[str, Any]:
    request = dict(request)
    for name, value in request.pop("http_headers", {}).items():
        if name in _FROM_HEADERS:
            key, convert = _FROM_HEADERS[name]
            request[key] = convert(value)
    return request


def _of(response: Any) -> Answer:
    hidden = getattr(response, "_hidden_params", None) or {}
    return Answer(deployment=str(hidden.get("model_id")))


class ProxyDoor:
    """LiteLLM's proxy, over HTTP.

    Args:
        url: Its address.
    """

    kind = "proxy"

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=120, trust_env=False, limits=httpx.Limits())

    def known(self) -> None:
        """What is known inside is not seen from outside."""

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def chat(self, group: str, prompt: str = "hi", by: str = GOOD, **request: Any) -> Answer:
        """Make one chat request and read its answer to the end."""
        request.setdefault("messages", [{"role": "user", "content": prompt}])
        return await self._ask("/v1/chat/completions", group, by, request)

    async def embed(self, group: str, by: str = GOOD, **request: Any) -> Answer:
        """Make one embedding request."""
        return await self._ask("/v1/embeddings", group, by, {"input": "hi", **request})

    async def _ask(self, path: str, group: str, by: str, request: dict[str, Any]) -> Answer:
        headers = {
            "authorization": f"Bearer {by}",
            "content-type": "application/json",
            **request.pop("http_headers", {}),
        }
        # Not by httpx: its JSON knows no NaN, other clients' JSON does.
        answer = await self._client.post(path, content=json.dumps({"model": group, **request}), headers=headers)
        text = answer.text
        if answer.status_code != 200 or '"error":' in text:
            return Answer(error=f"{answer.status_code}: {text[:400]} … {text[-400:]}")
        return Answer(deployment=answer.headers.get("x-litellm-model-id"))


def without_plugin() -> bool:
    """Whether this run is the one to compare with."""
    return os.environ.get("FAST_ROUTER_ENABLED") == "0"
