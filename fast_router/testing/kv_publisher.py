"""A server's KV-cache events as vLLM publishes them: a PUB socket, and a ROUTER socket for what was missed.

Written after vLLM's documented format; it shares no code with what reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

from fast_router.testing.prefix_cache import Block, Change

__all__ = ["KvPublisher", "Spelling"]

Spelling = Literal["arrays", "maps"]
_END = (-1).to_bytes(8, "big", signed=True)


class KvPublisher:
    """Publishes what happens in one cache. Belongs to the event loop that starts it.

    Args:
        spelling: "arrays" as older servers write structures, with numbers for blocks; "maps" as newer ones, with bytes.
        endpoint: Where to listen; by default on loopback, on a port from the OS.
        replay: The same for the socket of what was missed.
        kept: Batches that are kept for it.

    Attributes:
        endpoint: Where events are told.
        replay: Where to ask for missed ones.
        silent: While true batches are numbered and kept, but not sent: as if the network had lost them.
    """

    def __init__(
        self,
        spelling: Spelling,
        endpoint: str = "tcp://127.0.0.1:*",
        replay: str = "tcp://127.0.0.1:*",
        kept: int = 10_000,
    ) -> None:
        import msgspec  # noqa: PLC0415
        import zmq.asyncio  # noqa: PLC0415

        self.silent = False
        self._spelling = spelling
        self._pack = msgspec.msgpack.Encoder().encode
        self._number = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=kept)
        self._context: Any = zmq.asyncio.Context()
        # Sending never waits: a subscriber that is too slow loses messages, as with a real server.
        self._pub: Any = zmq.Socket(self._context, zmq.PUB)
        self._router: Any = self._context.socket(zmq.ROUTER)
        for socket, address in ((self._pub, endpoint), (self._router, replay)):
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(address)
        self.endpoint: str = self._pub.getsockopt_string(zmq.LAST_ENDPOINT)
        self.replay: str = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._serving = asyncio.get_running_loop().create_task(self._serve())

    async def close(self) -> None:
        """Close both sockets."""
        self._serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._serving
        self._pub.close(linger=0)
        self._router.close(linger=0)
        self._context.term()

    def changed(self, change: Change, size: int) -> None:
        """Publish what one request changed: drops first, since they made the room."""
        events = []
        if change.removed:
            events.append(self._removed(change.removed))
        events += [self._stored(run, size) for run in _runs(change.stored)]
        if events:
            self._publish(events)

    def cleared(self) -> None:
        """Publish that the cache was emptied."""
        self._publish([["AllBlocksCleared"] if self._spelling == "arrays" else {"type": "AllBlocksCleared"}])

    def _stored(self, blocks: Sequence[Block], size: int) -> Any:
        names = [self._name(block.name) for block in blocks]
        parent = None if blocks[0].parent is None else self._name(blocks[0].parent)
        tokens = [token for block in blocks for token in block.tokens]
        salts = [[block.salt] if block.salt else None for block in blocks] if blocks[0].salt else None
        if self._spelling == "arrays":
            return ["BlockStored", names, parent, tokens, size, None, "GPU", None, salts]
        return {
            "type": "BlockStored",
            "block_hashes": names,
            "parent_block_hash": parent,
            "token_ids": tokens,
            "block_size": size,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": None,
            **({"extra_keys": salts} if salts else {}),
        }

    def _removed(self, names: Sequence[int]) -> Any:
        named = [self._name(name) for name in names]
        if self._spelling == "arrays":
            return ["BlockRemoved", named, "GPU"]
        return {"type": "BlockRemoved", "block_hashes": named, "medium": "GPU"}

    def _name(self, name: int) -> int | bytes:
        return name if self._spelling == "arrays" else name.to_bytes(8, "big") * 4

    def _publish(self, events: list[Any]) -> None:
        now = time.time()
        batch = (
            [now, events, 0] if self._spelling == "arrays" else {"ts": now, "events": events, "data_parallel_rank": 0}
        )
        payload = self._pack(batch)
        number, self._number = self._number, self._number + 1
        self._kept.append((number, payload))
        if not self.silent:
            self._pub.send_multipart([b"", number.to_bytes(8, "big"), payload])

    async def _serve(self) -> None:
        while True:
            who, _, first = await self._router.recv_multipart()
            start = int.from_bytes(first, "big")
            for number, payload in list(self._kept):
                if number >= start:
                    await self._router.send_multipart([who, b"", number.to_bytes(8, "big"), payload])
            await self._router.send_multipart([who, b"", _END, b""])


def _runs(blocks: Sequence[Block]) -> list[list[Block]]:
    """Split into stretches in which each block follows the one before it."""
    runs: list[list[Block]] = []
    for block in blocks:
        if runs and runs[-1][-1].name == block.parent:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs
