"""Classification, on the real exception classes of the libraries that LiteLLM calls through."""

from __future__ import annotations

import asyncio

import httpx
import litellm
import openai
import pytest

from fast_router.engine.failover.failures import FailureKind, classify, status_of

REQUEST = httpx.Request("POST", "http://127.0.0.1/v1")


def _openai(cls, status):
    return cls("no", response=httpx.Response(status, request=REQUEST), body=None)


CASES = [
    (litellm.BadRequestError("no", "m", "p"), FailureKind.CLIENT),
    (litellm.ContextWindowExceededError("no", "m", "p"), FailureKind.CLIENT),
    (litellm.ContentPolicyViolationError("no", "m", "p"), FailureKind.CLIENT),
    (litellm.RateLimitError("no", "p", "m"), FailureKind.RATE_LIMIT),
    (litellm.AuthenticationError("no", "p", "m"), FailureKind.AUTH),
    (litellm.PermissionDeniedError("no", "p", "m", httpx.Response(403, request=REQUEST)), FailureKind.AUTH),
    (litellm.NotFoundError("no", "m", "p"), FailureKind.NOT_FOUND),
    (litellm.Timeout("no", "m", "p"), FailureKind.TIMEOUT),
    (litellm.APIConnectionError("no", "p", "m"), FailureKind.CONNECTION),
    (litellm.InternalServerError("no", "p", "m"), FailureKind.SERVER),
    (litellm.ServiceUnavailableError("no", "p", "m"), FailureKind.SERVER),
    (_openai(openai.RateLimitError, 429), FailureKind.RATE_LIMIT),
    (_openai(openai.UnprocessableEntityError, 422), FailureKind.CLIENT),
    (_openai(openai.InternalServerError, 503), FailureKind.SERVER),
    (_openai(openai.InternalServerError, 504), FailureKind.TIMEOUT),
    (openai.APIConnectionError(request=REQUEST), FailureKind.CONNECTION),
    (openai.APITimeoutError(request=REQUEST), FailureKind.TIMEOUT),
    (httpx.ConnectError("refused"), FailureKind.CONNECTION),
    (httpx.ReadTimeout("slow"), FailureKind.TIMEOUT),
    (httpx.RemoteProtocolError("cut"), FailureKind.CONNECTION),
    (ConnectionResetError("reset"), FailureKind.CONNECTION),
    (TimeoutError(), FailureKind.TIMEOUT),
    (asyncio.TimeoutError(), FailureKind.TIMEOUT),
    (asyncio.CancelledError(), FailureKind.CANCELLED),
    (GeneratorExit(), FailureKind.CANCELLED),
    (ValueError("no idea"), FailureKind.SERVER),
]


@pytest.mark.parametrize(("error", "kind"), CASES, ids=lambda case: getattr(type(case), "__name__", str(case)))
def test_kinds(error, kind):
    assert classify(error) is kind


def _dressed(cause):
    error = litellm.InternalServerError("Connection error.", "p", "m")
    error.__cause__ = cause
    return error


def test_a_500_without_an_answer_behind_it_is_a_connection_error():
    assert classify(_dressed(openai.APIConnectionError(request=REQUEST))) is FailureKind.CONNECTION


def test_a_500_that_was_answered_stays_the_servers():
    assert classify(_dressed(_openai(openai.InternalServerError, 500))) is FailureKind.SERVER


def test_an_os_level_failure_at_the_end_of_the_chain_is_found():
    error = RuntimeError("wrapped")
    error.__cause__ = RuntimeError("again")
    error.__cause__.__cause__ = ConnectionRefusedError("port shut")
    assert classify(error) is FailureKind.CONNECTION
    assert classify(RuntimeError("alone")) is FailureKind.SERVER


def test_status():
    assert status_of(litellm.RateLimitError("no", "p", "m")) == 429
    assert status_of(ValueError()) is None


def test_only_the_deployments_own_failures_blame_it():
    blameless = {kind for kind in FailureKind if not kind.blames_deployment}
    assert blameless == {FailureKind.CLIENT, FailureKind.CANCELLED}
    assert not FailureKind.AUTH.retryable
    assert FailureKind.AUTH.elsewhere
