"""What one instance says and asks in each interval, and what it makes of what it hears.

No I/O: commands go into a `Batch`, answers and messages come back in. The keys, all in one slot of a cluster:

* ``<prefix>:{<fleet>}:1:instances``: hash, instance → its last full message; for those who join, and for healing.
* ``<prefix>:{<fleet>}:1:rests``: hash, deployment → when its rest ends, seconds of the server's clock.
* ``<prefix>:{<fleet>}:1:holds``: hash, what operators ordered (`operator_holds`).
* ``<prefix>:{<fleet>}:1:news:<database>``: the channel.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from fast_router import operator_holds
from fast_router.cluster.shared_state.calls_exchange import CallsExchange
from fast_router.cluster.shared_state.engine_port import EnginePort, Sample
from fast_router.cluster.shared_state.fleet import Fleet
from fast_router.cluster.shared_state.litellm_keys import LiteLLMKeys
from fast_router.cluster.shared_state.message import PROTOCOL, Message, decode, encode
from fast_router.cluster.shared_state.round_trip import Batch
from fast_router.cluster.shared_state.write_behind import WriteBehind

if TYPE_CHECKING:
    from fast_router.cluster.shared_state.options import ClusterOptions
    from fast_router.cluster.shared_state.redis_link import Target
    from fast_router.engine import Deployment, Engine
    from fast_router.operator_holds import Hold

__all__ = ["Exchange"]

KEY_TTL: Final = 60
"""Seconds that a hash outlives the last one who cared for it."""
READ_EVERY: Final = 5.0
"""Seconds between two readings of the hashes: heals what the subscription missed."""
LITELLM_EVERY: Final = 1.0
"""Seconds between two readings of LiteLLM's keys (LiteLLM's own interval)."""
BYTES_PER_SECOND: Final = 500_000
"""A process whose messages would exceed this publishes less often."""
PICKS_PER_MESSAGE: Final = 7
"""With few requests a process waits for about so many before it publishes, up to 2.5 intervals."""
_MARK: Final = "-"
"""Field of the hash of orders that is always there."""
_SAME = 0.5
"""Two ends of a rest closer than this (seconds) are the same rest."""


class Exchange:
    """One instance's side of the conversation.

    Args:
        engine: Whose state is shared.
        target: Where Redis is.
        options: How often, how long.
        clock: Monotonic seconds.
    """

    def __init__(
        self, engine: Engine, target: Target, options: ClusterOptions, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.options = options
        self.instance = secrets.token_hex(6)
        self.port = EnginePort(engine)
        self.fleet = Fleet(self.instance, expiry=options.expiry)
        self.base = f"{options.prefix}:{{{options.fleet or target.namespace or 'default'}}}:{PROTOCOL}"
        # Pub/sub knows no databases: two fleets on two databases of one server must not hear each other.
        self.channel = f"{self.base}:news:{target.database}"
        self.instances_key = f"{self.base}:instances"
        self.rests_key = f"{self.base}:rests"
        self.holds_key = f"{self.base}:holds"
        interop = target.litellm if options.interop is None else options.interop
        self.litellm = (
            LiteLLMKeys(namespace=target.namespace, scattered=target.cluster, writes_usage=not target.litellm)
            if interop
            else None
        )
        self.behind = WriteBehind(engine.deployments.__contains__) if interop and target.litellm else None
        self.pace = options.interval
        self.heard_myself = 0.0
        self.counts = {"messages": 0, "heard": 0, "unreadable": 0}
        # Deployments that began to rest, from the threads that saw it. Bounded: a rest is repeated on reconnect.
        self.outbox: deque[Deployment] = deque(maxlen=10_000)
        # Deployments whose rest was ended early.
        self.woken: deque[Deployment] = deque(maxlen=10_000)
        # Orders of this machine's operator: given (True) and taken back.
        self.orders: deque[tuple[bool, Hold]] = deque(maxlen=10_000)
        self.calls = CallsExchange(self.port, options.interval)
        self._ordered: list[Hold] = []
        self._over: list[str] = []
        self._engine = engine
        self._clock = clock
        # Rests that everybody knows of: short id → end, by our clock.
        self._told: dict[str, float] = {}
        self._offset: float | None = None
        self._sequence = 0
        self.sample = Sample()
        self._sent = Sample()
        self._stale: list[Any] = []
        self._doubtful: list[str] = []
        self._written: dict[str, tuple[float, float]] = {}
        self._written_minute = -1
        self._about = {"host": socket.gethostname()[:40], "pid": str(os.getpid()), "version": _version()}
        self._sent_at = self._full_at = self._read_at = self._litellm_at = -float("inf")

    def reconnected(self) -> None:
        """A new connection: say and ask everything again, rests included."""
        self._full_at = self._read_at = self._litellm_at = -float("inf")
        self.heard_myself = self._clock()
        self._told.clear()
        resting = self.port.resting()
        self.outbox.extend(d for d in self._engine.deployments.values() if self.port.short(d.id) in resting)

    # -- time ------------------------------------------------------------------------------------

    def server_time(self) -> float:
        """Seconds since the epoch by the Redis server's clock; by this machine's until it was asked once."""
        return time.time() if self._offset is None else self._clock() + self._offset

    def minute(self) -> int:
        """The server's minute, since the epoch."""
        return int(self.server_time() // 60)

    # -- hearing ---------------------------------------------------------------------------------

    def hear(self, raw: object) -> None:
        """Take one message of the channel."""
        message = decode(raw)
        if message is None:
            self.counts["unreadable"] += 1
            return
        now = self._clock()
        if message.instance == self.instance:
            self.heard_myself = now
            return
        self.counts["heard"] += 1
        if message.kind == "hold":
            self._read_at = -float("inf")  # the hash says which
        elif message.kind == "rest":
            for short, seconds in message.rests.items():
                self._told[short] = now + seconds
                if not self.port.rest(short, seconds):
                    del self._told[short]
                if seconds <= 0:
                    self._ended(short)
        elif message.kind == "calls":
            if message.calls is not None:
                self.calls.hear(message.instance, message.calls)
        else:
            self.fleet.apply(message, now)
            self.apply()
            if message.kind == "bye":
                self.calls.gone(message.instance)

    def apply(self) -> None:
        """Hand the engine what changed."""
        load = self.fleet.drain_load()
        if load:
            self.port.set_load(load)
        touched = self.fleet.drain_slow()
        if touched:
            self.port.set_latency(self.fleet.latency(touched))
            self.port.add_usage(self.fleet.usage(touched, self.minute()))

    def _introduce(self, fresh: list[str]) -> None:
        """Tell deployments that the engine has only now what is known (LiteLLM's are made as they are asked for)."""
        self.port.anew(fresh)
        load = self.fleet.load()
        self.port.set_load({short: load.get(short, 0) for short in fresh})
        self.port.set_latency(self.fleet.latency(fresh))
        self.port.add_usage(self.fleet.usage(fresh, self.minute()))
        self._read_at = self._litellm_at = -float("inf")

    def expire(self) -> None:
        """Let go of those who fell silent."""
        for instance in self.fleet.expire(self._clock()):
            self.calls.gone(instance)
        self.apply()

    # -- telling ---------------------------------------------------------------------------------

    def collect(self, batch: Batch) -> None:
        """Add what has to be said and asked now; nothing if nothing changed and nothing is due."""
        now = self._clock()
        sample = self.sample = self.port.sample(self.minute())
        if sample.fresh:
            self._introduce(sample.fresh)
        if self.behind is not None:
            # Before our own word on rests, which is newer.
            batch.add(self.behind.urgent())
        self._say_rests(batch, now)
        self._say_holds(batch)
        if now - self._full_at >= self.options.heartbeat:
            self._say_all(batch, sample, now)
        elif now - self._sent_at >= self.pace * 0.95 and (
            sample.load != self._sent.load or sample.usage != self._sent.usage
        ):
            self._say_load(batch, sample, now)
        told = self.calls.collect(now, alone=not len(self.fleet))
        if told is not None:
            message = self._message("calls")
            message.calls = told
            self._publish(batch, message)
        if now - self._read_at >= READ_EVERY:
            self._ask_all(batch, now)
        if self.litellm is not None:
            self._write_litellm(batch, self.litellm, sample)
            if self._doubtful:
                self._ask_terms(batch, self.litellm)
            if now - self._litellm_at >= LITELLM_EVERY:
                self._ask_litellm(batch, self.litellm, now)
                self._catch_up(batch)

    def _catch_up(self, batch: Batch) -> None:
        if self.behind is not None:
            batch.add(*self.behind.commands())

    def farewell(self, batch: Batch) -> None:
        """Add the good-bye."""
        self._catch_up(batch)
        self._publish(batch, self._message("bye"))
        batch.add([("HDEL", self.instances_key, self.instance)])

    def _message(self, kind: str) -> Message:
        self._sequence += 1
        return Message(kind, self.instance, self._sequence, stamp=0.0 if self._offset is None else self.server_time())

    def _publish(self, batch: Batch, message: Message) -> bytes:
        payload = encode(message)
        batch.add([("PUBLISH", self.channel, payload)])
        self.counts["messages"] += 1
        return payload

    def _say_load(self, batch: Batch, sample: Sample, now: float) -> None:
        message = self._message("load")
        message.load = sample.load
        message.minute = self.minute()
        sent = self._sent.usage
        message.usage = {key: pair for key, pair in sample.usage.items() if sent.get(key) != pair}
        self._remember(sample, now, len(self._publish(batch, message)))

    def _say_all(self, batch: Batch, sample: Sample, now: float) -> None:
        self.port.prune()
        message = self._message("full")
        message.load = sample.load
        message.minute = self.minute()
        message.usage = sample.usage
        message.latency = self.port.latency()
        message.about = self._about
        payload = self._publish(batch, message)
        batch.add([("HSET", self.instances_key, self.instance, payload)])
        self._full_at = now
        self._remember(sample, now, len(payload))

    def _remember(self, sample: Sample, now: float, size: int) -> None:
        rate = (sample.picks - self._sent.picks) / max(now - self._sent_at, 0.001)
        few = min(self.options.interval * 2.5, PICKS_PER_MESSAGE / rate if rate > 0 else 0.0)
        self.pace = max(self.options.interval, few, size / BYTES_PER_SECOND)
        self._sent = Sample(sample.load, dict(sample.usage), sample.picks)
        self._sent_at = now

    # -- rests -----------------------------------------------------------------------------------

    def _say_rests(self, batch: Batch, now: float) -> None:
        if self._offset is None:
            return  # ends are told by the server's clock, which this very turn asks for
        clock = self._engine.clock()
        rests: dict[str, float] = {}
        while self.outbox:
            deployment = self.outbox.popleft()
            short = self.port.short(deployment.id)
            left = deployment.resting_until - clock
            # The same rest often comes twice: from this process and, by LiteLLM's key, from another.
            if left > 0 and now + left > self._told.get(short, 0.0) + _SAME:
                rests[short] = round(left, 3)
        while self.woken:
            short = self.port.short(self.woken.popleft().id)
            if self._told.pop(short, 0.0) > now and short not in rests:
                rests[short] = 0.0
        for short in [short for short, until in self._told.items() if until <= now]:
            del self._told[short]
        if rests:
            self._send_rests(batch, rests, now)

    def _send_rests(self, batch: Batch, rests: dict[str, float], now: float) -> None:
        message = self._message("rest")
        message.rests = rests
        self._publish(batch, message)
        server = self.server_time()
        for short, left in rests.items():
            deployment = self.port.deployment(short)
            litellm = self.litellm if deployment is not None else None
            if left > 0:
                self._told[short] = now + left
                batch.add([("HSET", self.rests_key, short, f"{server + left:.3f}")])
                if litellm is not None and deployment is not None:
                    batch.add([litellm.write_cooldown(deployment.id, left, server, deployment.last_failure)])
            else:
                batch.add([("HDEL", self.rests_key, short)])
                if litellm is not None and deployment is not None:
                    batch.add([litellm.end_cooldown(deployment.id)])
                    self._ended(short)
        batch.add([self._keep_rests(now)])

    def _ended(self, short: str) -> None:
        deployment = self.port.deployment(short)
        if self.behind is not None and deployment is not None:
            self.behind.ended(deployment.id)

    def _keep_rests(self, now: float) -> tuple[Any, ...]:
        longest = max((until - now for until in self._told.values()), default=0.0)
        return ("EXPIRE", self.rests_key, int(longest) + KEY_TTL)

    # -- an operator's orders -----------------------------------------------------------------------

    def _say_holds(self, batch: Batch) -> None:
        if not self.orders:
            return
        # The mark tells an empty hash, from which all was taken back, from one that Redis has lost.
        batch.add([("HSET", self.holds_key, _MARK, "1")])
        while self.orders:
            given, hold = self.orders.popleft()
            field = operator_holds.field_of(hold)
            if given:
                batch.add([("HSET", self.holds_key, field, operator_holds.row_of(hold))])
            else:
                batch.add([("HDEL", self.holds_key, field)])
        self._publish(batch, self._message("hold"))
        self._read_at = -float("inf")

    def _take_holds(self, answers: list[Any]) -> None:
        fields = dict(answers[0])
        if not fields:
            # Nothing was ever ordered, or Redis has lost it: what is known stands, and who knows it says it again.
            self.orders.extend((True, hold) for hold in operator_holds.written())
            return
        holds, self._over = operator_holds.from_fields(fields)
        gone = [hold for hold in self._ordered if hold not in holds and not hold.over]
        self._ordered = holds
        operator_holds.replace(f"fleet {self.base}", holds)
        if gone:
            operator_holds.taken_back(gone)

    # -- reading the hashes ----------------------------------------------------------------------

    def _ask_all(self, batch: Batch, now: float) -> None:
        self._read_at = now
        batch.add([("TIME",)], self._take_time)
        batch.add([("HGETALL", self.instances_key)], self._take_instances)
        batch.add([("HGETALL", self.rests_key)], self._take_rests)
        batch.add([("HGETALL", self.holds_key)], self._take_holds)
        batch.add([("EXPIRE", self.instances_key, KEY_TTL)])
        if self._told:
            batch.add([self._keep_rests(now)])
        if self._over:
            batch.add([("HDEL", self.holds_key, *self._over)])
            self._over = []
        if self._stale:
            batch.add([("HDEL", self.instances_key, *self._stale)])
            self._stale = []

    def _take_time(self, answers: list[Any]) -> None:
        seconds, micros = answers[0]
        self._offset = int(seconds) + int(micros) / 1e6 - self._clock()

    def _take_instances(self, answers: list[Any]) -> None:
        server, now = self.server_time(), self._clock()
        for field, raw in dict(answers[0]).items():
            message = decode(raw)
            if message is None:
                self.counts["unreadable"] += 1
                continue
            # Who wrote without knowing the server's time has just started: give it half a chance.
            age = max(0.0, server - message.stamp) if message.stamp else self.options.expiry / 2
            if age > KEY_TTL:
                self._stale.append(field)
            elif message.instance != self.instance:
                self.fleet.apply(message, now, age=age)
        self.apply()

    def _take_rests(self, answers: list[Any]) -> None:
        server = self.server_time()
        for field, raw in dict(answers[0]).items():
            short = field.decode("utf-8", "replace") if isinstance(field, bytes) else str(field)
            try:
                left = float(raw) - server
            except (TypeError, ValueError):
                continue
            self._learn_rest(short, left)

    def _learn_rest(self, short: str, left: float) -> None:
        until = self._clock() + left
        if left > 0 and until > self._told.get(short, 0.0) + _SAME and self.port.rest(short, left):
            self._told[short] = until

    # -- LiteLLM's keys --------------------------------------------------------------------------

    def _ask_terms(self, batch: Batch, litellm: LiteLLMKeys) -> None:
        """Ask Redis how long cooldowns last whose writer's clock is wrong."""
        ids, self._doubtful = self._doubtful, []

        def take(answers: list[Any]) -> None:
            for id_, left in zip(ids, answers, strict=True):
                self._learn_rest(self.port.short(id_), left / 1000)

        batch.add([("PTTL", litellm.cooldown_key(id_)) for id_ in ids], take)

    def _ask_litellm(self, batch: Batch, litellm: LiteLLMKeys, now: float) -> None:
        self._litellm_at = now
        deployments = list(self._engine.deployments.values())
        ids = [d.id for d in deployments]

        def take_cooldowns(answers: list[Any]) -> None:
            known, doubtful = litellm.cooldowns(ids, answers, self.server_time())
            for id_, left in known.items():
                self._learn_rest(self.port.short(id_), left)
            self._doubtful = doubtful
            if self.behind is not None:
                self.behind.saw(ids, litellm.loaded(answers))

        batch.add(litellm.read_cooldowns(ids), take_cooldowns)
        minute = self.minute()
        counted = [d for d in deployments if d.rpm is not None or d.tpm is not None]

        def take_usage(answers: list[Any]) -> None:
            others = {}
            for id_, (requests, tokens) in litellm.usage(counted, answers).items():
                short = self.port.short(id_)
                mine = self._sent.usage.get(short, (0.0, 0.0))
                others[short] = (max(0.0, requests - mine[0]), max(0.0, tokens - mine[1]))
            if minute == self.minute():
                self.port.add_usage(others)
            if self.behind is not None:
                self.behind.saw_usage(litellm.usage_totals(counted, answers, minute))

        batch.add(litellm.read_usage(counted, minute), take_usage)

    def _write_litellm(self, batch: Batch, litellm: LiteLLMKeys, sample: Sample) -> None:
        """Without LiteLLM in this process nobody else adds our usage to LiteLLM's counters."""
        if not litellm.writes_usage or self._offset is None:
            return
        minute = self.minute()
        if minute != self._written_minute:
            self._written, self._written_minute = {}, minute
        more: dict[str, tuple[float, float]] = {}
        deployments = []
        for short, pair in sample.usage.items():
            before = self._written.get(short, (0.0, 0.0))
            deployment = self.port.deployment(short)
            if pair != before and deployment is not None:
                more[deployment.id] = (pair[0] - before[0], pair[1] - before[1])
                deployments.append(deployment)
        self._written = dict(sample.usage)
        batch.add(litellm.write_usage(deployments, more, minute))


def _version() -> str:
    try:
        return metadata.version("fast-router")
    except metadata.PackageNotFoundError:
        return "unknown"
