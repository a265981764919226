"""How much failures prove: one request speaks against one deployment at the most, and one caller takes no group away.

A failure counts at once, as the charge of its request. What happens to the request elsewhere decides whether it stands:

* It succeeds elsewhere in its group: the charge is confirmed.
* It fails at a second deployment: what follows a request around is the request's, and the charge is taken back. So is
  that of a known caller whose next failing request fails somewhere else.
* Failures taken back are remembered as suspicions until the deployment answers anybody. A second voice (another
  caller, or another request where callers are unknown) with the same experience makes them count after all: in an
  outage everybody's requests fail everywhere.

A probe that fails is one caller's word as well: the next other caller may probe at once, unless the rest before was
such that two had failed.

Where one caller alone meets the same at every member, for a second and with nobody answered, that is an outage as well:
whom it lets rest are woken by the first other caller (an appeal), and no other process is told.

A rest that would leave less than half of a group needs more than one voice, as many confirmed charges as failures in a
row open a breaker, or a failure that no request can bring about (nobody listens at that address).

How long a provider wants to be left alone (Retry-After) may be about the one caller, too: beyond an ordinary rest it
holds as far as two voices were told so, or one whose request was then answered elsewhere. For want of any other a known
caller is believed, and others may appeal.

Where filters (tags, context windows, teams) may leave a request one deployment of its group, that one is a group of its
own: a rule of ours wants confirmed charges to rest it, which say that requests have others; LiteLLM's rules another
voice or, as long as nobody else asks, one that others may appeal against.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING

from fast_router.engine.failover.blame import Case, Charge, Terms
from fast_router.engine.failover.failures import FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fast_router.engine.deployment import Deployment
    from fast_router.engine.failover.breaker import Breaker

__all__ = ["Evidence"]

_CALLERS = 10_000
"""Callers whose latest charge is remembered, over all groups."""
_OUTAGE = 1.0
"""Seconds after which a caller that nobody of a group answers has seen an outage."""
_CONTESTED = 600.0
"""Seconds for which one caller's word is not enough for a rest, after another one has appealed against such a rest."""
_IN_A_ROW = 10.0
"""Seconds within which two failing requests of one caller are in a row."""


