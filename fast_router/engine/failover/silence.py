"""Which deployments have fallen silent: calls go in and nothing comes back, while their siblings answer.

A server that hangs fails nobody until the timeout, which for a language model is minutes. But it is noticed sooner:
several calls that all wait far longer than the group's slowest recent answer, without a sign since the first of them
began. Such a deployment gets no more calls; those that it has go on, beside second attempts elsewhere where somebody
makes them, and the first sign of life of any of them brings it back. Nothing is cancelled here, and being wrong costs
a moment's share of the traffic.

Long calls are no silence: where the calls under way are known one by one, a deployment is silent only if another one
that may be picked has none that waits as long. One caller who has such calls at all of them could hide any silence from
the others, and is left out. Where several callers use a group and the calls of one of them are all that waits, it is
silent on that caller's word: the others find out for themselves.

Nothing is noted per call. Deployments are looked at every now and then, and what is certain follows from two looks:
of the calls that were open at the first one, so many must still be.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from fast_router.engine.deployment import RESTING
from fast_router.engine.failover.waits import Waits

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from fast_router.engine.deployment import Deployment
    from fast_router.engine.engine import Engine
    from fast_router.engine.lease import Lease

__all__ = ["OpenCall", "SilenceOptions", "Silences"]

_AROUND = 60.0
"""Seconds for which a caller counts as one of those that use a group."""
_CALLERS = 16
"""Callers that are remembered per group: more than two are never needed."""


class OpenCall(NamedTuple):
    """A call that is under way.

    Attributes:
        started: Engine clock, seconds.
        heard: Whether it has begun to answer.
        voice: Who makes it; equal values are one caller.
    """

    started: float
    heard: bool
    voice: Hashable


@dataclass(frozen=True)
class SilenceOptions:
    """When a deployment counts as silent.

    Attributes:
        factor: Times the slowest of the group's recent answers (first tokens, of streams).
        calls: Calls that must wait that long.
        min_seconds: Seconds below which nobody is silent: long requests must not look like silence to a group that has
            answered nothing but short ones so far.
        samples: How many recent answers of the group are kept.
        min_samples: Below this many, nobody is judged.
    """

    factor: float = 2.0
    calls: int = 2
    min_seconds: float = 5.0
    samples: int = 200
    min_samples: int = 20

    def __post_init__(self) -> None:
        if self.factor <= 0 or self.min_seconds < 0:
            raise ValueError("silence needs a factor > 0 and min_seconds ≥ 0")
        if self.calls < 1 or not 1 <= self.min_samples <= self.samples:
            raise ValueError("silence needs calls and min_samples ≥ 1, and no fewer samples than min_samples")


class _Ear:
    """What is known of one deployment.

    Attributes:
        deaf: Of its open calls, those whose silence says nothing: they began before its last sign of life, or
            before the end of a rest.
        waited: Seconds of its present silence, None while it is not silent.
        picks: Its picks at the look from which that counts.
    """

    __slots__ = ("deaf", "picks", "waited")

    def __init__(self) -> None:
        self.deaf = 0
        self.waited: float | None = None
        self.picks = 0


class _Group:
    __slots__ = ("around", "due", "ears", "looked", "seen")

    def __init__(self, options: SilenceOptions) -> None:
        # Who was seen to use the group, and when last.
        self.around: dict[Hashable, float] = {}
        self.ears: dict[str, _Ear] = {}
        self.seen: deque[float] = deque(maxlen=options.samples)
        self.looked = 0.0
        self.due = 0.0


class Silences:
    """Listens to an engine's deployments. Safe from several threads.

    Args:
        engine: Whose deployments.
        members: The group that a deployment belongs to, in constant time.
        doubtful: Tells of an id whether its deployment rests or has yet to prove that it is back.
        found: Called for each deployment that has fallen silent, outside the engine's lock, with the reason in words
            for an operator, and the caller on whose word alone it is silent although others use the group, else None.
        options: When one counts as silent.
        calls: Gives a deployment's calls under way, None where nobody knows them one by one.
        late: Called for each deployment that rests or has yet to prove that it is back, and of which a call has waited
            as long as silence lasts, with the time before which such calls began; outside of the engine's lock.
    """

    def __init__(
        self,
        engine: Engine,
        members: Callable[[Deployment], Sequence[Deployment]],
        doubtful: Callable[[str], bool],
        found: Callable[[Deployment, str, Hashable | None], None],
        options: SilenceOptions,
        calls: Callable[[Deployment], Iterable[OpenCall]] | None = None,
        late: Callable[[Deployment, float], None] | None = None,
    ) -> None:
        self._engine = engine
        self._late = late
        self._calls = calls
        self._members = members
        self._doubtful = doubtful
        self._found = found
        self._options = options
        self._groups: dict[str, _Group] = {}
        engine.on_release.append(self._released)
        engine.on_first_token.append(self._begun)

    def close(self) -> None:
        """Listen no longer."""
        self._engine.on_release.remove(self._released)
        self._engine.on_first_token.remove(self._begun)

    def _released(self, lease: Lease, error: BaseException | None, cancelled: bool) -> None:
        # A failure is no sign of life here: one that came from the server is counted by its breaker.
        if error is None and not cancelled:
            self._heard(lease, whole=lease.seconds_to_first_token is None)

    def _begun(self, lease: Lease) -> None:
        self._heard(lease, whole=True)

    def _heard(self, lease: Lease, *, whole: bool) -> None:
        """Note a sign of life; `whole` if it is the first one of its call."""
        deployment = lease.deployment
        group = self._groups.get(deployment.name)
        if group is None:
            group = self._groups.setdefault(deployment.name, _Group(self._options))
        ear = group.ears.get(deployment.id)
        if ear is None:
            ear = group.ears.setdefault(deployment.id, _Ear())
        ear.deaf = deployment.in_flight - deployment.talking
        now = self._engine.clock()
        if whole:
            group.seen.append(now - lease.started)
        if now >= group.due:
            found, late = self._look(group, deployment, now)
            for silent in found:
                self._found(*silent)
            for probed, before in late if self._late is not None else ():
                self._late(probed, before)  # type: ignore[misc]  # it is not None

    def _look(
        self, group: _Group, any_member: Deployment, now: float
    ) -> tuple[list[tuple[Deployment, str, Hashable | None]], list[tuple[Deployment, float]]]:
        options = self._options
        with self._engine.lock:
            if now < group.due:
                return [], []  # another thread was quicker
            members = self._members(any_member)
            slowest = max(group.seen, default=0.0)
            limit = max(options.factor * slowest, options.min_seconds)
            # Ten looks a silence; far apart in a group of thousands, since each costs a microsecond per member.
            pause = max(limit / 10, len(members) / 1000)
            # Each look is somebody's answer, and between two of them no more than a quarter of a silence counts. So the
            # others must have gone on answering, and a process that stood still has not listened meanwhile.
            away = now - group.looked
            listened = min(away, max(limit / 4, pause))
            group.looked, group.due = now, now + pause
            if len(members) < 2 or len(group.seen) < options.min_samples:
                return [], []
            if len(group.ears) > len(members):
                present = {member.id for member in members}
                group.ears = {id_: ear for id_, ear in group.ears.items() if id_ in present}
            found, late = [], []
            around = self._around(group, members, now)
            # Most looks find nobody who waits, and count nothing.
            who_waits = cache(lambda: self._waits(members, now - limit))
            for member in members:
                ear = group.ears.get(member.id)
                if ear is None:
                    ear = group.ears.setdefault(member.id, _Ear())
                waiting = self._waiting(ear, member, listened)
                voices = (
                    self._voices(member, who_waits)
                    if waiting and ear.waited is not None and ear.waited >= limit
                    else None
                )
                if voices is not None:
                    silence = f"at least {waiting} calls wait for over {limit:.1f} s"
                    reason = f"{silence}, the others answer within {slowest:.1f} s"
                    alone = next(iter(voices)) if around > 1 and len(voices) == 1 < options.calls else None
                    found.append((member, reason, alone))
                elif away <= max(limit / 2, pause) and self._doubtful_waits(member, who_waits):
                    late.append((member, now - limit))
            return found, late

    def _doubtful_waits(self, member: Deployment, who_waits: Callable[[], Waits]) -> bool:
        """Tell whether a call to one that rests or comes back waits too long, and none waits as long elsewhere."""
        if self._calls is None or self._late is None or not self._doubtful(member.id):
            return False
        waits = who_waits()
        hiding = waits.hiding(member)
        return any(voice != hiding for voice in waits.at(member)) and waits.others_answer(member, hiding)

    def _around(self, group: _Group, members: Sequence[Deployment], now: float) -> int:
        """Count the callers that have used the group lately."""
        if self._calls is None:
            return 0
        around = {voice: at for voice, at in group.around.items() if now - at < _AROUND}
        for member in members:
            for call in self._calls(member):
                if len(around) < _CALLERS or call.voice in around:
                    around[call.voice] = now
        group.around = around
        return len(around)

    def _voices(self, member: Deployment, who_waits: Callable[[], Waits]) -> set[Hashable] | None:
        """Give whose calls have waited too long here; None if they are too few, or all wait elsewhere, too."""
        if self._calls is None:
            return set()
        waits = who_waits()
        waiting = waits.at(member)
        if waiting.total() < self._options.calls:
            return None
        hiding = waits.hiding(member)
        if waiting.total() - waiting[hiding] < self._options.calls:
            return None
        return set(waiting) if waits.others_answer(member, hiding) else None

    def _waits(self, members: Sequence[Deployment], before: float) -> Waits:
        """Give whose calls have waited since before then."""
        calls = self._calls
        assert calls is not None

        def voices(member: Deployment) -> Iterator[Hashable]:
            return (call.voice for call in calls(member) if not call.heard and call.started <= before)

        return Waits(members, voices, self._options.calls)

    def _waiting(self, ear: _Ear, member: Deployment, listened: float) -> int:
        """Count the calls that have waited through the present silence; 0 if that is none yet."""
        unheard = member.in_flight - member.talking
        rests = member.held & RESTING or self._doubtful(member.id)
        ear.deaf = unheard if rests else min(ear.deaf, unheard)
        waiting = unheard - ear.deaf
        if waiting < self._options.calls:
            ear.waited = None
            return 0
        if ear.waited is not None:
            ear.waited += listened
            waiting -= member.picks - ear.picks
            if waiting >= self._options.calls:
                return waiting
        ear.waited, ear.picks = 0.0, member.picks
        return 0
