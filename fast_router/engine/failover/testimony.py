"""What speaks against one deployment since it last answered, and who says so."""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["Testimony"]

_VOICES = 8
"""Voices remembered per deployment: more than two are never needed."""


class Testimony:
    """What speaks against one deployment since it last answered.

    Attributes:
        voices: Whose charges count.
        suspicions: Whose were taken back, and since when (engine clock, seconds).
        confirmed: How many charges were confirmed.
        agreed: Until when the provider wants to be left alone as far as two voices were told so, or one whose request
            was answered elsewhere (engine clock, seconds); 0 for never.
        lone: Until when, where one voice was believed although it alone was told so; else 0.
        certain: Whether one of the failures can be no request's.
        word: The voice that was believed although it is the only one, None for none.
        probes: Whose probes have failed since the last rest was over, if nothing is certain.
        backed: Whether those of the rest before failed for two voices: then one is enough, this once. So an outage
            costs fewer calls, and a single voice that goes on failing can make it longer by no more than one rest.
    """

    __slots__ = ("_asked", "agreed", "backed", "certain", "confirmed", "lone", "probes", "suspicions", "voices", "word")

    def __init__(self) -> None:
        self.voices: set[Hashable] = set()
        self.suspicions: dict[Hashable, float] = {}
        self.confirmed = 0
        self.certain = False
        self.word: Hashable | None = None
        self.probes: set[Hashable] = set()
        self.backed = False
        self.agreed = self.lone = 0.0
        self._asked: dict[Hashable, float] = {}

    def clear(self) -> None:
        """Forget everything: it has answered."""
        self.voices.clear()
        self.suspicions.clear()
        self.confirmed = 0
        self.certain = False
        self.word = None
        self.probes.clear()
        self.backed = False
        self.agreed = self.lone = 0.0
        self._asked.clear()

    def rested(self) -> None:
        """Note that a rest is over: whose probes fail is asked anew."""
        self.backed = len(self.probes) > 1
        self.probes.clear()

    def probed(self, voice: Hashable | None) -> None:
        """Note a probe that failed; None: beyond doubt."""
        if voice is None:
            self.probes.clear()
        elif len(self.probes) < _VOICES:
            self.probes.add(voice)

    def heard(self, voice: Hashable) -> None:
        """Note a voice whose charge counts."""
        if len(self.voices) < _VOICES:
            self.voices.add(voice)

    def suspected(self, voice: Hashable, now: float) -> None:
        """Note a voice whose charge does not count by itself."""
        if len(self.suspicions) < _VOICES:
            self.suspicions.setdefault(voice, now)

    def asked(self, voice: Hashable, until: float) -> None:
        """Note until when the provider has told a voice to stay away; 0 says nothing."""
        if not until:
            return
        for other, longest in self._asked.items():
            if other != voice:
                self.agreed = max(self.agreed, min(longest, until))
        self._asked[voice] = max(until, self._asked.get(voice, 0.0))
        if len(self._asked) > _VOICES:
            # The one that ends first can bear out least, and in a long outage is over.
            del self._asked[min(self._asked, key=self._asked.__getitem__)]

    def asked_until(self, voice: Hashable) -> float:
        """Give until when the provider has told a voice to stay away; 0 for never."""
        return self._asked.get(voice, 0.0)

    def confirm(self, voice: Hashable) -> None:
        """Note that a request of a voice was answered elsewhere: what it was told here was not about that request."""
        self.confirmed += 1
        self.agreed = max(self.agreed, self._asked.get(voice, 0.0))
        if self.word == voice:
            self.word = None

    def corroborated(self, voice: Hashable) -> bool:
        """Tell whether another voice had the same experience."""
        return any(other != voice for other in self.suspicions) or any(other != voice for other in self.voices)

    @property
    def disputed(self) -> bool:
        """Whether only one voice says so, and was believed for want of another."""
        alone = self.word is not None and not self.certain and not self.corroborated(self.word)
        return alone or (len(self.probes) == 1 and not self.backed)

    @property
    def unproven(self) -> bool:
        """Whether all there is are one voice's failures, of which none was answered elsewhere."""
        heard = len(self.voices) == 1 and self.suspicions.keys() <= self.voices
        return heard and not self.certain and not self.confirmed
