"""One in-flight attempt: it holds its deployment's slot from the pick until it is released, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from fast_router.engine.token_counts import counted

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment
    from fast_router.engine.failover.blame import Blame, Case
    from fast_router.engine.learning import Learnt

__all__ = ["Lease", "Releases"]


class Releases(Protocol):
    """The engine as a lease sees it: told of its end and of its first token."""

    clock: Callable[[], float]

    def first_token(self, lease: Lease) -> None:
        """The first token has arrived."""

    def release(
        self,
        lease: Lease,
        error: BaseException | None = None,
        completion_tokens: float = 0,
        total_tokens: float = 0,
        cancelled: bool = False,  # noqa: FBT001, FBT002, RUF100 - called positionally on the hot path
        observe: bool = True,  # noqa: FBT001, FBT002, RUF100
        prompt_tokens: float = 0,
        cached_tokens: float | None = None,
    ) -> bool:
        """The attempt has ended; True the first time."""
        ...

    def observe(
        self,
        deployment: Deployment,
        seconds: float,
        *,
        completion_tokens: float = 0,
        total_tokens: float = 0,
        first_token: float | None = None,
    ) -> None:
        """Learn from an attempt that was released with `observe=False`."""

    def disown(self, lease: Lease, *, elsewhere: bool) -> None:
        """The caller asks with a key or at an address of its own."""

    def abandon(self, lease: Lease) -> None:
        """The attempt has ended in a finaliser: no lock may be taken."""


class Lease:
    """An attempt that counts as in flight on one deployment.

    Whatever ends the attempt calls `release` (or `abandon` from a finaliser). Later calls change nothing.

    Attributes:
        deployment: Where the attempt goes.
        started: When it was taken, engine clock, seconds.
        generation: The breaker's generation at that time; a later one makes this attempt's outcome stale.
        case: Its request, set before a failed attempt is released by whoever sees requests.
        blame: Whom its failure speaks against, set by its release.
        before: What the deployment's speed was taken for before that failure.
        bound: True if its request could go nowhere else in its group; not set otherwise.
    """

    __slots__ = (
        "__weakref__",
        "_engine",
        "_first_token",
        "_open",
        "before",
        "blame",
        "bound",
        "case",
        "deployment",
        "generation",
        "started",
    )

    # Set for failures alone: a lease is made at every pick.
    case: Case | None
    blame: Blame
    before: Learnt
    bound: bool

    def __init__(self, engine: Releases, deployment: Deployment, started: float) -> None:
        self._engine = engine
        self._open = True
        self._first_token: float | None = None
        self.deployment = deployment
        self.started = started
        self.generation = 0

    @property
    def id(self) -> str:
        """The deployment's id."""
        return self.deployment.id

    @property
    def entry(self) -> Mapping[str, Any]:
        """The caller's own model-list entry."""
        return self.deployment.entry

    @property
    def open(self) -> bool:
        """True until released."""
        return self._open

    def first_token(self) -> None:
        """Note that the first token has arrived; only the first call counts."""
        if self._first_token is None:
            self._engine.first_token(self)

    @property
    def seconds_to_first_token(self) -> float | None:
        """Seconds from the pick to the first token, None before it arrived."""
        return self._first_token

    def release(
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
        """Give the slot back and say how the attempt ended.

        Args:
            error: What failed, None if nothing did.
            completion_tokens: Tokens of the answer; the latency is then counted per token.
            total_tokens: Prompt and answer together, for the tokens/minute limit.
            cancelled: The caller gave up: neither a success nor a failure of the deployment.
            observe: False if the latency is reported elsewhere (`Engine.observe`).
            prompt_tokens: Tokens of the prompt, as the answer counts them; 0 if it does not.
            cached_tokens: Those of them that the server had in its prefix cache; None if the answer does not say.

        Tokens that are None, negative, NaN or no number at all count as not given: the slot is given back whatever an
        answer's usage holds.

        Returns:
            True for the call that released it, False for every later one.
        """
        return self._engine.release(
            self,
            error,
            counted(completion_tokens) if completion_tokens else 0.0,
            counted(total_tokens) if total_tokens else 0.0,
            cancelled,
            observe,
            counted(prompt_tokens) if prompt_tokens else 0.0,
            None if cached_tokens is None else counted(cached_tokens),
        )

    def disown(self, *, elsewhere: bool) -> None:
        """Note that the caller asks with a key or at an address of its own: the attempt uses up nothing shared.

        Args:
            elsewhere: The server is the caller's too: nothing is in flight here, the lease is over.
        """
        self._engine.disown(self, elsewhere=elsewhere)

    def abandon(self) -> None:
        """Give the slot back from a finaliser: takes no lock, counts as cancelled."""
        self._engine.abandon(self)

    def __repr__(self) -> str:
        state = "open" if self._open else "released"
        return f"<Lease {state} on {self.deployment.id!r}>"
