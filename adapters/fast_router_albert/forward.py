"""Forwarding one request to one server over httpx, as the Albert API does it.

Maps the endpoint to the server's path, fills in the server's name for the model, puts rerank into the server's
shape and back, and turns what goes wrong into the documented answers.
"""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from .counted import CallLease, CountedStream, give_back
from .endpoints import Endpoint, ProviderType
from .errors import (
    EndpointNotServedError,
    ProviderAnswerError,
    ProviderNotReachableError,
    ProviderTimeoutError,
    ResponseFormatError,
)
from .rerank import rerank_answer, rerank_request

__all__ = ["Target", "forward", "request_to"]


@dataclass(frozen=True, repr=False)
class Target:
    """Where a request goes: server, model and credentials. Its repr shows none of them.

    Attributes:
        kind: The kind of server.
        url: Its address without /v1.
        model: What it calls the model.
        headers: Headers with its credentials.
        table: Its ENDPOINT_TABLE.
        secrets: What no error message may hold.
    """

    kind: ProviderType
    url: str
    model: str
    headers: Mapping[str, str]
    table: Mapping[Endpoint, str | None]
    secrets: tuple[str, ...] = ()

    def path(self, endpoint: Endpoint) -> str:
        """The server's path for `endpoint`.

        Raises:
            EndpointNotServedError: It has none.
        """
        path = self.table.get(endpoint)
        if path is None:
            raise EndpointNotServedError(f"a {self.kind.value} server does not serve /v1/{endpoint.value}")
        return path


def request_to(
    http: httpx.AsyncClient,
    target: Target,
    endpoint: Endpoint,
    *,
    method: str,
    json: Mapping[str, Any] | None,
    data: Mapping[str, Any] | None,
    files: Any,
    timeout: float,
) -> httpx.Request:
    """The HTTP request that `target` wants for this call."""
    url = f"{target.url}{target.path(endpoint)}"
    if files is not None:
        form = {**(data or {}), "model": target.model}
        return http.build_request(method, url, data=form, files=files, headers=target.headers, timeout=timeout)
    body: dict[str, Any] | None = None
    if json is not None:
        if endpoint is Endpoint.RERANK:
            body = rerank_request(json, target.kind, target.model)
        else:
            body = {**json, "model": target.model}
    return http.build_request(
        method, url, json=body, data=dict(data) if data else None, headers=target.headers, timeout=timeout
    )


async def forward(
    http: httpx.AsyncClient,
    target: Target,
    endpoint: Endpoint,
    *,
    lease: CallLease | None,
    method: str = "POST",
    json: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    files: Any = None,
    stream: bool = False,
    timeout: float = 300.0,
) -> httpx.Response:
    """Send one request and return the server's answer; `lease` is given back however it ends.

    Args:
        http: The connection pool.
        target: Where it goes.
        endpoint: What is asked for.
        lease: The call's lease, None outside of a router.
        method: HTTP method.
        json: JSON body; its `model` is replaced by the server's name for it.
        data: Form fields, beside `files`.
        files: Files, as httpx takes them.
        stream: Return as soon as the headers are there; the body is read by the caller, who closes it.
        timeout: Seconds between two signs of life.

    Raises:
        EndpointNotServedError: The server has no such endpoint (400).
        ProviderTimeoutError: It did not answer in time (504).
        ProviderNotReachableError: It cannot be reached (424).
        ProviderAnswerError: It answered with an error, passed on with its status.
        RequestFormatError, ResponseFormatError: The body cannot be put into the needed shape (500).
    """
    try:
        request = request_to(http, target, endpoint, method=method, json=json, data=data, files=files, timeout=timeout)
        response = await _send(http, request, target, stream=stream)
    except BaseException as error:
        give_back(lease, error)
        raise
    if stream:
        if lease is not None and isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = CountedStream(response.stream, lease)
        return response
    try:
        if endpoint is Endpoint.RERANK and json is not None:
            response = _reshaped(response, rerank_answer(_json(response), json, target.model))
    except ResponseFormatError as error:
        give_back(lease, error)
        raise
    give_back(lease, answer=_quietly(response))
    return response


async def _send(http: httpx.AsyncClient, request: httpx.Request, target: Target, *, stream: bool) -> httpx.Response:
    try:
        response = await http.send(request, stream=True)
        if stream and response.is_success:
            return response
        try:
            await response.aread()
        finally:
            await response.aclose()
    except httpx.TimeoutException:
        raise ProviderTimeoutError("Request timed out, model is too busy.") from None
    except httpx.HTTPError as error:
        raise ProviderNotReachableError(f"Model provider is not reachable ({type(error).__name__})") from None
    if response.is_success:
        return response
    raise ProviderAnswerError(
        _words(response, target), status_code=response.status_code, retry_after=_retry_after(response)
    )


def _words(response: httpx.Response, target: Target) -> str:
    """The server's own error message, without our credentials in it."""
    found: Any = _quietly(response)
    for key in ("error", "detail", "message"):
        if isinstance(found, dict) and found.get(key) is not None:
            found = found[key]
    text = found if isinstance(found, str) else f"the provider answered {response.status_code}"
    if isinstance(found, dict) and isinstance(found.get("message"), str):
        text = found["message"]
    for secret in target.secrets:
        text = text.replace(secret, "***")
    return text[:500]


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return None


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise ResponseFormatError("Response formatting failed: the provider did not answer in JSON") from None


def _quietly(response: httpx.Response) -> Any:
    if "json" not in response.headers.get("content-type", ""):
        return None
    try:
        return response.json()
    except ValueError:
        return None


def _reshaped(response: httpx.Response, content: Any) -> httpx.Response:
    skipped = {"content-length", "content-encoding", "transfer-encoding"}
    headers = [(name, value) for name, value in response.headers.items() if name.lower() not in skipped]
    body = jsonlib.dumps(content, ensure_ascii=False).encode()
    return httpx.Response(response.status_code, headers=headers, content=body, request=response.request)
