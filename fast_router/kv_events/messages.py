"""vLLM's KV-cache events as they come over the wire, in both of its spellings.

A message has three frames: topic, sequence number (8 bytes, big endian, from 0 with each start of the server), and a
batch in MessagePack: time, events, data-parallel rank. Older servers write arrays with the fields in order, newer ones
maps; fields were appended over time (vllm/distributed/kv_events.py). What is unknown is passed over, so that a newer
server's events stay readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

__all__ = ["Batch", "Cleared", "Event", "MalformedBatchError", "Name", "Removed", "Stored", "decode"]

Name = int | bytes
"""A server's name of a block: opaque."""

_BATCH = ("ts", "events", "data_parallel_rank")
_STORED = (
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
)
_REMOVED = ("block_hashes", "medium")


class MalformedBatchError(ValueError):
    """The payload is no batch of events. The message never shows what it holds: token ids are prompts."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Consecutive blocks were put into the cache.

    Attributes:
        names: Of the blocks, in the prompt's order.
        parent: Name of the block before the first of them, None at the beginning of a prompt.
        tokens: Token ids of all of them, one after the other. Not shown by repr.
        size: Tokens per block.
        plain: Whether the tokens alone make the blocks: no adapter, no salt, no image.
    """

    names: Sequence[Name]
    parent: Name | None
    tokens: Sequence[int]
    size: int
    plain: bool

    def __repr__(self) -> str:
        return f"<Stored: {len(self.names)} blocks of {self.size} tokens>"


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks were dropped from the cache.

    Attributes:
        names: Of the blocks.
    """

    names: Sequence[Name]


@dataclass(frozen=True, slots=True)
class Cleared:
    """The cache was emptied."""


Event = Stored | Removed | Cleared


@dataclass(frozen=True, slots=True)
class Batch:
    """What a server told at once.

    Attributes:
        events: In their order.
        rank: Its data-parallel rank: each has a cache of its own.
        at: When it told, by its own clock.
    """

    events: Sequence[Event]
    rank: int = 0
    at: float = 0.0


def decode(payload: bytes) -> Batch:
    """Read one batch.

    Args:
        payload: The third frame.

    Raises:
        MalformedBatchError: It is none.
    """
    try:
        batch = _fields(msgspec.msgpack.decode(payload), _BATCH)
        raw = msgspec.convert(batch["events"], list[Any])
        events = [event for one in raw if (event := _event(one)) is not None]
        return Batch(events, int(batch.get("data_parallel_rank") or 0), float(batch["ts"]))
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        msg = f"{len(payload)} bytes that are no batch of KV-cache events ({type(error).__name__})"
        raise MalformedBatchError(msg) from None


def _event(raw: Any) -> Event | None:
    if isinstance(raw, Mapping):
        kind, values = raw.get("type"), raw
    else:
        kind, *values = raw
    if kind == "BlockStored":
        said = _fields(values, _STORED)
        if not _of_this_cache(said):
            return None
        names, tokens, size = said["block_hashes"], said["token_ids"], int(said["block_size"])
        if size < 1 or len(tokens) != size * len(names):
            raise ValueError("tokens do not fill the blocks")
        bare = said.get("lora_id") is None and said.get("lora_name") is None
        plain = bare and not any(said.get("extra_keys") or ())
        return Stored([_name(one) for one in names], _parent(said["parent_block_hash"]), tokens, size, plain)
    if kind == "BlockRemoved":
        said = _fields(values, _REMOVED)
        return Removed([_name(one) for one in said["block_hashes"]]) if _of_this_cache(said) else None
    return Cleared() if kind == "AllBlocksCleared" else None


def _fields(raw: Any, names: Sequence[str]) -> Mapping[str, Any]:
    if isinstance(raw, Mapping):
        return raw
    return dict(zip(names, raw, strict=False))


def _of_this_cache(said: Mapping[str, Any]) -> bool:
    """Leave out other tiers (host memory, disk) and further groups of layers, which repeat the first."""
    return said.get("medium") in (None, "GPU") and not said.get("group_idx")


def _name(raw: Any) -> Name:
    if isinstance(raw, (int, bytes)):
        return raw
    raise TypeError(type(raw).__name__)


def _parent(raw: Any) -> Name | None:
    return None if raw is None else _name(raw)
