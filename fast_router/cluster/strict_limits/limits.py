"""`limits: strict`: each request is admitted by Redis, so that the fleet together keeps rpm, tpm and parallel limits.

One round trip admits a request to the first candidate that has room (`lua/admit.lua`). Slots are reservations
with an owner and an end: the background loop renews those of living leases, so a crashed process's slots are
free again after their lifetime. If Redis does not answer in time the process decides by what it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from fast_router.cluster.shared_state.round_trip import code
from fast_router.cluster.strict_limits.scripts import Caps, admit_call, release_call, spend_call
from fast_router.engine.deployment import SPENT

if TYPE_CHECKING:
    from fast_router.cluster.shared_state.exchange import Exchange
    from fast_router.cluster.shared_state.options import ClusterOptions
    from fast_router.cluster.shared_state.rate_limited_log import QuietLog
    from fast_router.cluster.shared_state.redis_link import Link
    from fast_router.cluster.shared_state.round_trip import Batch
    from fast_router.engine import Deployment, Engine, Lease

__all__ = ["Admission", "StrictLimits", "caps_of"]

_AWAY: Final = 1.0
"""Seconds for which nobody asks again after an admission was not answered in time."""


_FULL_FOR: Final = 0.1
"""Seconds for which a deployment without a free slot is not asked again."""


@dataclass(frozen=True)
class Admission:
    """What came of asking for admission.

    Attributes:
        deployment: Who takes the request; None if every candidate is at its limit.
        reservation: Name of the reserved slot, None if no slot is needed.
        minute: The server's minute in which it was admitted.
        retry_after: Seconds until a candidate's minute begins anew, None if that is not known.
    """

    deployment: Deployment | None
    reservation: str | None = None
    minute: int = -1
    retry_after: float | None = None


@dataclass
class _Held:
    """A slot, and the lease that it belongs to."""

    short: str
    minute: int
    reserved: float
    lease: weakref.ref[Lease] | None


@dataclass
class _Asked:
    """An admission that waits for its answer."""

    candidates: list[tuple[str, Caps]]
    reservation: str
    tokens: float
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Shared(Protocol):
    """The part of the shared state that strict limits need: where Redis is, and how to reach its thread."""

    link: Link | None
    loop: asyncio.AbstractEventLoop | None

    @property
    def engine(self) -> Engine:
        """Whose leases are limited."""

    @property
    def exchange(self) -> Exchange:
        """Names and clock of the fleet."""

    @property
    def options(self) -> ClusterOptions:
        """Timeouts."""

    @property
    def quiet(self) -> QuietLog:
        """Where trouble is told, at most once a minute."""

    def nudge(self) -> None:
        """Have the round that is due run now."""


class StrictLimits:
    """Asks Redis to admit requests, and gives their slots back.

    Args:
        state: The shared state that it belongs to.
    """

    def __init__(self, state: Shared) -> None:
        self._state = state
        self.begin()
        state.engine.on_release.append(self._released)

    def begin(self) -> None:
        """Begin without any slot: a new process."""
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._names: weakref.WeakKeyDictionary[Lease, str] = weakref.WeakKeyDictionary()
        self._releases: deque[tuple[str, _Held]] = deque(maxlen=100_000)
        self._asked: deque[_Asked] = deque()
        self._asking = False
        self._away_until = 0.0
        self._renew_at = 0.0
        self._spent: dict[str, float] = {}
        self._spent_minute = -1
        self._counts = {"admitted": 0, "refused": 0, "alone": 0}

    def close(self) -> None:
        """Stop following leases."""
        if self._released in self._state.engine.on_release:
            self._state.engine.on_release.remove(self._released)

    def status(self) -> dict[str, Any]:
        """Counters and open slots."""
        return {"mode": "strict", "slots": len(self._held), **self._counts}

    # -- asking ----------------------------------------------------------------------------------

    async def admit(self, candidates: Sequence[Deployment], *, tokens: float = 0.0) -> Admission | None:
        """Admit one request to the first candidate with room, in one round trip.

        Args:
            candidates: In the order of preference.
            tokens: Tokens to reserve for it (the prompt's, if known).

        Returns:
            The admission; None if Redis did not answer within `admission_timeout`: then decide alone.
        """
        if not candidates:
            return Admission(None)
        if not caps_of(candidates[0]).any:
            return Admission(candidates[0])
        state = self._state
        loop = state.loop
        if state.link is None or loop is None or time.monotonic() < self._away_until:
            self._counts["alone"] += 1
            return None
        port = state.exchange.port
        asked = _Asked(
            [(port.short(d.id), caps_of(d)) for d in candidates],
            secrets.token_hex(8),
            tokens,
            asyncio.get_running_loop().create_future(),
            asyncio.get_running_loop(),
        )
        self._ask(asked, loop)
        try:
            answer = await asyncio.wait_for(asked.future, state.options.admission_timeout)
        except (TimeoutError, asyncio.TimeoutError, ConnectionError):
            self._away_until = time.monotonic() + _AWAY
            self._counts["alone"] += 1
            # It may have been admitted all the same: its slot must not stay until it runs out.
            for short, _ in asked.candidates:
                self._releases.append((asked.reservation, _Held(short, -1, 0.0, None)))
            return None
        place, number = int(answer[0]), int(answer[1])
        if place == 0:
            self._counts["refused"] += 1
            return Admission(None, retry_after=number / 1000 if number else None)
        self._counts["admitted"] += 1
        return Admission(candidates[place - 1], asked.reservation, number)

    def bind(self, admission: Admission, lease: Lease, *, tokens: float = 0.0) -> None:
        """Tie the slot of `admission` to `lease`: it is given back when the lease is released."""
        if admission.reservation is None:
            return
        held = _Held(self._state.exchange.port.short(lease.deployment.id), admission.minute, tokens, weakref.ref(lease))
        with self._lock:
            self._held[admission.reservation] = held
            self._names[lease] = admission.reservation
        if not lease.open:
            self._give_back(admission.reservation)

    def refused(self, deployment: Deployment, seconds: float | None) -> None:
        """Keep a deployment that is at the fleet's limit out of the next picks.

        Args:
            deployment: Who was refused.
            seconds: Until when; None (a slot may come free any time) for a short while.
        """
        engine = self._state.engine
        with engine.lock:
            engine.hold(deployment, SPENT)
            engine._later(engine.clock() + (seconds or _FULL_FOR), deployment, SPENT)

    def _ask(self, asked: _Asked, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._asked.append(asked)
            if self._asking:
                return
            self._asking = True
        try:
            loop.call_soon_threadsafe(lambda: loop.create_task(self._drain()))
        except RuntimeError:
            self._asking = False
            _settle(asked, lambda f: f.set_exception(ConnectionError("the loop is closed")))

    async def _drain(self) -> None:
        """Send everything that was asked meanwhile in one round trip, until nothing is left."""
        while True:
            with self._lock:
                batch = list(self._asked)
                self._asked.clear()
                if not batch:
                    self._asking = False
                    return
            link = self._state.link
            try:
                if link is None:
                    raise ConnectionError("Redis is away")  # noqa: TRY301 - one way out for all that fail
                answers = await asyncio.wait_for(self._call(link, batch), self._state.options.timeout)
            except Exception:  # noqa: BLE001 - whoever asks decides alone
                answers = [ConnectionError("Redis is away")] * len(batch)
            for asked, answer in zip(batch, answers, strict=True):
                if isinstance(answer, Exception):
                    self._state.quiet.trouble(f"strict limits: Redis refuses a command: {code(answer)}")
                    _settle(asked, lambda f: f.set_exception(ConnectionError("not admitted by Redis")))
                else:
                    _settle(asked, lambda f, a=answer: f.set_result(a))  # type: ignore[misc]

    async def _call(self, link: Link, batch: list[_Asked]) -> list[Any]:
        answers = await link.commands([self._command(asked) for asked in batch])
        if any(isinstance(a, Exception) and code(a) == "NOSCRIPT" for a in answers):
            again = [i for i, a in enumerate(answers) if isinstance(a, Exception) and code(a) == "NOSCRIPT"]
            repeated = await link.commands([self._command(batch[i], whole=True) for i in again])
            for i, answer in zip(again, repeated, strict=True):
                answers[i] = answer
        return answers

    def _command(self, asked: _Asked, *, whole: bool = False) -> tuple[Any, ...]:
        return admit_call(
            self._state.exchange.base,
            asked.candidates,
            asked.reservation,
            tokens=asked.tokens,
            lifetime=self._state.options.reservation_ttl,
            whole=whole,
        )

    # -- giving back -----------------------------------------------------------------------------

    def _released(self, lease: Lease, error: BaseException | None, cancelled: bool) -> None:  # noqa: ARG002
        name = self._names.get(lease)
        if name is not None:
            self._give_back(name)

    def _give_back(self, name: str) -> None:
        with self._lock:
            held = self._held.pop(name, None)
        if held is not None:
            self._releases.append((name, held))
            self._state.nudge()

    def upkeep(self, batch: Batch) -> None:
        """Add what the slots need now: releases, tokens used, and now and then the renewal of slots in use."""
        for name, held in list(self._held.items()):
            lease = held.lease() if held.lease is not None else None
            if lease is None or not lease.open:
                self._give_back(name)
        self._spend(batch)
        self.farewell(batch, everything=False)
        now = time.monotonic()
        ttl = self._state.options.reservation_ttl
        if self._held and now >= self._renew_at:
            self._renew_at = now + ttl / 3
            end = int((self._state.exchange.server_time() + ttl) * 1000)
            members: dict[str, list[Any]] = {}
            for name, held in list(self._held.items()):
                members.setdefault(held.short, []).extend((end, name))
            for short, pairs in members.items():
                key = f"{self._state.exchange.base}:slots:{short}"
                batch.add([("ZADD", key, *pairs), ("PEXPIRE", key, int(ttl * 2000))])

    def farewell(self, batch: Batch, *, everything: bool = True) -> None:
        """Add the releases that wait, and, with `everything`, those of all slots still held."""
        if everything:
            for name in list(self._held):
                self._give_back(name)
        while self._releases:
            name, held = self._releases.popleft()
            # In full: it is short, and a missing script must not cost a second round trip.
            batch.add(
                [
                    release_call(
                        self._state.exchange.base,
                        held.short,
                        name,
                        minute=held.minute,
                        reserved=held.reserved,
                        whole=True,
                    )
                ]
            )

    def _spend(self, batch: Batch) -> None:
        """Count the tokens that answers really used (a stream's are known only after its lease)."""
        exchange = self._state.exchange
        minute = exchange.minute()
        if minute != self._spent_minute:
            self._spent, self._spent_minute = {}, minute
        for short, (_, tokens) in exchange.sample.usage.items():
            more = tokens - self._spent.get(short, 0.0)
            deployment = exchange.port.deployment(short)
            if more > 0 and deployment is not None and deployment.tpm is not None:
                self._spent[short] = tokens
                batch.add([spend_call(exchange.base, short, more, whole=True)])


def caps_of(deployment: Deployment) -> Caps:
    """The limits of a deployment."""
    return Caps(deployment.rpm, deployment.tpm, deployment.max_parallel)


def _settle(asked: _Asked, act: Callable[[asyncio.Future[Any]], None]) -> None:
    def now() -> None:
        if not asked.future.done():
            act(asked.future)

    with contextlib.suppress(RuntimeError):  # its loop is closed: whoever asked is gone
        asked.loop.call_soon_threadsafe(now)
