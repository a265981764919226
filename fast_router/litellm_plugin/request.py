"""What is known of one request and of one attempt of it, for as long as they run.

A request is all that LiteLLM does for one call of a Router: its retries, order tiers and fallbacks. An attempt is one
call of `Router.make_call`: one pick, and what was asked of the deployment that was picked. A pick finds the attempt in
its context and leaves its lease there; a pick outside any attempt (a proxy that asks for a deployment to connect to
by itself) takes none. A request's second attempt beside a slow first one has a record of its own.

Two ContextVars hold all that is known of what is running: `ledger` the request, `here` what is being done for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fast_router.engine.failover.blame import FOREIGN, Terms
from fast_router.engine.failover.failures import ENDED
from fast_router.engine.failover.ledger import AttemptLedger
from fast_router.litellm_plugin.callers import caller_of, terms_of

if TYPE_CHECKING:
    from fast_router.engine import Deployment, Lease
    from fast_router.engine.failover.blame import Case
    from fast_router.engine.failover.hedging import HedgeOptions, HedgePolicy
    from fast_router.engine.failover.policy import FailoverPolicy

__all__ = [
    "Aside", "Attempt", "Bypass", "Context", "Failover", "Ledger", "Reading", "RequestLedger", "Second", "aside",
    "here", "ledger", "on_end", "set_aside",
]  # fmt: skip


class Ledger(Protocol):
    """What a pick may ask of a request: `RequestLedger`, or what stands in for it during one pick."""

    @property
    def tried(self) -> Collection[str]:
        """Ids that the next pick should avoid; empty for a request that has not failed yet."""

    @property
    def terms(self) -> int:
        """What the caller chose in place of the deployment's own, as `engine.failover.blame.Terms`."""

    @property
    def case(self) -> Case:
        """What the request has to say about the deployments that it fails at."""

    def narrow(self, candidates: Sequence[Deployment]) -> Sequence[Deployment]:
        """Keep the best candidates for the next attempt; never empty if they are not."""


class Failover(Protocol):
    """What a request needs of its Router's failover; `rests.policy.LiteLLMFailover` is one.

    Attributes:
        policy: The engine's side.
        hedges: Each model's hedging, with the options that it was made with.
    """

    policy: FailoverPolicy
    hedges: dict[str, tuple[HedgeOptions, HedgePolicy]]

    def members(self, deployment: Deployment) -> Sequence[Deployment]:
        """Give the group that a deployment belongs to."""

    def knows(self, name: str) -> bool:
        """Tell whether deployments stand under that very name."""

    def own_retries(self) -> int:
        """Give how often the Router itself lets a request be retried."""

    def make_room(self, model: str) -> None:
        """Forget the hedging of an older name, if `model` is one more that nobody configured."""


class Second(Protocol):
    """What may start a second attempt beside a first one; `layers.beside.Beside` is one."""

    def take(self, attempt: Attempt) -> None:
        """Let `attempt` be the first one."""


class Bypass:
    """What a request has passed by.

    Attributes:
        used: Whether it has passed a model by.
        skipped: Whether one of these was a fallback.
        over: Whether it is made as ever now: nothing is passed by any more.
        probe: The deployment that it is to probe, None for none.
        ways: The fallbacks of the model that it asked for, in their order.
    """

    __slots__ = ("over", "probe", "skipped", "used", "ways")

    def __init__(self) -> None:
        self.used = False
        self.skipped = False
        self.over = False
        self.probe: str | None = None
        self.ways: tuple[str, ...] | None = None


