"""One server as `cache_aware` sees it: what it has cached, what it has yet to compute, how fast it does.

Hangs on its `Deployment`, so that it outlives recompiled groups, and hears of every call from the engine, under the
engine's lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import exp, log
from typing import TYPE_CHECKING, Any

from fast_router.engine.prefix_cache.backlog import Backlog
from fast_router.engine.prefix_cache.call import Call
from fast_router.engine.prefix_cache.event import Event, What
from fast_router.engine.prefix_cache.mirror import Mirror
from fast_router.engine.prefix_cache.others import Others
from fast_router.engine.prefix_cache.prompt import Prompt
from fast_router.engine.prefix_cache.speed import Speed

if TYPE_CHECKING:
    from fast_router.engine.ask import Ask
    from fast_router.engine.deployment import Deployment
    from fast_router.engine.prefix_cache.fleet import Fleet

__all__ = ["MARGIN", "Work"]

MARGIN = 1.15
"""Times the budget that the mirror holds. What is at the edge may be cached or not: to have it sent where it was before
costs little if it is not, and keeps it there if it is."""
_DECODING = 1 / 512
"""By how much each answer that is being generated slows a prompt down."""
_GAIN = 0.4
"""How far a budget moves towards what one answer says."""
_FORGET_AFTER = 30.0
"""Seconds of rest after which nothing is taken to be cached any more: whoever rests that long was restarted."""
_MISSES = 2
"""Answers in a row without anything cached, where all should have been, that mean a restart."""
_LATELY = 0.25
"""Share of the budget within which a use is so late that it must be cached still."""
_SURE = 0.05
"""Share of a prompt about which there may be doubt where the rest is certain."""
_OFF = 300.0
"""Tokens by which what was cached may differ from what was expected without saying anything: the size of our blocks."""
_TOLERANCE = 0.15
"""Share of the computed tokens by which an estimate from the time they took may be off besides."""
_PENALTY = 0.5
"""Seconds that the first failure counts for as queue, until then; twice as long with each further one in a row."""
_MOST_PENALTY = 10.0


class Work:
    """What is known of one server.

    Args:
        deployment: Which one.
        fleet: What it shares with its siblings.
    """

    __slots__ = (
        "__weakref__",
        "_calls",
        "_failed",
        "_missed",
        "_number",
        "_penalty",
        "backlog",
        "capacity",
        "deployment",
        "fleet",
        "heard",
        "hit_tokens",
        "learnt_at",
        "mirror",
        "news",
        "others",
        "outbox",
        "prompt_tokens",
        "reported_tokens",
        "reported_total",
        "resting",
        "speed",
        "talking",
    )  # fmt: skip

    def __init__(self, deployment: Deployment, fleet: Fleet) -> None:
        self.deployment = deployment
        self.fleet = fleet
        self.backlog = Backlog()
        self.speed = Speed()
        self.mirror = Mirror(MARGIN * fleet.budget, fleet.most)
        # Answers that are being generated.
        self.talking = 0
        # When it began to rest, engine clock.
        self.resting: float | None = None
        # When it last taught something about its speed.
        self.learnt_at = 0.0
        # Tokens sent here and those expected to be cached; those of answers that said so, and what they said.
        self.prompt_tokens = self.hit_tokens = self.reported_total = self.reported_tokens = 0.0
        # Tokens that its cache holds by its own account, None where it gives none.
        self.capacity: float | None = None
        # Where the server's own events are followed: told of each prompt that is sent; and what other threads heard,
        # left here to be done under the engine's lock.
        self.heard: Callable[[Prompt, Ask], None] | None = None
        self.news: deque[Callable[[], None]] = deque()
        # Where other processes send prompts here as well: what is told them, and what they told.
        self.outbox: deque[Event] | None = None
        self.others: Others | None = None
        self._calls: dict[Any, Call] = {}
        self._number = 0
        self._missed = 0
        self._failed = 0
        self._penalty = 0.0

    def join(self, fleet: Fleet) -> None:
        """Belong to `fleet` from now on."""
        self.fleet = fleet
        self.mirror.most = fleet.most

    def share(self, outbox: deque[Event] | None, delay: float) -> None:
        """Tell other processes what is sent here, and learn only after they could tell.

        Args:
            outbox: Where to leave what is to be told, None to share no longer.
            delay: Seconds that others' news take, at the most.
        """
        if self.others is not None:
            self.gone(None, 0.0)
        self.others = None if outbox is None else Others(delay)
        self.outbox = outbox

    # -- the estimate ----------------------------------------------------------------------------

    @property
    def rate(self) -> float:
        """Tokens per second that it computes."""
        return self.speed.rate or self.fleet.rate

    @property
    def fixed(self) -> float:
        """Seconds per prompt besides."""
        return self.fleet.fixed if self.speed.fixed is None else self.speed.fixed

    def wait(self, now: float) -> float:
        """Seconds until it begins with a new prompt."""
        wait = self.backlog.wait(now)
        return wait + self._penalty - now if self._penalty > now else wait

    def expected(self, prompt: Prompt, now: float, guess: int) -> tuple[float, int]:
        """Seconds to the first token of `prompt` if it came here now, and the blocks of it that are cached here."""
        if self.news:
            self._read()
        found = self.mirror.cached(prompt.hashes, guess)
        tokens = prompt.tokens
        if found:
            tokens *= 1.0 - prompt.ends[found - 1] / prompt.length
        speed = self.speed
        seconds = tokens / (speed.rate or self.fleet.rate) + self.backlog.wait(now)
        if self._penalty > now:
            seconds += self._penalty - now
        fixed = speed.fixed
        return (seconds + (self.fleet.fixed if fixed is None else fixed)) * (1.0 + _DECODING * self.talking), found

    def figures(self, ask: Ask | None, now: float) -> dict[str, float]:
        """What `expected` adds up, by name, for people who ask why; without a prompt, of one that nobody has cached."""
        prompt = None if ask is None else ask.prompt
        if prompt is None and ask is not None and ask.key:
            prompt = ask.prompt = Prompt(ask.key, ask.tokens)
        if prompt is None:
            prompt = Prompt("", (0 if ask is None else ask.tokens) or self.fleet.tokens)
        seconds, found = self.expected(prompt, now, 0)
        cached = prompt.ends[found - 1] / prompt.length if found else 0.0
        return {
            "expected_seconds": seconds,
            "queued_seconds": self.wait(now),
            "uncached_tokens": prompt.tokens * (1.0 - cached),
            "tokens_per_second": self.rate,
        }

    # -- what the engine tells -------------------------------------------------------------------

    def begins(self, key: Any, ask: Ask | None, now: float) -> None:
        """A call is sent here.

        Args:
            key: Whose.
            ask: What was asked, None for nothing in particular.
            now: Engine clock, seconds.
        """
        fleet = self.fleet
        prompt: Prompt | None = None
        tokens, stream = 0.0, False
        if ask is not None:
            prompt, tokens, stream = ask.prompt, ask.tokens, ask.stream
            if prompt is None and ask.key and fleet.reads:
                prompt = ask.prompt = Prompt(ask.key, tokens)
        if prompt is not None:
            tokens = prompt.tokens
            if prompt.counted:
                fleet.counted(prompt.length, tokens)
        elif tokens <= 0:
            tokens = fleet.tokens
        fleet.arrived(tokens)
        self._number += 1
        call = Call(self._number, now, tokens, stream)
        self._foresee(call, prompt)
        if call.prompt is not None and self.heard is not None and ask is not None:
            self.heard(call.prompt, ask)
        self._calls[key] = call
        self.backlog.add(key, call, now)
        self.prompt_tokens += tokens
        self.hit_tokens += call.cached
        self._tell(What.SENT, call, now)

    def _foresee(self, call: Call, prompt: Prompt | None) -> None:
        """What a call will cost here; what it brings into the cache is entered."""
        tokens = call.tokens
        fleet = self.fleet
        if fleet.reads and prompt is not None and prompt.hashes:
            if self.news:
                self._read()
            mirror = self.mirror
            mirror.budget = MARGIN * fleet.budget
            if self.capacity is not None:
                mirror.budget = min(mirror.budget, self.capacity * fleet.bytes_per_token)
            hashes, ends = prompt.hashes, prompt.ends
            found = mirror.cached(hashes)
            if found:
                call.cached = tokens * ends[found - 1] / prompt.length
                call.doubt = tokens * (ends[found] - ends[found - 1]) / prompt.length
            if prompt.teaches:
                call.prompt = prompt
                call.runs = mirror.use(prompt)
                call.serial = mirror.serial
                for holders in fleet.holders:
                    holders.add(hashes, found, self.deployment)
        rate, fixed = self.rate, self.fixed
        call.work = fixed + (tokens - call.cached) / rate
        call.full = fixed + tokens / rate

    def spoke(self, key: Any, now: float) -> None:
        """The first token of a call has come."""
        call = self._calls.get(key)
        if call is None:
            return
        self.talking += 1
        call.seconds = self.backlog.spoke(key, now)
        call.stream = True
        self._failed = 0
        if self.others is not None:
            self.others.spoke(call, now)
            self.settle(now)
            self._tell(What.SPOKE, call, now)
        elif call.seconds is not None and not self.fleet.reports:
            self._judge(call, now)

    def _tell(self, what: What, call: Call, now: float) -> None:
        if self.outbox is not None:
            prompt = call.prompt if what is What.SENT else None
            self.outbox.append(Event(what, self.deployment.id, call.number, now, call.tokens, call.stream, prompt))

    # -- what other processes tell ---------------------------------------------------------------

    def hear(self, source: str, event: Event, now: float) -> None:
        """Another process told what became of a call of its own here; `event.at` is by the engine's clock."""
        others = self.others
        if others is None:
            return
        self.settle(now)
        key = (source, event.number)
        if event.what is What.SENT:
            if key in others:
                return
            self.fleet.arrived(event.tokens)
            # As if it did not stream: whatever is heard of its first token may be lost on the way.
            call = Call(0, event.at, event.tokens, stream=False)
            self._foresee(call, event.prompt)
            for old in others.sent(key, call, now):
                self.backlog.drop(old, now)
            self.backlog.add_late(key, call)
            return
        theirs = others.over(key, event.at, event.what)
        if event.what is What.UNDONE:
            self.backlog.drop(key, event.at)
            if theirs is not None:
                self._unlearn(theirs)
        else:
            self.backlog.spoke(key, event.at)

    def gone(self, source: str | None, now: float) -> None:
        """A process is no more, nor are its calls; None for every process."""
        if self.others is not None:
            for key in self.others.forget(source):
                self.backlog.drop(key, now)

    def settle(self, now: float) -> None:
        """Learn from answers about which others have had their say."""
        assert self.others is not None
        for call, at in self.others.due(now):
            if call.seconds is not None and not self.fleet.reports:
                self._judge(call, at)

    def ended(
        self,
        key: Any,
        now: float,
        failed: bool,  # noqa: FBT001, RUF100 - on the hot path, positionally
        spoken: bool,  # noqa: FBT001, RUF100
        prompt_tokens: float = 0,
        cached_tokens: float | None = None,
    ) -> None:
        """A call is over.

        Args:
            key: Whose.
            now: Engine clock, seconds.
            failed: Whether the server failed it.
            spoken: Whether its first token had come.
            prompt_tokens: Of its prompt, 0 if the answer did not say.
            cached_tokens: Those of them that were cached, None if the answer did not say.
        """
        call = self._calls.pop(key, None)
        if call is None:
            return
        if spoken:
            self.talking -= 1
        else:
            self.backlog.leave(key, now)
            self._tell(What.UNDONE if failed else What.DONE, call, now)
        if self.others is not None:
            self.settle(now)
        if failed:
            if not spoken:
                self._unlearn(call)
                # One that fails at once must not look free.
                self._penalty = now + min(_MOST_PENALTY, _PENALTY * 2.0**self._failed)
                self._failed += 1
            return
        self._failed = 0
        if prompt_tokens > 0 and call.prompt is not None:
            self.fleet.counted(call.prompt.length, prompt_tokens)
        if cached_tokens is None or call.prompt is None:
            return
        if cached_tokens > 0:
            self.fleet.reports = True
        if self.fleet.reports:
            self._reported(call, prompt_tokens or call.tokens, cached_tokens, now)

    def withdrawn(self, key: Any, now: float) -> None:
        """A call went elsewhere after all."""
        call = self._calls.pop(key, None)
        if call is not None:
            self.backlog.leave(key, now)
            self._unlearn(call)
            self._tell(What.UNDONE, call, now)

    def _unlearn(self, call: Call) -> None:
        """What of its prompt was new here was not computed."""
        if call.prompt is not None:
            self.mirror.undo(call.prompt, call.serial, call.runs[-1][0] if call.runs else 0)

    def rests(self, now: float) -> None:
        """It begins to rest, or rests longer."""
        if self.resting is None:
            self.resting = now

    def returns(self, now: float) -> None:
        """It is back."""
        if self.resting is not None and now - self.resting >= _FORGET_AFTER:
            self.forget()
        self.resting = None

    def holds(self, tokens: float) -> None:
        """It says that its cache holds so many tokens."""
        if self.capacity is None:
            # Where correcting begins: others' prompts and answers may take part of it.
            self.fleet.budget = tokens * self.fleet.bytes_per_token
        self.capacity = tokens

    def _read(self) -> None:
        news = self.news
        while news:
            news.popleft()()

    def forget(self) -> None:
        """It has lost its cache."""
        self.mirror.clear()
        self._missed = 0

    # -- what answers teach ----------------------------------------------------------------------

    def _reported(self, call: Call, tokens: float, cached: float, now: float) -> None:
        self.reported_total += tokens
        self.reported_tokens += min(tokens, cached)
        if call.seconds is not None and (self.others is None or self.others.settled(call)):
            self._learn(max(0.0, tokens - cached), call.seconds, 0.0, now)
        self._correct(call, cached / tokens, _OFF / tokens)

    def _judge(self, call: Call, now: float) -> None:
        """Learn from the time that a prompt took, when the server did not say what of it was cached."""
        assert call.seconds is not None
        prompt = call.prompt
        if prompt is None:
            return
        known = call.runs[-1][0] / prompt.length if call.runs else 0.0
        expected = call.cached / call.tokens
        computed = min(call.tokens, max(0.0, call.seconds - self.fixed) * self.rate)
        cached = 1.0 - computed / call.tokens
        doubt = (_OFF + _TOLERANCE * computed) / call.tokens
        speed_known = self.speed.rate is not None
        if speed_known and expected - cached > doubt:
            self._correct(call, cached, doubt)
        elif known - expected < _SURE and (not call.runs or call.runs[-1][1] < 0.5 * self.fleet.budget):
            # Certain: all that was ever sent here of this prompt was used so lately that it is still there.
            self._missed = 0
            self._learn(call.tokens - call.cached, call.seconds, call.doubt, now)
        elif speed_known:
            self._correct(call, cached, doubt)

    def _learn(self, tokens: float, seconds: float, doubt: float, now: float) -> None:
        fleet = self.fleet
        self.learnt_at = now
        if seconds > 0 and self.speed.learn(tokens, seconds, doubt, fleet.rate if fleet.known else None):
            fleet.learnt(now)

    def _correct(self, call: Call, cached: float, tolerance: float) -> None:
        """Correct the size of the mirror, by the share of a prompt that turned out to be cached."""
        prompt = call.prompt
        if prompt is None or not call.runs:
            return
        length = prompt.length
        expected = call.cached / call.tokens
        if abs(cached - expected) <= tolerance:
            self._missed = 0
            return
        fleet = self.fleet
        budget = fleet.budget
        if cached < 0.1 * expected and call.runs[0][1] < _LATELY * budget:
            self._missed += 1
            if self._missed >= _MISSES:
                self.forget()
        else:
            self._missed = 0
        target = budget
        start = 0
        if cached > expected:
            for end, age in call.runs:
                if end / length > expected and cached >= (start + end) / 2 / length:
                    target = max(target, age * 1.02)
                start = end
        else:
            for end, age in call.runs:
                if (end - start) / length > tolerance and cached < (start + end) / 2 / length:
                    target = min(target, age * 0.98)
                    break
                start = end
        if target != budget:
            fleet.budget = exp(log(budget) + _GAIN * (log(max(1.0, target)) - log(budget)))
