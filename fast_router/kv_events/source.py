"""One server's stream of events: sequence numbers, gaps, restarts.

The first message says how much was missed; what was missed is asked for at the replay socket, which keeps the last
10,000 batches. After a lost connection everything is asked for anew: the server may have been another one since.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zmq

from fast_router.kv_events.messages import Batch, MalformedBatchError, decode
from fast_router.kv_events.server_cache import Change, ServerCache

__all__ = ["Endpoint", "Source", "State"]

_END = (-1).to_bytes(8, "big", signed=True)
_PATIENCE = 2000  # milliseconds for each answer of a replay socket
_HIGH_WATER = 100_000


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server tells its events.

    Attributes:
        events: Address of its PUB socket, such as tcp://10.0.0.1:5557.
        replay: Address of its ROUTER socket for what was missed, None if it has none.
        topic: Topic to subscribe to.
    """

    events: str
    replay: str | None = None
    topic: str = ""


@dataclass(slots=True)
class State:
    """How following goes.

    Attributes:
        batches: Batches that were taken in.
        gaps: Times that batches were missing.
        replayed: Batches that were asked for and came.
        lost: Times that batches were missing for good: what the cache holds is known in part.
        restarts: Times that the server began anew.
        malformed: Messages that were no batch.
    """

    batches: int = 0
    gaps: int = 0
    replayed: int = 0
    lost: int = 0
    restarts: int = 0
    malformed: int = 0


class Source:
    """Follows one server. Belongs to the thread that polls its sockets.

    Args:
        endpoint: The server's.
        exact: Whether to work out keys of blocks.
        changed: Hears each change and what the cache is then. Called on this thread.

    Attributes:
        cache: What the server holds.
        state: How following goes.
        socket: To poll for events.
        monitor: To poll for lost connections.
    """

    def __init__(self, endpoint: Endpoint, *, exact: bool, changed: Callable[[Change, ServerCache], None]) -> None:
        self.endpoint = endpoint
        self.cache = ServerCache(exact=exact)
        self.state = State()
        self._context: Any = None
        self._changed = changed
        self._next = 0
        self._last = float("-inf")  # time of the last batch, by the server's clock
        self._fresh = True  # nothing was heard since the connection was made
        self.socket: Any = None
        self.monitor: Any = None

    def open(self, context: Any) -> None:
        """Open its sockets.

        Args:
            context: ZMQ's.
        """
        self._context = context
        self.socket = context.socket(zmq.SUB)
        self.socket.set_hwm(_HIGH_WATER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self.socket.setsockopt(zmq.SUBSCRIBE, self.endpoint.topic.encode())
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket.connect(self.endpoint.events)

    def close(self) -> None:
        """Close its sockets."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)

    def disconnected(self) -> None:
        """The connection was lost: what comes next may be a server that began anew."""
        with contextlib.suppress(zmq.Again):
            while True:
                self.monitor.recv_multipart(zmq.NOBLOCK)
                self._fresh = True

    def read(self) -> None:
        """Take in all messages that are there."""
        with contextlib.suppress(zmq.Again):
            while True:
                self._message(self.socket.recv_multipart(zmq.NOBLOCK))

    def _message(self, frames: list[bytes]) -> None:
        if len(frames) != 3 or len(frames[1]) != 8:
            self.state.malformed += 1
            return
        number = int.from_bytes(frames[1], "big")
        batch = self._decoded(frames[2])
        if batch is None:
            # Its number counts as heard: asking for it again brings the same bytes.
            self._next = max(self._next, number + 1)
            return
        if self._fresh or number < self._next:
            if not self._fresh and batch.at <= self._last:
                return  # heard before, from the replay socket
            self._begin(number, batch)
            return
        if number > self._next:
            self.state.gaps += 1
            missing = self._replay(self._next, number)
            if [one for one, _ in missing] != list(range(self._next, number)):
                # The drops among them would leave blocks here for ever that the server has no longer.
                self.state.lost += 1
                self._forget(Change(unsure=True))
                self.cache.unsure = True
            self._take(missing)
        self._take([(number, batch)])

    def _begin(self, number: int, batch: Batch) -> None:
        """First message of a connection, or of a server that began anew."""
        self._fresh = False
        known, last = self._next, self._last
        earlier = self._replay(0, number) if number else []
        same = known and any(one == known - 1 and each.at == last for one, each in earlier)
        if known and not same:
            self.state.restarts += 1
        if same:
            self._take([(one, each) for one, each in earlier if one >= known])
        else:
            self._next, self._last = 0, float("-inf")
            if known:
                self._forget(Change(cleared=True))
            if len(earlier) < number:
                self.state.lost += 1
                self.cache.unsure = True
            self._take(earlier)
        self._take([(number, batch)])

    def _forget(self, why: Change) -> None:
        self.cache.clear()
        self._changed(why, self.cache)

    def _take(self, batches: list[tuple[int, Batch]]) -> None:
        if not batches:
            return
        number, last = batches[-1]
        self._next, self._last = number + 1, last.at
        self.state.batches += len(batches)
        self._changed(self.cache.apply(batch for _, batch in batches), self.cache)

    def _decoded(self, payload: bytes) -> Batch | None:
        try:
            return decode(payload)
        except MalformedBatchError:
            self.state.malformed += 1
            return None

    def _replay(self, first: int, until: int) -> list[tuple[int, Batch]]:
        """Ask for the batches from number `first` on, and return those before `until`."""
        if self.endpoint.replay is None:
            return []
        # A socket of its own: what a slow answer leaves behind goes with it. DEALER and not REQ, since one question
        # has many answers.
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        found: list[tuple[int, Batch]] = []
        try:
            socket.connect(self.endpoint.replay)
            socket.send_multipart([b"", first.to_bytes(8, "big")])
            while socket.poll(_PATIENCE):
                frames = socket.recv_multipart()
                if len(frames) != 3 or frames[1] == _END:
                    break
                number = int.from_bytes(frames[1], "big")
                batch = self._decoded(frames[2]) if first <= number < until else None
                if batch is not None:
                    found.append((number, batch))
        finally:
            socket.close(linger=0)
        self.state.replayed += len(found)
        return found