class Evidence:
    """The charges of all requests. Its owner holds the engine's lock.

    Args:
        breaker: The breaker of a deployment.
        members: The group that a deployment belongs to.
        take_back: Undoes a charge.

    Attributes:
        alone: Groups of which some rest on the word of one caller, and whose it is: any other one may appeal.
    """

    __slots__ = ("_breaker", "_contested", "_latest", "_members", "_take_back", "alone")

    def __init__(
        self,
        breaker: Callable[[Deployment], Breaker],
        members: Callable[[Deployment], Sequence[Deployment]],
        take_back: Callable[[Charge], None],
    ) -> None:
        self._breaker = breaker
        self._members = members
        self._take_back = take_back
        self.alone: dict[str, Hashable] = {}
        # Until when one caller's word is not enough where it may be all that others have.
        self._contested: dict[str, float] = {}
        # The latest unconfirmed charge of each known caller in each group.
        self._latest: OrderedDict[tuple[str, Hashable], Charge] = OrderedDict()

    def hear(self, case: Case | None, deployment: Deployment, kind: FailureKind, now: float, *, certain: bool) -> bool:
        """Take in one failure.

        Args:
            case: Its request; None where a program of its own makes the calls and says how they end: it is believed.
            deployment: Where it failed.
            kind: Why.
            now: Engine clock, seconds.
            certain: Whether no request can have brought it about.

        Returns:
            Whether it counts against the deployment.
        """
        testimony = self._breaker(deployment).testimony
        if case is None or certain:
            testimony.certain = True
            return True
        standing = case.charge
        if standing is None and case.caller is not None and not case.followed:
            standing = self._in_a_row(case.caller, deployment, now)
        if standing is not None and standing.deployment is deployment and standing is case.charge:
            return False  # it has said so already
        if case.followed or (standing is not None and standing.deployment is not deployment):
            return self._followed(case, standing, deployment, kind, now)
        self._charge(case, deployment, kind, now)
        return True

    def _charge(self, case: Case, deployment: Deployment, kind: FailureKind, now: float) -> None:
        breaker = self._breaker(deployment)
        breaker.testimony.heard(case.voice)
        charge = case.charge = Charge(deployment, kind, now, breaker.in_a_row)
        if case.caller is not None:
            key = (deployment.name, case.caller)
            self._latest[key] = charge
            self._latest.move_to_end(key)
            if len(self._latest) > _CALLERS:
                self._latest.popitem(last=False)

    def _in_a_row(self, caller: Hashable, deployment: Deployment, now: float) -> Charge | None:
        found = self._latest.get((deployment.name, caller))
        if found is None or now - found.at > _IN_A_ROW or found.deployment is deployment:
            return None
        return found

    def _followed(
        self, case: Case, standing: Charge | None, deployment: Deployment, kind: FailureKind, now: float
    ) -> bool:
        voice = case.voice
        case.followed = True
        if standing is not None:
            former = standing.deployment
            testimony = self._breaker(former).testimony
            case.suspects.append((former, standing.kind))
            case.charge = None
            self._latest.pop((former.name, voice), None)
            if not self._corroborated(former, voice, now):
                testimony.voices.discard(voice)
                until = testimony.asked_until(voice)
                self._take_back(standing)
                testimony.suspected(voice, now)
                testimony.asked(voice, until)  # it may yet bear out what another one is told
        testimony = self._breaker(deployment).testimony
        case.suspects.append((deployment, kind))
        if not self._corroborated(deployment, voice, now):
            testimony.suspected(voice, now)
            return False
        testimony.heard(voice)
        return True

    def _corroborated(self, deployment: Deployment, voice: Hashable, now: float) -> bool:
        return self._breaker(deployment).testimony.corroborated(voice) or self._believed(deployment, voice, now)

    def _believed(self, deployment: Deployment, voice: Hashable, now: float) -> bool:
        """Tell whether a caller is believed for want of any other."""
        if not self._outage(deployment, voice, now):
            return False
        self.believe(deployment, voice)
        return True

    def believe(self, deployment: Deployment, voice: Hashable) -> None:
        """Take one caller's word for it that a deployment is dead: any other one may appeal."""
        self._breaker(deployment).testimony.word = voice
        self.alone[deployment.name] = voice

    def _outage(self, deployment: Deployment, voice: Hashable, now: float) -> bool:
        """Tell whether one caller has been answered by no member of a group for long enough, nor any other one."""
        members = self._members(deployment)
        if len(members) < 2:
            return False
        for member in members:
            since = self._breaker(member).testimony.suspicions.get(voice)
            if since is None or now - since < _OUTAGE:
                return False
        return True

    def opened(self, deployment: Deployment, group: Sequence[Deployment]) -> None:
        """Note on whose word the only one of a group is taken for dead: where it is one caller's, others may appeal."""
        testimony = self._breaker(deployment).testimony
        voices = testimony.voices.union(testimony.suspicions)
        if len(group) == 1 and len(voices) == 1 and not testimony.certain:
            (testimony.word,) = voices
            self.alone[deployment.name] = testimony.word

    def probed(self, case: Case | None, deployment: Deployment, *, certain: bool) -> None:
        """Note whose probe has failed: one caller's is enough for another rest, against which others may appeal."""
        voice = None if case is None or certain else case.voice
        testimony = self._breaker(deployment).testimony
        testimony.probed(voice)
        if voice is not None and not testimony.backed:
            self.alone[deployment.name] = voice

    def appeal(self, name: str | None, voice: Hashable, now: float) -> list[str]:
        """Give the groups that another caller asks for than the one on whose word some rest; None: for any."""
        found = [group for group, only in self.alone.items() if only != voice and name in (None, group)]
        for group in found:
            del self.alone[group]
            self._contested[group] = now + _CONTESTED
        return found

    def vindicated(self, case: Case, by: Deployment) -> tuple[Deployment, FailureKind] | None:
        """Note that a request which had failed has succeeded elsewhere in its group: nothing was wrong with it.

        What another group answers, or to another question, says nothing: a fallback is for what the first cannot do.

        Args:
            case: The request.
            by: Who answered it.

        Returns:
            Whom it speaks against after all, if its charge was taken back on the way: the first that it failed at.
        """
        if case.terms & Terms.OTHERWISE:
            return None
        charge = case.charge
        if charge is not None:
            if charge.deployment.name != by.name:
                return None
            if case.caller is not None:
                self._latest.pop((by.name, case.caller), None)
            if not charge.confirmed:
                charge.confirmed = True
                self._breaker(charge.deployment).testimony.confirm(case.voice)
            return None
        found = next((suspect for suspect in case.suspects if suspect[0].name == by.name), None)
        if found is None:
            return None
        deployment, kind = found
        if case.caller is not None:
            self._latest.pop((by.name, case.caller), None)
        case.suspects.clear()
        case.followed = False
        testimony = self._breaker(deployment).testimony
        if case.voice not in testimony.suspicions:
            return None  # it has answered since, or the failure counts already
        del testimony.suspicions[case.voice]
        testimony.heard(case.voice)
        testimony.confirm(case.voice)
        return deployment, kind

    def may_rest(self, deployment: Deployment, resting: int, needed: int, now: float) -> bool:
        """Tell whether what speaks against a deployment is enough for a rest.

        Args:
            deployment: Who.
            resting: How many others of its group rest or have yet to prove that they are back.
            needed: Confirmed charges that weigh as much as a second voice.
            now: Engine clock, seconds.
        """
        if resting + 1 <= max(1, len(self._members(deployment)) // 2):
            return True
        testimony = self._breaker(deployment).testimony
        voices = testimony.voices.union(testimony.suspicions)
        if testimony.certain or len(voices) > 1 or testimony.confirmed >= max(1, needed):
            return True
        (voice,) = voices or (None,)
        return voice is not None and self._believed(deployment, voice, now)

    def may_rest_alone(self, deployment: Deployment, needed: int | None, now: float) -> bool:
        """Tell the same where a deployment may be the only one that some request can use.

        Args:
            deployment: Who.
            needed: Failures in a row that a rule of ours rests it for; None for a rule of LiteLLM's.
            now: Engine clock, seconds.
        """
        testimony = self._breaker(deployment).testimony
        if testimony.certain or testimony.confirmed >= max(1, (needed or 0) - 1):
            return True
        if needed is not None:
            return False
        voices = testimony.voices.union(testimony.suspicions)
        if len(voices) > 1:
            return True
        if now < self._contested.get(deployment.name, now):
            return False
        for voice in voices:
            self.believe(deployment, voice)
        return True
