"""Whom a failed attempt speaks against: the deployment, its request, its caller, or nobody.

Everything that learns from failures asks here: breakers, cooldowns, windows, outliers, silence, latency, peak EWMA,
retry budgets and what other processes are told. The answer follows from how the attempt ended, from who chose its
parameters (`Terms`) and, over several attempts of one request, from what happened to it elsewhere (`Case`, which
`evidence` fills in).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final

from fast_router.engine.failover.failures import FailureKind, answered, classify, forbidden, sent

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from fast_router.engine.deployment import Deployment
    from fast_router.engine.learning import Learnt

__all__ = ["FOREIGN", "Blame", "Case", "Charge", "Terms", "blame", "blamed"]


class Blame(enum.Enum):
    """Whom a failure speaks against."""

    DEPLOYMENT = "deployment"
    """Its server, its key or its quota: whoever asks there next will fare the same."""
    REQUEST = "request"
    """What was asked: it would be refused anywhere."""
    CALLER = "caller"
    """What the caller brought along: a key, an endpoint, headers, a timeout."""
    NOBODY = "nobody"
    """Refused in this process, or given up by the caller: no server was heard."""


class Terms(enum.IntFlag):
    """What the caller chose in place of the deployment's own parameters."""

    NONE = 0
    CREDENTIALS = 1
    """A key, a token, an organization, headers that say who asks: the server is the shared one."""
    ENDPOINT = 2
    """An address: the server is the caller's."""
    TIMEOUT = 4
    """How long to wait."""
    ANSWER = 8
    """A made-up answer or error (LiteLLM's ``mock_*``)."""
    OTHERWISE = 16
    """What else to ask if it fails: the answer to that says nothing about the failure."""


FOREIGN: Final = int(Terms.CREDENTIALS | Terms.ENDPOINT)
"""Terms under which an attempt says nothing about the deployment, be it a success or a failure."""


class Charge:
    """A failure that one request holds against one deployment.

    Attributes:
        deployment: Whom it speaks against.
        kind: Why the attempt failed.
        at: When, engine clock, seconds.
        before: The breaker's failures in a row before it.
        learnt: What the deployment's speed was taken for before it, see `engine.learning.Learnt`.
        opened: The breaker's generation if the charge opened it, else None.
        confirmed: Whether the same request succeeded elsewhere.
        on_take_back: Called when the charge is taken back, to undo what others have learnt from it.
    """

    __slots__ = ("at", "before", "confirmed", "deployment", "kind", "learnt", "on_take_back", "opened")

    def __init__(self, deployment: Deployment, kind: FailureKind, at: float, before: tuple[int, int]) -> None:
        self.deployment = deployment
        self.kind = kind
        self.at = at
        self.before = before
        self.learnt: Learnt | None = None
        self.opened: int | None = None
        self.confirmed = False
        self.on_take_back: Callable[[], None] | None = None


class Case:
    """What one request has to say, over all its attempts.

    Attributes:
        caller: Who asks, as far as it is known: equal values are one voice. None: the request speaks for itself.
        terms: What the caller chose.
        charge: The failure that it holds against a deployment, one at the most.
        suspects: Deployments that it failed at while no charge of its stands, the first one first.
        followed: Whether a failure has followed it to a second deployment.
        counted: Whether its latest failure spoke against its deployment.
    """

    __slots__ = ("caller", "charge", "counted", "followed", "suspects", "terms")

    def __init__(self, caller: Hashable | None = None, terms: int = Terms.NONE) -> None:
        self.caller = caller
        self.terms = terms
        self.charge: Charge | None = None
        self.suspects: list[tuple[Deployment, FailureKind]] = []
        self.followed = False
        self.counted = False

    @property
    def voice(self) -> Hashable:
        """Who speaks: the caller, or the request itself where the caller is unknown."""
        return self if self.caller is None else self.caller

    @property
    def foreign(self) -> bool:
        """Whether its attempts say nothing about the deployment."""
        return bool(self.terms & FOREIGN)


def blame(error: BaseException, case: Case | None = None) -> Blame:
    """Tell whom a failure speaks against, taken by itself.

    Args:
        error: What the attempt raised.
        case: What is known of its request. None: the attempt was made by a program of its own, whose every exception
            is an outcome (a direct lease): only the error counts.

    Returns:
        The verdict. ``DEPLOYMENT`` may still be taken back when the same request fails elsewhere.
    """
    kind = classify(error)
    if kind is FailureKind.CANCELLED:
        return Blame.NOBODY
    if case is not None:
        terms = case.terms
        if terms & FOREIGN or terms & Terms.ANSWER:
            return Blame.CALLER
        if not sent(error):
            return Blame.NOBODY
        if kind is FailureKind.TIMEOUT and terms & Terms.TIMEOUT and not answered(error):
            return Blame.CALLER
    # A 403 is as often a word about the content as about the key; LiteLLM rests nobody for it either.
    if kind is FailureKind.CLIENT or (case is not None and forbidden(error)):
        return Blame.REQUEST
    return Blame.DEPLOYMENT


def blamed(error: BaseException, lease: Any) -> Blame:
    """Tell the same of a lease's attempt."""
    return blame(error, getattr(lease, "case", None))
