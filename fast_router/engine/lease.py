"""One in-flight attempt: it holds its deployment's slot from the pick until it is released, once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment
    from fast_router.engine.engine import Engine

__all__ = ["Lease"]


class Lease:
    """An attempt that counts as in flight on one deployment.

    Whatever ends the attempt calls `release` (or `abandon` from a finaliser). Later calls change nothing.

    Attributes:
        deployment: Where the attempt goes.
        started: When it was taken, engine clock, seconds.
        generation: The breaker's generation at that time; a later one makes this attempt's outcome stale.
    """

    __slots__ = ("__weakref__", "_engine", "_first_token", "_open", "deployment", "generation", "started")

    def __init__(self, engine: Engine, deployment: Deployment, started: float) -> None:
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

        Returns:
            True for the call that released it, False for every later one.
        """
        return self._engine.release(
            self, error, completion_tokens, total_tokens, cancelled, observe, prompt_tokens, cached_tokens
        )

    def abandon(self) -> None:
        """Give the slot back from a finaliser: takes no lock, counts as cancelled."""
        self._engine.abandon(self)

    def __repr__(self) -> str:
        state = "open" if self._open else "released"
        return f"<Lease {state} on {self.deployment.id!r}>"