class RequestLedger(AttemptLedger):
    """The ledger of one request, over its retries and fallbacks.

    Attributes:
        failover: The Router's failover, None if it could not be made.
        request: Its keyword arguments; None once it is over.
        retries: How many retries it has spent.
        refusals: How many times it was refused a retry that LiteLLM began all the same.
        own_retries: Retries beyond which they are the caller's own wish, None if the Router's setting is not known.
        hedge: Whether it is a second attempt's beside the first.
        bypass: What it has passed by, None before it was asked.
        beginning: Whether a stream of it is asked for its first chunk.
        beside: What may start a second attempt beside the one that begins now; that attempt takes it.
        hop: Whether LiteLLM has gone on to a fallback with it.
        error: Identity of the error of the latest failure.
        model: The model name of the latest attempt.
        raised: The latest failure itself, for a retry that the budget refuses.
        may_wait: Whether it may wait: not if that would block an event loop.
        wait_until: Clock time in seconds until which it waits in all, None before its first wait.
        who: Who made it, once it is over and a stream of its own goes on.
    """

    __slots__ = (
        "beginning", "beside", "bypass", "error", "failover", "hedge", "hop", "may_wait", "model", "own_retries",
        "raised", "refusals", "request", "retries", "wait_until", "who",
    )  # fmt: skip

    def __init__(
        self, failover: Failover | None, request: Mapping[str, object] | None = None, *, may_wait: bool = True
    ) -> None:
        super().__init__(None if failover is None else failover.policy.doubtful)
        self.failover = failover
        self.hedge = False
        self.hop = False
        self.bypass: Bypass | None = None
        self.beginning = False
        self.beside: Second | None = None
        self.request = request
        if request is not None:
            self.terms = terms_of(request)
        self.retries = 0
        self.refusals = 0
        self.own_retries: int | None = None
        self.error = 0
        self.model: object = None
        self.raised: Exception | None = None
        self.may_wait = may_wait
        self.wait_until: float | None = None
        self.who: Hashable | None = None

    def caller(self) -> Hashable | None:
        """Tell who makes the request; see `callers.caller_of`."""
        return self.who if self.request is None else caller_of(self.request)

    def goes_on_from(self, stream: Reading | None) -> None:
        """Speak as the request whose stream broke while it was read: LiteLLM begins some of these anew."""
        if stream is None or stream.attempt.open:
            return
        earlier = stream.attempt.ledger
        if isinstance(earlier, RequestLedger):
            self._case = earlier.case

    def fork(self) -> RequestLedger:
        """Give the ledger of a second attempt of the same request, made side by side with the first one."""
        fork = RequestLedger(self.failover)
        fork.hedge = True
        fork.request, fork.terms, fork._case = self.request, self.terms, self.case
        return fork

    def over(self) -> None:
        """Let go of what the request holds."""
        request, self.raised, self.request = self.request, None, None
        if request is not None and request.get("stream"):
            self.who = caller_of(request)  # its stream may yet break


ledger: ContextVar[RequestLedger | None] = ContextVar("fast_router_request", default=None)
"""The ledger of the request that is running in this context."""


def caller_here(request: Mapping[str, object]) -> Hashable | None:
    """Tell who makes the request that is running in this context, by its keyword arguments if it has no ledger."""
    running = ledger.get()
    return caller_of(request) if running is None else running.caller()


on_end: list[Callable[[Attempt, BaseException | None, bool], None]] = []
"""Called at the end of each attempt that had a lease: (attempt, error, cancelled)."""


class Attempt:
    """One call of `Router.make_call`.

    Attributes:
        model: The model name as the call has it.
        ledger: What this request has tried before.
        lease: The lease of its pick, None before the pick.
        more: Further leases, of a call that picks more than once.
        beside: What may start a second attempt beside it, None for nothing.
        foreign: Whether the caller asks with a key or at an address of its own: nothing is learnt from it.
        fresh: True while the pick may take the shortest way: none made yet, nothing tried before, nothing foreign.
        open: False once it has ended; a task that outlives the call must not lease into it.
        completion_tokens: Tokens of the answer, for `on_end`; not set before.
    """

    __slots__ = (
        "__weakref__", "beside", "completion_tokens", "foreign", "fresh", "lease", "ledger", "model", "more", "open",
    )  # fmt: skip

    def __init__(self, model: object, tried: Ledger | None) -> None:
        self.model = model
        self.ledger = tried
        self.lease: Lease | None = None
        self.beside: Second | None = None
        self.more: list[Lease] | None = None
        self.open = True
        self.foreign = tried is not None and tried.terms & FOREIGN != 0
        self.fresh = tried is None or not (tried.tried or self.foreign)

    def take(self, lease: Lease) -> None:
        """Let `lease` end with this attempt."""
        if self.foreign and self.ledger is not None:
            lease.disown(elsewhere=self.ledger.terms & Terms.ENDPOINT != 0)
        if not self.open:
            lease.release(cancelled=True)
        elif self.lease is None:
            self.lease = lease
            self.fresh = False
            lease.deployment.attempts.add(self)
        elif self.more is None:
            self.more = [lease]
        else:
            self.more.append(lease)

    def end(
        self,
        error: BaseException | None = None,
        *,
        completion_tokens: float = 0,
        total_tokens: float = 0,
        cancelled: bool = False,
        observe: bool = True,
        prompt_tokens: float = 0,
        cached_tokens: float | None = None,
    ) -> bool:
        """Release what it holds; only the first call counts, and says True."""
        if not self.open:
            return False
        self.open = False
        self.fresh = False
        self.beside = None
        lease = self.lease
        if lease is None:
            return True
        lease.deployment.attempts.discard(self)
        if error is not None and not isinstance(error, Exception):
            # The caller went away (a cancelled task, Ctrl-C): that says nothing about the deployment.
            error, cancelled = None, True
        if error is not None:
            if self.ledger is not None:
                lease.case = self.ledger.case
            # Whatever it is found in from now on is a later attempt's.
            getattr(error, "__dict__", {})[ENDED] = True
        elif self.foreign:
            completion_tokens = total_tokens = 0
            cancelled, observe = True, False
        lease._engine.release(
            lease, error, completion_tokens, total_tokens, cancelled, observe, prompt_tokens, cached_tokens
        )
        if self.more is not None:
            for further in self.more:
                further.release(error, cancelled=cancelled, observe=False)
        self.completion_tokens = completion_tokens
        for hook in on_end:
            hook(self, error, cancelled)
        return True

    def abandon(self) -> None:
        """End it from a finaliser, where no lock may be taken."""
        if self.open:
            self.open = False
            for lease in (self.lease, *(self.more or ())):
                if lease is not None:
                    lease.deployment.attempts.discard(self)
                    lease.abandon()


