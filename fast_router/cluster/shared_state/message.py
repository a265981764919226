"""What instances tell each other: small JSON messages that old and new versions can both read.

A message says everything about one instance of that kind (never a difference, `calls` apart), so a lost one is healed
by the next. Readers take what they understand, ignore what they do not, and never trust a number: another
version, or another program, may have written it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from fast_router.cluster.shared_state.calls import Calls

__all__ = ["PROTOCOL", "Digest", "Message", "decode", "encode", "short_id"]

PROTOCOL: Final = 1
"""Readers of this protocol understand every message whose `p` is not above it."""

_LARGEST_MESSAGE: Final = 8 * 1024 * 1024
_MOST_DEPLOYMENTS: Final = 100_000
_LONGEST_ID: Final = 64
_LARGEST_NUMBER: Final = 1e15

Digest = tuple[float, float, float, float]
"""Latency (seconds a token), its weight (samples), seconds to the first token, its weight (samples)."""


@dataclass
class Message:
    """One message.

    Attributes:
        kind: `load` (often), `full` (each second, with latency), `rest` (at once), `calls` (often) or `bye`.
        instance: Who sent it; a new one for each process and start.
        sequence: Grows with each message of the instance.
        stamp: When it was sent, seconds of the Redis server's clock; 0 if the sender did not know it.
        load: Deployment → open leases.
        minute: The minute of `usage`, minutes since the epoch by the Redis server's clock.
        usage: Deployment → requests and tokens in that minute.
        latency: Deployment → digest.
        rests: Deployment → seconds that it rests from now on; 0 wakes it.
        about: Host, process id and version, for people.
        calls: What became of calls whose prompts matter.
    """

    kind: str
    instance: str
    sequence: int
    stamp: float = 0.0
    load: dict[str, int] = field(default_factory=dict)
    minute: int = -1
    usage: dict[str, tuple[float, float]] = field(default_factory=dict)
    latency: dict[str, Digest] = field(default_factory=dict)
    rests: dict[str, float] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    calls: Calls | None = None


def short_id(deployment_id: str) -> str:
    """The id as it travels: itself if short, else 16 characters of its hash (LiteLLM's ids have 64)."""
    if len(deployment_id) <= 24:
        return deployment_id
    return blake2b(deployment_id.encode(), digest_size=8).hexdigest()


def encode(message: Message) -> bytes:
    """The message as it travels; empty parts are left out."""
    out: dict[str, Any] = {
        "p": PROTOCOL,
        "k": message.kind,
        "i": message.instance,
        "n": message.sequence,
        "t": round(message.stamp, 3),
    }
    if message.load:
        out["l"] = message.load
    if message.usage:
        out["m"] = message.minute
        out["u"] = message.usage
    if message.latency:
        out["d"] = message.latency
    if message.rests:
        out["r"] = message.rests
    if message.about:
        out["a"] = message.about
    if message.calls is not None:
        out["s"], out["c"] = message.calls.servers, message.calls.data
    return json.dumps(out, separators=(",", ":")).encode()


def decode(raw: object) -> Message | None:
    """The message, None if `raw` is none that this version can read. Never raises."""
    if not isinstance(raw, (bytes, str)) or len(raw) > _LARGEST_MESSAGE:
        return None
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    protocol, kind, instance = data.get("p"), data.get("k"), data.get("i")
    if not isinstance(protocol, int) or protocol > PROTOCOL or protocol < 1:
        return None
    if not isinstance(kind, str) or not isinstance(instance, str) or not 0 < len(instance) <= _LONGEST_ID:
        return None
    sequence, minute = data.get("n"), data.get("m", -1)
    if not isinstance(sequence, int) or isinstance(sequence, bool):
        return None
    return Message(
        kind=kind,
        instance=instance,
        sequence=sequence,
        stamp=_number(data.get("t")) or 0.0,
        load={key: int(n) for key, value in _items(data.get("l")) if (n := _number(value)) is not None},
        minute=minute if isinstance(minute, int) else -1,
        usage={
            key: (numbers[0], numbers[1])
            for key, value in _items(data.get("u"))
            if (numbers := _numbers(value, 2)) is not None
        },
        latency={
            key: (numbers[0], numbers[1], numbers[2], numbers[3])
            for key, value in _items(data.get("d"))
            if (numbers := _numbers(value, 4)) is not None
        },
        rests={key: n for key, value in _items(data.get("r")) if (n := _number(value)) is not None},
        about={
            str(key)[:_LONGEST_ID]: str(value)[:_LONGEST_ID]
            for key, value in _items(data.get("a"))
            if isinstance(value, str)
        },
        calls=_calls(data.get("s"), data.get("c")),
    )


def _calls(servers: object, data: object) -> Calls | None:
    if not isinstance(servers, list) or not isinstance(data, str) or len(servers) > _MOST_DEPLOYMENTS:
        return None
    if not all(isinstance(server, str) and len(server) <= _LONGEST_ID for server in servers):
        return None
    return Calls(servers, data)


def _items(value: object) -> list[tuple[str, object]]:
    if not isinstance(value, Mapping) or len(value) > _MOST_DEPLOYMENTS:
        return []
    return [(key, item) for key, item in value.items() if isinstance(key, str) and len(key) <= _LONGEST_ID]


def _number(value: object) -> float | None:
    """A finite number, at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not math.isfinite(value) or value > _LARGEST_NUMBER:
        return None
    return max(value, 0)


def _numbers(value: object, count: int) -> list[float] | None:
    """The first `count` numbers of a list that may be longer in a later version."""
    if not isinstance(value, list) or len(value) < count:
        return None
    numbers = [_number(item) for item in value[:count]]
    return None if None in numbers else [n for n in numbers if n is not None]
