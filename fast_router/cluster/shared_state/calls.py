"""What became of calls, as it travels: a few bytes for each, and four for each block of a prompt.

Bounded and never trusted: another version, or another program, may have written it.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from fast_router.engine.prefix_cache.event import Event, What
from fast_router.engine.prefix_cache.prompt import Prompt

__all__ = ["MOST", "Calls", "pack", "unpack"]

MOST: Final = 4096
"""Events that wait to be told, at the most; what is older is left out."""
LARGEST: Final = 128 * 1024
"""Bytes of one message, before they are written as text, at the most (and one prompt more)."""
OLDEST: Final = 10.0
"""Seconds after which an event is not told any more: it is of no use to anybody."""
_MOST_TOKENS: Final = 4_000_000

_HEAD: Final = struct.Struct("<BHII")
"""What, whose (a place in `servers`), the call's number, milliseconds ago."""
_SENT: Final = struct.Struct("<IIBBH")
"""Of a call that was sent: tokens, bytes of text, how finely it was cut, whether it streams and whether its tokens were
counted, and how many checksums of blocks follow."""
_STREAM: Final = 1
_COUNTED: Final = 2


@dataclass
class Calls:
    """One message's worth.

    Attributes:
        servers: Deployments, by the ids that travel.
        data: The events, base64.
    """

    servers: list[str]
    data: str


def pack(outbox: deque[Event], now: float, short: Callable[[str], str]) -> Calls:
    """Take as much out of `outbox` as one message holds.

    Args:
        outbox: What is to be told, the oldest first; other threads add to its end.
        now: The engine's clock, seconds.
        short: The id that travels, by deployment id.
    """
    places: dict[str, int] = {}
    data = bytearray()
    while outbox and len(data) < LARGEST and len(places) < 0xFFFF:
        event = outbox.popleft()
        ago = now - event.at
        if ago > OLDEST:
            continue
        place = places.setdefault(event.server, len(places))
        data += _HEAD.pack(event.what, place, event.number & 0xFFFFFFFF, max(0, round(1000 * ago)))
        if event.what is What.SENT:
            data += _prompt(event)
    return Calls([short(server) for server in places], base64.b64encode(data).decode("ascii"))


def _prompt(event: Event) -> bytes:
    prompt = event.prompt
    sums: list[int] = []
    length = cut = flags = 0
    if event.stream:
        flags |= _STREAM
    if prompt is not None:
        sums, length, cut = prompt.sums, prompt.length, prompt.finer
        if prompt.counted:
            flags |= _COUNTED
    tokens = min(_MOST_TOKENS, max(0, round(event.tokens)))
    head = _SENT.pack(tokens, min(length, 0xFFFFFFFF), cut, flags, len(sums))
    return head + struct.pack(f"<{len(sums)}I", *sums)


def unpack(calls: Calls, now: float) -> Iterator[Event]:
    """Read what was packed, as far as it can be read. Never raises.

    Args:
        calls: As it came.
        now: The clock of the engine that hears it, seconds.
    """
    try:
        data = base64.b64decode(calls.data, validate=True)
    except (binascii.Error, ValueError):
        return
    at = 0
    try:
        while at < len(data):
            what, place, number, ago = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            tokens, stream, prompt = 0, False, None
            if what == What.SENT:
                tokens, length, cut, flags, count = _SENT.unpack_from(data, at)
                at += _SENT.size
                sums = struct.unpack_from(f"<{count}I", data, at)
                at += 4 * count
                stream = bool(flags & _STREAM)
                tokens = min(tokens, _MOST_TOKENS)
                if count:
                    prompt = Prompt.known(sums, length, tokens, cut, counted=bool(flags & _COUNTED))
            if ago <= 1000 * OLDEST:
                yield Event(What(what), calls.servers[place], number, now - ago / 1000, tokens, stream, prompt)
    except (struct.error, IndexError, ValueError):
        return  # cut off, or of a version that we do not know: what came before it counts
