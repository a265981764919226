"""cache_aware: the server from which the first token of this prompt is expected first.

A server's prefix cache spares it the beginning of a prompt that it had before; its queue costs the prompts that it has
yet to compute. Both are seconds, so they can be added up: what is queued there, and what of this prompt is not cached
there. A popular beginning then goes to one server while it is cheaper to wait there than to compute it once more
elsewhere, and to two or ten from then on, without a threshold. (NVIDIA Dynamo's router adds up blocks to the same end;
SGLang's and llm-d's weigh a score of the match against one of the load.)

What servers hold and how fast they are is inferred, see `fast_router.engine.prefix_cache`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nsmallest
from math import ceil
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

from fast_router.engine.ask import Ask, Rng
from fast_router.engine.prefix_cache.fleet import Fleet
from fast_router.engine.prefix_cache.holders import Holders
from fast_router.engine.prefix_cache.prompt import Prompt
from fast_router.engine.prefix_cache.work import Work
from fast_router.engine.strategies.base import Strategy
from fast_router.engine.strategies.ranking import Ranking

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["CacheAware"]

ASKED = 16
"""Members that are asked what they expect, at most."""
HOLDERS = 4
"""Of a larger fleet: the one that may hold most of the prompt, and of those that may hold much the ones that are free
first."""
FREE = 2
"""And those that are free first of all."""
INVESTED = 0.4
"""Share of the time to compute a popular beginning that others are expected to save by it."""
_NEAR = 0.005
_NEAR_SECONDS = 0.0003
"""Members within this share and this time of the earliest are as good as it."""


class CacheAware(Strategy):
    """The earliest first token. O(blocks of the prompt), and at most 16 members are looked at.

    Options:
        cache_tokens: Tokens that a server's cache holds, as far as known; corrected by what answers tell.
        tokens_per_second: That a server computes of a prompt; corrected likewise.
        fixed_seconds: That every prompt takes besides; corrected likewise.
        load_factor: How far above the average load a member may be, none by default.
    """

    name = "cache_aware"
    aliases: ClassVar[tuple[str, ...]] = ("prefix_affinity", "prefix")
    accepts: ClassVar[frozenset[str] | None] = frozenset(
        {"cache_tokens", "fixed_seconds", "load_factor", "tokens_per_second"}
    )
    reads_prompts = True
    follows_load = True

    def __init__(self, members: Sequence[Deployment], rng: Rng, options: Mapping[str, Any]) -> None:
        super().__init__(members, rng, options)
        self._factor = float(options.get("load_factor") or 0.0)
        shares = {d.share for d in self.members}
        mean = sum(d.share or 0.0 for d in self.members) / max(1, len(self.members))
        # Weights are the operator's wish: a server of half the weight looks twice as slow.
        self._shares = {d: (d.share or 0.0) / mean for d in self.members} if len(shares) > 1 and mean > 0 else None
        known = next((d.work.fleet for d in self.members if d.work is not None), None)
        self.fleet = known if known is not None and known.options == options else Fleet(options)
        for deployment in self.members:
            if deployment.work is None:
                deployment.work = Work(deployment, self.fleet)
        self.fleet.members([d.work for d in self.members if d.work is not None])
        # Only a fleet too large to ask everyone needs to know whom to ask.
        self._large = len(self.members) > ASKED
        self._idle = Ranking(rng)
        self._holders = Holders(rng)
        self.fleet.reads = True
        self.fleet.holders = (self._holders,) if self._large else ()

    def added(self, deployment: Deployment) -> None:
        """Let it be asked."""
        if self._large:
            # Those that never worked are alike: in the order of chance, not of the list.
            self._idle.set(deployment, _free_at(deployment) or -self.random())

    def removed(self, deployment: Deployment) -> None:
        """Ask it no longer."""
        if self._large:
            self._idle.discard(deployment)

    def moved(self, deployment: Deployment) -> None:
        """Keep the order of who is free first."""
        if self._large and deployment in self._idle:
            self._idle.set(deployment, _free_at(deployment))

    def pick(self, now: float, ask: Ask | None) -> Deployment | None:
        """The member with the earliest first token, at random among those that are nearly as early."""
        candidates: Sequence[Deployment] = self.ready
        if not candidates:
            return None
        if ask is not None and ask.exclude:
            candidates = self.fitting(candidates, ask)
            if not candidates:
                return None
        return self.choose(candidates, now, ask)

    def choose(self, candidates: Sequence[Deployment], now: float, ask: Ask | None) -> Deployment:
        """The same among any candidates."""
        prompt = None if ask is None else ask.prompt
        if prompt is None:
            if ask is not None and ask.key:
                prompt = ask.prompt = Prompt(ask.key, ask.tokens)
            else:
                prompt = Prompt("", (ask.tokens if ask is not None else 0) or self.fleet.tokens)
        guess = 0
        if len(candidates) > ASKED:
            candidates, guess = self._few(candidates, prompt)
        if self._factor and len(candidates) > 1:
            candidates = self._within_bound(candidates)
        if len(candidates) == 1:
            return candidates[0]
        most = -1
        holder: Work | None = None
        seconds: list[float] = []
        depths: list[int] = []
        for deployment in candidates:
            work = deployment.work
            expected, guess = work.expected(prompt, now, guess)
            seconds.append(expected)
            depths.append(guess)
            if guess > most:
                most, holder = guess, work
        if most > 0 and min(depths) < most:
            assert holder is not None
            _invest(prompt, holder.mirror.popular(prompt.hashes, most), candidates, depths, seconds)
        if self._shares is not None:
            shares = self._shares
            seconds = [s / (shares[d] or 1e-9) for d, s in zip(candidates, seconds, strict=True)]
        least = min(seconds)
        bound = least + _NEAR * least + _NEAR_SECONDS
        near = [d for d, expected in zip(candidates, seconds, strict=True) if expected <= bound]
        return near[0] if len(near) == 1 else self.any_of(near)

    def _few(self, candidates: Sequence[Deployment], prompt: Prompt) -> tuple[Sequence[Deployment], int]:
        """Those worth asking: of those that may hold most of it, and of all; and how many blocks the first may have."""
        own = candidates is self.ready
        allowed = self._at if own else dict.fromkeys(candidates)
        holders, depth = self._holders.find(prompt.hashes, HOLDERS)
        found = [d for d in holders if d in allowed]
        if len(found) > HOLDERS:
            # The one that holds most, and of the others those that are free first.
            found[1:] = sorted(found[1:], key=_free_at)[: HOLDERS - 1]
        free = self._idle.first(FREE) if own else nsmallest(FREE, candidates, _free_at)
        found += [d for d in free if d not in found]
        return found, depth

    def _within_bound(self, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        most = ceil(self._factor * (sum(d.load for d in candidates) + 1) / len(candidates))
        return [d for d in candidates if d.load + 1 <= most] or candidates


def _invest(
    prompt: Prompt, popular: int, candidates: Sequence[Deployment], depths: list[int], seconds: list[float]
) -> None:
    """Make it cheaper to compute what others will want, too, where it is not cached yet.

    By each member's own rate: what is taken off is then always less than what computing it takes.
    """
    ends = prompt.ends
    share = INVESTED * prompt.tokens / prompt.length
    for place, (deployment, depth) in enumerate(zip(candidates, depths, strict=True)):
        if depth < popular:
            assert deployment.work is not None
            seconds[place] -= share * (ends[popular - 1] - (ends[depth - 1] if depth else 0)) / deployment.work.rate


# When it will have computed what it has; every member has a `work`.
_free_at = attrgetter("work.backlog.free_at")