class Reading(Protocol):
    """Who hears of what is read of a stream.

    Attributes:
        attempt: Ends with the stream.
    """

    attempt: Attempt

    def item(self, chunk: object) -> None:
        """A chunk has arrived."""

    def finished(self) -> None:
        """It was read to its end."""

    def broken(self, error: BaseException) -> None:
        """It failed, or somebody stopped it."""

    def closed(self) -> None:
        """The caller closed it before its end."""


class Aside(NamedTuple):
    """What few contexts hold, each for as long as its owner says; immutable.

    Attributes:
        permits: While LiteLLM judges a failure on our behalf: tells of an id, and the seconds for which LiteLLM would
            let it cool down, for how many the evidence is enough; None for none.
        enters_own: Whether LiteLLM makes a deployment of what a caller has brought along.
        worker_asked: Whether a routing worker was asked for the pick that runs: LiteLLM answers some asynchronous picks
            with its synchronous one.
        picks_alone: Whether 1.110's core is asked for a pick without a call.
        walk: The walk of 1.110's core that runs, a `rust_core.steps.Walk`.
        carried: The ledger for the walk that begins next, of a request that has tried something already.
        replay: What 1.110's lane hands over to LiteLLM's walk, a `rust_core.lane.replay.Replay`.
        rollout: The request of a rollout that runs, or whose stream is being read, a `rollout.request.Request`.
    """

    permits: Callable[[str, float], float | None] | None = None
    enters_own: bool = False
    worker_asked: bool = False
    picks_alone: bool = False
    walk: object | None = None
    carried: RequestLedger | None = None
    replay: object | None = None
    rollout: object | None = None


class Context:
    """What is being done in a context; replaced as a whole and never changed, since tasks inherit it.

    Attributes:
        attempt: The attempt that is running.
        reading: The stream that is asking its source for the next chunk.
        filtered: The pick that LiteLLM's pipeline runs for, a `picks.filtered.Filtered`.
        aside: What few contexts hold.
    """

    __slots__ = ("aside", "attempt", "filtered", "reading")

    def __init__(self, attempt: Attempt | None, reading: Reading | None, filtered: object | None, aside: Aside) -> None:
        self.attempt = attempt
        self.reading = reading
        self.filtered = filtered
        self.aside = aside


_NOTHING = Context(None, None, None, Aside())
here: ContextVar[Context] = ContextVar("fast_router_here", default=_NOTHING)
"""What is being done in this context."""


def aside() -> Aside:
    """Give what this context holds that few do."""
    return here.get().aside


def set_aside(changed: Aside) -> None:
    """Let this context hold `changed`; the rest of it stays."""
    now = here.get()
    here.set(Context(now.attempt, now.reading, now.filtered, changed))
