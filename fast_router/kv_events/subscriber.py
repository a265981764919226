"""The thread that follows servers: sockets, decoding and tokens off the event loop and off every pick."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from fast_router.kv_events.server_cache import Change, ServerCache
from fast_router.kv_events.source import Endpoint, Source

__all__ = ["Subscriber"]

_log = logging.getLogger(__name__)


class Subscriber:
    """Follows any number of servers on one daemon thread.

    Args:
        exact: Whether blocks are told apart by their tokens (see `ServerCache`).
    """

    def __init__(self, *, exact: bool = False) -> None:
        self._exact = exact
        self._context = zmq.Context()
        self._sources: dict[str, Source] = {}
        self._work: deque[Callable[[], None]] = deque()
        self._closing = False
        address = f"inproc://{id(self)}"
        self._waking = threading.Lock()
        self._wake = self._context.socket(zmq.PAIR)
        self._woken = self._context.socket(zmq.PAIR)
        self._woken.bind(address)
        self._wake.connect(address)
        self._thread = threading.Thread(target=self._run, name="fast_router-kv-events", daemon=True)
        self._thread.start()

    def follow(self, name: str, endpoint: Endpoint, changed: Callable[[Change, ServerCache], None]) -> Source:
        """Follow a server; the same name again replaces it.

        Args:
            name: What to call it.
            endpoint: Where it tells its events.
            changed: Hears each change and what the cache is then, on this thread.

        Returns:
            What is known of the server; it changes on this thread.
        """
        source = Source(endpoint, exact=self._exact, changed=changed)

        def add() -> None:
            self._drop(name)
            source.open(self._context)
            self._sources[name] = source

        self.call(add)
        return source

    def leave(self, name: str) -> None:
        """Follow a server no longer."""
        self.call(lambda: self._drop(name))

    def call(self, work: Callable[[], None]) -> None:
        """Do something on the thread, soon."""
        self._work.append(work)
        with self._waking:
            if not self._closing:
                self._wake.send(b"", zmq.NOBLOCK)

    def sources(self) -> dict[str, Source]:
        """Give the servers by name, to look at."""
        return dict(self._sources)

    def close(self) -> None:
        """End the thread and close every socket."""
        with self._waking:
            if self._closing:
                return
            self._closing = True
            self._wake.send(b"", zmq.NOBLOCK)
        self._thread.join(10)
        self._wake.close(linger=0)
        self._context.destroy(linger=0)

    def _drop(self, name: str) -> None:
        source = self._sources.pop(name, None)
        if source is not None:
            source.close()

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        finally:
            for name in list(self._sources):
                self._drop(name)
            self._woken.close(linger=0)

    def _turn(self) -> None:
        poller: Any = zmq.Poller()
        poller.register(self._woken, zmq.POLLIN)
        by_socket: dict[Any, Callable[[], None]] = {}
        for source in self._sources.values():
            by_socket[source.socket] = source.read
            by_socket[source.monitor] = source.disconnected
        for socket in by_socket:
            poller.register(socket, zmq.POLLIN)
        while not self._closing:
            ready = dict(poller.poll())
            # Lost connections first: what was read after one belongs to the next life.
            for socket in sorted(
                (one for one in by_socket if one in ready), key=lambda one: one.socket_type == zmq.SUB
            ):
                self._guarded(by_socket[socket])
            if self._woken in ready:
                self._woken.recv()
                while self._work:
                    self._guarded(self._work.popleft())
                return

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - one server's oddity must not end the following of the others
            # The type alone: a message may show token ids.
            _log.warning("following KV-cache events failed: %s", type(error).__name__)
