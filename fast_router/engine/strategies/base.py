"""The contract of a strategy.

A strategy owns the eligible set of one tier of one group and answers which member takes the next
attempt. The engine tells it who is eligible (`add`, `remove`), whose load changed (`moved`) and about whom
something was learnt (`observed`); all of that and every pick happens under the engine's lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.engine.ask import Ask, Rng

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["Strategy"]


class Strategy:
    """Base of every strategy: keeps the eligible members in an array, so that a random one is O(1).

    Subclass it, set `name`, and write `choose` (from any candidates, O(k)). Override `pick` where the
    whole eligible set can be answered faster, with `added`, `removed`, `moved` and `observed` to keep
    whatever that needs.

    Args:
        members: Every deployment of the tier, eligible or not, in model-list order.
        rng: The source of chance.
        options: The strategy's own options; unknown ones are ignored, as in LiteLLM.
    """

    name: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    accepts: ClassVar[frozenset[str] | None] = None
    """The names of its options, so that others are refused; None takes any. A subclass names its own."""
    follows_load: bool = False
    """True if `moved` must be called when a member's load changes."""
    follows_latency: bool = False
    """True if `observed` must be called when something was learnt about a member."""
    takes: bool = False
    """True if `take` picks and counts in one step."""
    reads_prompts: bool = False
    """True if picks look at `Ask.prompt`."""
    respects_limits: bool = False
    """True if members whose rpm or tpm is used up are not eligible (as in LiteLLM for this strategy)."""

    def __init__(self, members: Sequence[Deployment], rng: Rng, options: Mapping[str, Any]) -> None:
        self.members = tuple(members)
        self.rng = rng
        self.random = rng.random
        self.options = options
        self.ready: list[Deployment] = []
        self._at: dict[Deployment, int] = {}

    # -- what the engine calls -------------------------------------------------------------------

    def add(self, deployment: Deployment) -> None:
        """`deployment` became eligible. O(1) here, O(log n) with order."""
        if deployment not in self._at:
            self._at[deployment] = len(self.ready)
            self.ready.append(deployment)
            self.added(deployment)

    def remove(self, deployment: Deployment) -> None:
        """`deployment` is eligible no longer."""
        index = self._at.pop(deployment, None)
        if index is not None:
            last = self.ready.pop()
            if last is not deployment:
                self.ready[index] = last
                self._at[last] = index
            self.removed(deployment)

    def pick(self, now: float, ask: Ask | None) -> Deployment | None:
        """The member that takes the next attempt, None if none fits.

        Args:
            now: Engine clock, seconds.
            ask: What is special about the request, None for nothing.
        """
        return self.pick_from(self.ready, now, ask)

    def take(self, ask: Ask | None) -> Deployment | None:
        """Pick as `pick` does, with the lease counted already; None if the two are to be done one after the other.

        Called only if `takes`. It may answer with a deployment whose `counted` is True, and with no other.
        """
        raise NotImplementedError

    def pick_from(self, candidates: Sequence[Deployment], now: float, ask: Ask | None) -> Deployment | None:
        """The same choice among candidates that somebody else filtered; O(k)."""
        if ask is not None:
            candidates = self.fitting(candidates, ask)
        if not candidates:
            return None
        return self.choose(candidates, now, ask)

    # -- what a strategy writes ------------------------------------------------------------------

    def choose(self, candidates: Sequence[Deployment], now: float, ask: Ask | None) -> Deployment | None:
        """Choose among candidates, all of which are admissible; never called with none."""
        raise NotImplementedError

    def added(self, deployment: Deployment) -> None:
        """`deployment` joined the eligible set."""

    def removed(self, deployment: Deployment) -> None:
        """`deployment` left the eligible set."""

    def moved(self, deployment: Deployment) -> None:
        """The load of `deployment` changed (called only if `follows_load`)."""

    def observed(self, deployment: Deployment) -> None:
        """Latency or usage of `deployment` changed (called only if `follows_latency`)."""

    def resume(self, previous: Strategy) -> None:
        """Take over the state of the strategy that this one replaces (the group was recompiled)."""

    def parts(self) -> Sequence[Strategy]:
        """The strategies that pick here: itself, or those of an experiment."""
        return (self,)

    # -- helpers ---------------------------------------------------------------------------------

    def fitting(self, candidates: Sequence[Deployment], ask: Ask) -> Sequence[Deployment]:
        """Those that the request may use: not excluded, and with room for its tokens."""
        exclude = ask.exclude
        if exclude:
            candidates = [d for d in candidates if d.id not in exclude]
        if ask.tokens and self.respects_limits:
            tokens = ask.tokens
            candidates = [d for d in candidates if d.tpm is None or d.minute_tokens + tokens <= d.tpm]
        return candidates

    def any_of(self, candidates: Sequence[Deployment]) -> Deployment:
        """One of them, each equally likely."""
        return candidates[floor(self.random() * len(candidates))]

    def __len__(self) -> int:
        return len(self.ready)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self.ready)} of {len(self.members)} eligible>"
