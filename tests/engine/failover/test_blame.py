"""Whom failures speak against, taken by themselves: on exceptions as they really arise where that is possible here."""

from __future__ import annotations

import json

import httpx
import litellm
import openai
import pytest

from fast_router.engine.failover.blame import Blame, Case, Terms, blame
from fast_router.engine.failover.failures import FailureKind, certain, classify, sent

REQUEST = httpx.Request("POST", "http://127.0.0.1/v1")


def caused(error, *causes):
    """`error` with a chain of causes, as LiteLLM's wrapping leaves it."""
    last = error
    for cause in causes:
        last.__cause__ = cause
        last = cause
    return error


def answer(status):
    return openai.APIStatusError("no", response=httpx.Response(status, request=REQUEST), body=None)


def in_stream(code):
    error = openai.APIError("no", REQUEST, body={"code": code})
    return caused(litellm.APIConnectionError("no", "p", "m"), error)


REFUSED = caused(
    litellm.InternalServerError("Connection error.", "p", "m"),
    openai.APIConnectionError(request=REQUEST),
    httpx.ConnectError("refused"),
    ConnectionRefusedError(),
)
RESET = caused(
    litellm.InternalServerError("Connection error.", "p", "m"),
    openai.APIConnectionError(request=REQUEST),
    httpx.ConnectError("reset"),
    ConnectionResetError(),
)
UNENCODABLE = caused(litellm.InternalServerError("nan", "p", "m"), ValueError("out of range"))
MISSHAPEN = caused(litellm.APIConnectionError("no", "p", "m"), AttributeError("str has no get"))
TIMED_OUT = caused(
    litellm.Timeout("no", "m", "p"), openai.APITimeoutError(request=REQUEST), httpx.ReadTimeout("slow", request=REQUEST)
)
GATEWAY_TIMEOUT = caused(litellm.Timeout("no", "m", "p"), answer(504))
GARBAGE = caused(litellm.InternalServerError("no", "p", "m"), json.JSONDecodeError("x", "x", 0))
OWN_LIMIT = litellm.RateLimitError("no slot", "p", "m")
OWN_LIMIT.category = "litellm_rate_limit"


@pytest.mark.parametrize(
    ("error", "terms", "verdict"),
    [
        (REFUSED, 0, Blame.DEPLOYMENT),
        (RESET, 0, Blame.DEPLOYMENT),
        (TIMED_OUT, 0, Blame.DEPLOYMENT),
        (GARBAGE, 0, Blame.DEPLOYMENT),
        (caused(litellm.RateLimitError("no", "p", "m"), answer(429)), 0, Blame.DEPLOYMENT),
        (caused(litellm.AuthenticationError("no", "p", "m"), answer(401)), 0, Blame.DEPLOYMENT),
        (caused(litellm.APIError(403, "no", "p", "m"), answer(403)), 0, Blame.REQUEST),
        (caused(litellm.BadRequestError("no", "m", "p"), answer(400)), 0, Blame.REQUEST),
        (in_stream(400), 0, Blame.REQUEST),
        (in_stream("400"), 0, Blame.REQUEST),
        (in_stream(403), 0, Blame.REQUEST),
        (in_stream(429), 0, Blame.DEPLOYMENT),
        (in_stream("overloaded"), 0, Blame.DEPLOYMENT),
        (UNENCODABLE, 0, Blame.NOBODY),
        (MISSHAPEN, 0, Blame.NOBODY),
        (OWN_LIMIT, 0, Blame.NOBODY),
        (TIMED_OUT, Terms.TIMEOUT, Blame.CALLER),
        (GATEWAY_TIMEOUT, Terms.TIMEOUT, Blame.DEPLOYMENT),
        (REFUSED, Terms.TIMEOUT, Blame.DEPLOYMENT),
        (REFUSED, Terms.ENDPOINT, Blame.CALLER),
        (caused(litellm.AuthenticationError("no", "p", "m"), answer(401)), Terms.CREDENTIALS, Blame.CALLER),
        (litellm.RateLimitError("made up", "p", "m"), Terms.ANSWER, Blame.CALLER),
        # The deployment's own made-up answer stands for one of its server.
        (litellm.RateLimitError("made up", "p", "m"), 0, Blame.DEPLOYMENT),
    ],
)
def test_verdicts(error, terms, verdict):
    assert blame(error, Case(terms=terms)) is verdict


def test_a_program_of_its_own_is_believed():
    assert blame(ValueError("what the block raised")) is Blame.DEPLOYMENT
    assert blame(litellm.BadRequestError("no", "m", "p")) is Blame.REQUEST


def test_only_an_address_where_nobody_listens_is_certain():
    assert certain(REFUSED)
    assert not any(certain(e) for e in (RESET, TIMED_OUT, UNENCODABLE, in_stream(500)))


def test_the_error_of_an_earlier_attempt_says_nothing_about_this_one():
    earlier = caused(litellm.InternalServerError("no", "p", "m"), answer(500))
    earlier._fast_router_ended = True
    later = caused(litellm.APIConnectionError("no", "p", "m"), AttributeError("x"))
    later.__cause__.__context__ = earlier
    assert sent(earlier)
    assert not sent(later)


CALLS = {"acompletion": {"messages": [{"role": "user", "content": "x"}]}, "aembedding": {"input": "x"}}
NONSENSE = ["<html>Welcome to nginx!</html>", "", "null", "[]", '{"error": {"message": "x", "code": 500}}']


@pytest.mark.parametrize("kind", ["application/json", "text/html"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_server_that_answers_200_and_nothing_that_makes_sense_is_to_blame(monkeypatch, call, kind):
    wrong = [*NONSENSE, "{}", '{"choices": null}', '{"choices": [{}]}'] if call == "acompletion" else NONSENSE

    def server(_):
        return httpx.Response(200, text=wrong[0], headers={"content-type": kind})

    async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as client:
        monkeypatch.setattr(litellm, "aclient_session", client)
        while wrong:
            with pytest.raises(openai.APIError) as caught:
                await getattr(litellm, call)(
                    model="openai/x", api_key="k", api_base="http://nonsense/v1", max_retries=0, **CALLS[call]
                )
            assert classify(caught.value) is FailureKind.SERVER, wrong[0]
            assert blame(caught.value, Case(terms=Terms(0))) is Blame.DEPLOYMENT, wrong[0]
            wrong.pop(0)


def test_what_a_stream_says_is_what_counts():
    assert classify(in_stream(429)) is FailureKind.RATE_LIMIT
    assert classify(in_stream("busy")) is FailureKind.SERVER


async def test_an_answer_made_up_for_a_deployment_stands_for_its_servers():
    router = litellm.Router(
        model_list=[
            {
                "model_name": "m",
                "litellm_params": {"model": "openai/x", "api_key": "k", "mock_response": "litellm.RateLimitError"},
            }
        ],
        num_retries=0,
    )
    with pytest.raises(litellm.RateLimitError) as caught:
        await router.acompletion("m", [{"role": "user", "content": "x"}])
    assert sent(caught.value)
