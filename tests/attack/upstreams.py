"""Upstreams that do what a prompt asks of them, so that one caller's requests fail and everybody else's do not."""

from __future__ import annotations

from fast_router.testing import Behaviour, Fleet, Rule, Spec

KEY = "sk-of-the-operator"
MEMBERS = ("a", "b", "c")
OWN = "own"
ANSWERS = (400, 401, 403, 408, 413, 422, 500, 502, 503, 504)


def _always(**orders):
    return {"error_rate": 1.0, **orders}


_ANY_KEY = [
    *(Rule(_always(error_status=status), contains=f"answer-{status}") for status in ANSWERS),
    Rule({"throttle_rate": 1.0}, contains="answer-429"),
    Rule({"throttle_rate": 1.0, "retry_after": 600}, contains="end-user-429"),
    Rule({"reset_rate": 1.0}, contains="answer-reset"),
    Rule({"garbage_rate": 1.0}, contains="answer-garbage"),
    Rule({"cut_rate": 1.0}, contains="answer-cut"),
    Rule({"stream_error_rate": 1.0, "error_status": 400, "cut_after": 0}, contains="break-400-at-once"),
    Rule({"stream_error_rate": 1.0, "error_status": 400}, contains="break-400"),
    Rule({"stream_error_rate": 1.0, "error_status": 500}, contains="break-500"),
    Rule({"latency": 0.1}, contains="takes-100-ms"),
    Rule({"latency": 0.3}, contains="takes-300-ms"),
    Rule({"latency": 1.0}, contains="takes-1-s"),
    Rule({"latency": 14.0}, contains="takes-14-s"),
    Rule({"per_token": 2.0}, contains="drips"),
    Rule({"hold": True}, contains="wait-for-me"),
]
_SHARED = [
    Rule(_always(error_status=401), other_key=KEY),
    Rule(_always(error_status=401), header="openai-organization"),
]
_OF_A_KEY = [
    Rule({"throttle_rate": 1.0, "retry_after": 86_400}, other_key=KEY, contains="own-429"),
    Rule(_always(error_status=500), other_key=KEY, contains="own-500"),
]
_OF_AN_ENDPOINT = [
    Rule(_always(error_status=401), contains="own-401"),
    Rule({"throttle_rate": 1.0, "retry_after": 86_400}, contains="own-429"),
    Rule(_always(error_status=500), contains="own-500"),
    Rule({"latency": 0.5}, contains="own-slow"),
]


def fleet() -> Fleet:
    """Three servers of the operator, which know one key, and one that a caller brings along."""
    shared = Behaviour(rules=(*_OF_A_KEY, *_SHARED, *_ANY_KEY))
    own = Behaviour(rules=(*_OF_AN_ENDPOINT, *_ANY_KEY))
    return Fleet([*(Spec(name=name, behaviour=shared) for name in MEMBERS), Spec(name=OWN, behaviour=own)])


def release(upstreams):
    """Let those go that are held, and hold nobody until the next test."""
    for upstream in upstreams.values():
        before = [rule for rule in upstream.behaviour.rules if not rule.orders.get("hold")]
        upstream.order(rules=before)
        upstream.order(rules=[Rule({"hold": True}, contains="wait-for-me"), *before])
