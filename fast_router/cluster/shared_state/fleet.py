"""Who else is alive, and what they hold together.

Pure bookkeeping without Redis: messages go in, sums come out. The sums are of whole numbers and are kept
by taking an instance's old numbers out and its new ones in, so they cannot drift; an instance that falls
silent is taken out as a whole, so what a crashed process held is gone with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fast_router.cluster.shared_state.message import Digest, Message

__all__ = ["EXPIRY", "Fleet"]

EXPIRY: Final = 3.0
"""Seconds of silence after which an instance counts as gone."""


class _Instance:
    __slots__ = ("about", "heard", "latency", "load", "minute", "sequence", "usage")

    def __init__(self) -> None:
        self.sequence = -1
        self.heard = 0.0
        self.load: dict[str, int] = {}
        self.minute = -1
        self.usage: dict[str, tuple[float, float]] = {}
        self.latency: dict[str, Digest] = {}
        self.about: dict[str, str] = {}


class Fleet:
    """The other instances.

    Args:
        me: This instance's id; its own messages are ignored.
        expiry: Seconds of silence after which an instance counts as gone.
    """

    def __init__(self, me: str, *, expiry: float = EXPIRY) -> None:
        self.me = me
        self.expiry = expiry
        self._instances: dict[str, _Instance] = {}
        self._load: dict[str, int] = {}
        # Usage of instances that are gone: it still counts against this minute's limits.
        self._left: dict[str, tuple[int, dict[str, tuple[float, float]]]] = {}
        self._touched: set[str] = set()
        self._slow_touched: set[str] = set()

    def __len__(self) -> int:
        return len(self._instances)

    def apply(self, message: Message, now: float, *, age: float = 0.0) -> bool:
        """Take over what an instance says.

        Args:
            message: A `load`, `full` or `bye` message.
            now: This process's monotonic clock, seconds.
            age: Seconds since it was sent, if it was read from a key.

        Returns:
            False if it is our own, late, or too old to say who is alive.
        """
        name = message.instance
        if name == self.me:
            return False
        if message.kind == "bye":
            self._remove(name)
            return True
        if message.kind not in {"load", "full"}:
            return False
        if age > self.expiry:
            if message.usage and name not in self._instances:
                self._left[name] = (message.minute, message.usage)
                self._slow_touched.update(message.usage)
            return False
        known = self._instances.get(name)
        if known is None:
            known = self._instances[name] = _Instance()
            self._left.pop(name, None)
        elif message.sequence <= known.sequence:
            return False
        known.sequence = message.sequence
        known.heard = now - age
        if message.about:
            known.about = message.about
        self._set_load(known, message.load)
        if message.minute >= 0:
            self._slow_touched.update(known.usage)
            self._slow_touched.update(message.usage)
            if message.kind == "full" or message.minute != known.minute:
                known.usage = message.usage
            else:
                # A `load` message names only what changed since the last full one.
                known.usage = {**known.usage, **message.usage}
            known.minute = message.minute
        if message.kind == "full":
            self._slow_touched.update(known.latency)
            self._slow_touched.update(message.latency)
            known.latency = message.latency
        return True

    def expire(self, now: float) -> list[str]:
        """Take out who has been silent for too long, and say who."""
        gone = [name for name, known in self._instances.items() if now - known.heard > self.expiry]
        for name in gone:
            self._remove(name)
        return gone

    def forget(self) -> None:
        """Take out everybody: the server is away and nothing is known any more."""
        for name in list(self._instances):
            self._remove(name)

    def load(self) -> dict[str, int]:
        """Deployment → open leases of all the others; only those above 0."""
        return dict(self._load)

    def drain_load(self) -> dict[str, int]:
        """The same for deployments whose sum changed since the last call, 0 included."""
        touched, self._touched = self._touched, set()
        return {key: self._load.get(key, 0) for key in touched}

    def drain_slow(self) -> set[str]:
        """Deployments whose usage or latency changed since the last call."""
        touched, self._slow_touched = self._slow_touched, set()
        return touched

    def usage(self, deployments: Iterable[str], minute: int) -> dict[str, tuple[float, float]]:
        """Deployment → requests and tokens that the others (and those who left) used in `minute`."""
        self._left = {name: left for name, left in self._left.items() if left[0] >= minute}
        parts = [known.usage for known in self._instances.values() if known.minute == minute]
        parts += [usage for left_minute, usage in self._left.values() if left_minute == minute]
        sums: dict[str, tuple[float, float]] = {}
        for key in deployments:
            requests = tokens = 0.0
            for usage in parts:
                pair = usage.get(key)
                if pair is not None:
                    requests += pair[0]
                    tokens += pair[1]
            sums[key] = (requests, tokens)
        return sums

    def latency(self, deployments: Iterable[str]) -> dict[str, Digest]:
        """Deployment → the digests of all the others, merged by weight; weight 0 where nobody knows."""
        parts = [known.latency for known in self._instances.values() if known.latency]
        return {key: _merge([d for p in parts if (d := p.get(key)) is not None]) for key in deployments}

    def instances(self, now: float) -> dict[str, dict[str, object]]:
        """For people: each living instance, when it was last heard (seconds ago) and what it holds."""
        return {
            name: {
                **known.about,
                "heard": round(now - known.heard, 3),
                "in_flight": sum(known.load.values()),
            }
            for name, known in self._instances.items()
        }

    def _set_load(self, known: _Instance, load: dict[str, int]) -> None:
        if load == known.load:
            return
        sums = self._load
        for key, count in known.load.items():
            left = sums.get(key, 0) - count
            if left > 0:
                sums[key] = left
            else:
                sums.pop(key, None)
        for key, count in load.items():
            if count > 0:
                sums[key] = sums.get(key, 0) + count
        self._touched.update(known.load)
        self._touched.update(load)
        known.load = {key: count for key, count in load.items() if count > 0}

    def _remove(self, name: str) -> None:
        known = self._instances.pop(name, None)
        if known is None:
            return
        self._set_load(known, {})
        if known.usage:
            self._left[name] = (known.minute, known.usage)
        self._slow_touched.update(known.latency)
        self._slow_touched.update(known.usage)


def _merge(digests: list[Digest]) -> Digest:
    weight = sum(d[1] for d in digests)
    first_weight = sum(d[3] for d in digests)
    return (
        sum(d[0] * d[1] for d in digests) / weight if weight else 0.0,
        weight,
        sum(d[2] * d[3] for d in digests) / first_weight if first_weight else 0.0,
        first_weight,
    )
