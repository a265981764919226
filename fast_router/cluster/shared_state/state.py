"""Shared state: one background loop per process, off the way of every request.

The loop has a thread and an event loop of its own. In each interval it makes at most one round trip: the
`Exchange` says what to send. What others say arrives by a subscription. When Redis is away each process decides
with what it knows itself; the loop tries again at least twice a second and then says and asks everything anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from fast_router import operator_holds
from fast_router.cluster.shared_state.exchange import Exchange
from fast_router.cluster.shared_state.options import ClusterOptions
from fast_router.cluster.shared_state.rate_limited_log import QuietLog
from fast_router.cluster.shared_state.redis_link import Link, Target
from fast_router.cluster.shared_state.round_trip import Batch, code
from fast_router.cluster.shared_state.write_behind import succeed, unregister
from fast_router.cluster.strict_limits.limits import StrictLimits
from fast_router.engine import outside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fast_router.engine import Deployment, Engine
    from fast_router.operator_holds import Hold

__all__ = ["ClusterState"]

_log = logging.getLogger("fast_router.cluster")

_ECHO_AFTER: Final = 2.0
"""Heartbeats without our own messages coming back after which the subscription counts as dead, plus as many seconds."""
_RETRY: Final = (0.05, 0.1, 0.2, 0.4, 0.5)
"""Seconds between attempts to connect: the state must be whole 2 s after Redis came back."""
_REPLICA_AFTER: Final = 2.0
"""Seconds after which a connection to a read-only server is made anew, in case there is a new primary."""

_states: weakref.WeakSet[ClusterState] = weakref.WeakSet()


class ClusterState:
    """The shared state of one engine. Make it with `fast_router.cluster.attach`.

    Args:
        engine: Whose state is shared.
        target: Where Redis is.
        options: How often, how long.
    """

    def __init__(self, engine: Engine, target: Target, options: ClusterOptions) -> None:
        self.options = options
        self.target = target
        self.engine = engine
        self.limits: StrictLimits | None = StrictLimits(self) if options.limits == "strict" else None
        self._closed = False
        self._begin()
        engine.on_rest.append(self._rested)
        engine.on_wake.append(self._woken)
        operator_holds.listeners.append(self._ordered)
        _states.add(self)

    def _begin(self) -> None:
        """Everything that belongs to one process: made again after a fork."""
        self.quiet = QuietLog(_log)
        self.exchange = Exchange(self.engine, self.target, self.options)
        self.link: Link | None = None
        self._away_since: float | None = time.time()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._counts = {"connects": 0, "errors": 0, "commands": 0, "round_trips": 0}
        if self.limits is not None:
            self.limits.begin()

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the background loop of this process, unless it runs."""
        with self._start_lock:
            if self._closed or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._main, name="fast-router-cluster", daemon=True)
            self._thread.start()

    def close(self, timeout: float = 2.0) -> None:
        """Say good-bye and stop; what the others hold no longer counts here.

        Args:
            timeout: Seconds to wait for the good-bye.
        """
        self._closed = True
        with contextlib.suppress(ValueError):
            self.engine.on_rest.remove(self._rested)
            self.engine.on_wake.remove(self._woken)
        with contextlib.suppress(ValueError):
            operator_holds.listeners.remove(self._ordered)
        if self.limits is not None:
            self.limits.close()
        if self.exchange.behind is not None:
            unregister(self.exchange.behind)
        self.nudge()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        self.exchange.fleet.forget()
        self.exchange.apply()
        self.exchange.calls.close()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    @property
    def connected(self) -> bool:
        """True while Redis answers."""
        return self.link is not None

    @property
    def reads_cooldowns(self) -> bool:
        """True if LiteLLM's cooldown keys are read here."""
        return self.exchange.litellm is not None

    def status(self) -> dict[str, Any]:
        """What `fast_router.status()` shows; json-able, without secrets.

        Returns:
            Where Redis is, whether it answers (or since when it does not, in Unix seconds), who else is there (host,
            pid, seconds since it was heard, open leases), counters, the current interval in seconds.
        """
        exchange = self.exchange
        return {
            "redis": self.target.name,
            "connected": self.connected,
            "away_since": None if self.connected else self._away_since,
            "instance": exchange.instance,
            "instances": exchange.fleet.instances(time.monotonic()),
            "outside": sum(exchange.fleet.load().values()),
            "limits": "local" if self.limits is None else self.limits.status(),
            "interop": exchange.litellm is not None,
            "interval": round(exchange.pace, 3),
            **self._counts,
            **exchange.counts,
        }

    def nudge(self) -> None:
        """Wake the loop: something should travel at once. From any thread."""
        loop, wake = self.loop, self._wake
        if loop is not None and wake is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(wake.set)

    def _rested(self, deployment: Deployment) -> None:
        # Called by the engine, on whatever thread a request failed.
        if not self.exchange.port.echo and not self.engine.untold(deployment.id):
            self.exchange.outbox.append(deployment)
            self.nudge()

    def _ordered(self, new: Sequence[Hold], gone: Sequence[Hold]) -> None:
        # What is replaced goes first: an order about the same has the same field.
        self.exchange.orders.extend((False, hold) for hold in gone)
        self.exchange.orders.extend((True, hold) for hold in new)
        self.nudge()

    def _woken(self, deployment: Deployment) -> None:
        if not self.exchange.port.echo:
            self.exchange.woken.append(deployment)
            self.nudge()

    # -- the loop --------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as error:  # noqa: BLE001 - the last net: routing goes on without shared state
            self.quiet.trouble("shared state stopped", error)
        finally:
            self.loop = self._wake = self.link = None

    async def _run(self) -> None:
        self._wake = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        failures = 0
        while not self._closed:
            connects = self._counts["connects"]
            try:
                await self._session()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may work
                self._answers(False)  # also where there was no connection yet, which is how it may begin
                self._counts["errors"] += 1
                failures = 0 if self._counts["connects"] > connects else failures + 1
                self.quiet.trouble(
                    f"shared state: Redis at {self.target.name} is away, this process decides alone", error
                )
            await self._pause(_RETRY[min(failures, len(_RETRY) - 1)])

    async def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._closed and (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.1))
        self.exchange.expire()

    async def _session(self) -> None:
        link = await asyncio.wait_for(Link.open(self.target, self.exchange.channel), 2 * self.options.timeout)
        listener: asyncio.Task[None] | None = None
        try:
            self.exchange.reconnected()
            await self._turn(link)
            self.link = link
            self._answers(True)
            self._counts["connects"] += 1
            self.quiet.well(f"shared state: Redis at {self.target.name} is back")
            listener = asyncio.create_task(self._listen(link))
            await self._converse(link, listener)
            await self._farewell(link)
        finally:
            if self.link is not None:
                self.link, self._away_since = None, time.time()
            self._answers(False)
            if listener is not None:
                listener.cancel()
                await asyncio.wait([listener])
            await link.close()

    def _answers(self, well: bool) -> None:
        behind = self.exchange.behind
        if behind is not None:
            behind.away = not well

    async def _converse(self, link: Link, listener: asyncio.Task[None]) -> None:
        began = time.monotonic()
        silence = _ECHO_AFTER + 2 * self.options.heartbeat
        while not self._closed:
            await self._wait(listener)
            if listener.done():
                listener.result()
                return
            self.exchange.expire()
            errors = await self._turn(link)
            now = time.monotonic()
            if now - self.exchange.heard_myself > silence:
                raise ConnectionError("the subscription brings nothing back")
            if now - began > _REPLICA_AFTER and any(code(e) == "READONLY" for e in errors):
                raise ConnectionError("the server is read-only")

    async def _wait(self, listener: asyncio.Task[None]) -> None:
        wake = self._wake
        if wake is not None:
            if not wake.is_set() and not listener.done():
                with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                    await asyncio.wait_for(wake.wait(), self.options.interval)
            wake.clear()

    async def _turn(self, link: Link) -> list[Exception]:
        batch = Batch()
        self.exchange.collect(batch)
        if self.limits is not None:
            self.limits.upkeep(batch)
        return await self._send(link, batch)

    async def _send(self, link: Link, batch: Batch) -> list[Exception]:
        if not batch.commands:
            return []
        self._counts["commands"] += len(batch.commands)
        self._counts["round_trips"] += 1
        answers = await asyncio.wait_for(link.commands(batch.commands), self.options.timeout)
        errors = batch.deliver(answers)
        if errors:
            # Full, read-only, wrong type: what works goes on (publishing needs no memory), the rest is logged.
            self._counts["errors"] += 1
            self.quiet.trouble(f"shared state: Redis at {self.target.name} refuses a command: {code(errors[0])}")
        return errors

    async def _listen(self, link: Link) -> None:
        while True:
            item = await link.subscription.get_message(ignore_subscribe_messages=True, timeout=1.0)
            if item is not None and item.get("type") == "message":
                self.exchange.hear(item.get("data"))

    async def _farewell(self, link: Link) -> None:
        batch = Batch()
        self.exchange.farewell(batch)
        if self.limits is not None:
            self.limits.farewell(batch)
        with contextlib.suppress(Exception):
            await self._send(link, batch)

    # -- fork ------------------------------------------------------------------------------------

    def forked(self) -> None:
        """Begin anew in a child process: the parent's thread, connections and identity are not ours."""
        if self._closed:
            return
        old = self.exchange.behind
        self._begin()
        succeed(old, self.exchange.behind)
        # What the parent heard is not ours to keep: the child hears it anew.
        outside.set_loads(self.engine, {d.id: 0.0 for d in self.engine.deployments.values() if d.outside})
        self.start()


# The background thread takes the engine's lock now and then. A fork at that moment would leave the child with a
# lock that nobody holds: so the forking thread takes all of them first.
_held: list[ClusterState] = []


def _before_fork() -> None:
    for state in list(_states):
        state.engine.lock.acquire()
        _held.append(state)


def _after_in_parent() -> None:
    while _held:
        _held.pop().engine.lock.release()


def _after_in_child() -> None:
    states = list(_held)
    _after_in_parent()
    for state in states:
        with contextlib.suppress(Exception):
            state.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
