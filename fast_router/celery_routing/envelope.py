"""What travels between an API process and a routing worker: names, the task's envelope, the replies.

The envelope is Celery's message protocol, version 2
(https://docs.celeryq.dev/en/stable/internals/protocol.html), built by hand: Celery's own `apply_async`
spends three times as long on the same bytes. A test keeps a Celery worker accepting it. No part of it is
an absolute time, because the clocks of two machines disagree: what is too old is told by the broker's
relative expiry and by the mark that a request leaves when it is given up.
"""

from __future__ import annotations

import base64
import bisect
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

from fast_router.celery_routing.settings import Candidate, CelerySettings

__all__ = [
    "MEMORY_MS",
    "REDIS_STEPS",
    "TASK",
    "VISIBILITY",
    "Keys",
    "Reply",
    "amqp_headers",
    "body",
    "lua",
    "parse_reply",
    "queue_name",
    "redis_envelope",
    "redis_queue",
    "redis_queues",
    "request_of",
]

TASK = "fast_router.route"

# How long a request id is remembered, ms: longer than any copy of its task may be under way (a message
# expires within the deadline; the Redis transport gives one back after VISIBILITY seconds).
MEMORY_MS = 90_000
VISIBILITY = 30

# kombu's Redis transport keeps one list per priority step, the smallest number first.
REDIS_STEPS = (0, 3, 6, 9)
_REDIS_SEPARATOR = "\x06\x16"

# AMQP allows 255 bytes for a queue's name.
_LONGEST_NAME = 200


def queue_name(settings: CelerySettings, model: str) -> str:
    """The queue of a model: `router.<model>`, shortened with a digest where AMQP has no room for it."""
    name = f"{settings.queue_prefix}.{model}"
    raw = name.encode()
    if len(raw) <= _LONGEST_NAME:
        return name
    digest = hashlib.blake2b(raw, digest_size=8).hexdigest()
    return raw[: _LONGEST_NAME - 17].decode(errors="ignore") + "-" + digest


def redis_queue(queue: str, priority: int, most: int) -> str:
    """The Redis list that kombu reads for this queue and priority (0 lowest … `most` highest)."""
    rank = round((1 - min(max(priority, 0), most) / most) * 9)
    return redis_queues(queue)[bisect.bisect_right(REDIS_STEPS, rank) - 1]


def redis_queues(queue: str) -> list[str]:
    """All Redis lists that make up one queue, the most urgent first."""
    return [f"{queue}{_REDIS_SEPARATOR}{step}" if step else queue for step in REDIS_STEPS]


class Keys:
    """Every Redis key of Celery routing, under one versioned prefix.

    The scripts build the same names: `load:<provider>` (reservations by expiry), `stat:<provider>`
    (decayed sums), `req:<request>` (who holds it, or "-" when it is over).
    """

    def __init__(self, settings: CelerySettings) -> None:
        self.prefix = settings.key_prefix
        self.models = f"{self.prefix}:models"

    def reply(self, process: str) -> str:
        """The list on which one API process waits for its answers."""
        return f"{self.prefix}:reply:{process}"

    def load(self, provider: str) -> str:
        """The reservations of one provider: request id → when it lapses (server clock, ms)."""
        return f"{self.prefix}:load:{provider}"

    def stat(self, provider: str) -> str:
        """The measurements of one provider."""
        return f"{self.prefix}:stat:{provider}"

    def look(self, server: str) -> str:
        """Who reads the queue of a server for now."""
        return f"{self.prefix}:look:{server}"

    def request(self, rid: str) -> str:
        """The state of one request."""
        return f"{self.prefix}:req:{rid}"


def request_of(rid: str, reply_to: str, model: str, strategy: str, candidates: Sequence[Candidate]) -> dict[str, str]:
    """What a worker needs to decide one request."""
    return {
        "id": rid,
        "reply_to": reply_to,
        "model": model,
        "strategy": strategy,
        # Text within text: the worker hands it to the script without reading it.
        "candidates": json.dumps([candidate.wire() for candidate in candidates], separators=(",", ":")),
    }


def body(requests: Sequence[dict[str, str]]) -> bytes:
    """The body of a task that carries these requests: one argument, and Celery's empty embeds."""
    return json.dumps(
        ([requests], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}),
        separators=(",", ":"),
        ensure_ascii=False,
    ).encode()


def amqp_headers(rid: str) -> dict[str, Any]:
    """The headers by which a Celery worker knows a protocol-2 task."""
    return {
        "lang": "py",
        "task": TASK,
        "id": rid,
        "root_id": rid,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "eta": None,
        "expires": None,
        "timelimit": [None, None],
        "argsrepr": "",
        "kwargsrepr": "",
        "origin": "fast_router",
        "ignore_result": True,
    }


def redis_envelope(rid: str, tag: str, queue: str, payload: bytes) -> str:
    """The same message as kombu's Redis transport stores it; `tag` is unique for each message."""
    return json.dumps(
        {
            "body": base64.b64encode(payload).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": amqp_headers(rid),
            "properties": {
                "correlation_id": rid,
                "reply_to": "",
                "delivery_mode": 1,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": tag,
            },
        },
        separators=(",", ":"),
    )


class Reply(NamedTuple):
    """An answer of a worker.

    Attributes:
        rid: The request's id.
        provider: Who was granted, None if every provider is at its limit.
        wait: With no provider: seconds until one may be free, 0 for unknown.
    """

    rid: str
    provider: str | None
    wait: float


def parse_reply(raw: bytes | str) -> Reply:
    """Read what lua/decide.lua wrote.

    Raises:
        ValueError: Somebody else wrote to the list.
    """
    text = raw.decode() if isinstance(raw, bytes) else raw
    rid, kind, rest = text.split(" ", 2)
    if kind == "G":
        return Reply(rid, rest, 0.0)
    if kind == "B":
        return Reply(rid, None, float(rest) / 1000)
    raise ValueError(f"unknown reply kind {kind!r}")


def lua(name: str) -> str:
    """The text of a script of this package: `decide`, `settle`, `hold` or `observe`."""
    return (
        resources.files("fast_router.celery_routing")
        .joinpath("lua")
        .joinpath(f"{name}.lua")
        .read_text(encoding="utf-8")
    )
