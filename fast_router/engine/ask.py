"""What one request asks of a pick, and the source of chance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fast_router.engine.prefix_cache.prompt import Prompt

__all__ = ["Ask", "Rng"]


class Rng(Protocol):
    """The part of `random.Random` that picks use."""

    def random(self) -> float:
        """A float in [0, 1)."""
        ...


Source = Callable[[], "tuple[str, Mapping[str, Any] | None] | None"]


class Ask:
    """What is special about one request. Most requests have nothing special: the pick is given None.

    Attributes:
        exclude: Ids that must not be picked (tried already, blocked).
        tokens: Prompt tokens, for deployments with a tokens/minute limit.
        stream: True if the answer is streamed (latency then means time to first token).
        key: Session or prefix, for affinity.
        prompt: The prompt as numbers, for strategies that read prompts; None where `key` is not read yet.
        source: Gives the prompt's text and the chat that it comes from (`messages`, `tools`; None for a text as it is),
            to who tokenises it elsewhere; None where `key` is the text.
        weights: Weights by id that stand in for the configured ones, this request only.
        order: The only tier to pick from, None for the first that has somebody eligible.
    """

    __slots__ = ("exclude", "key", "order", "prompt", "source", "stream", "tokens", "weights")

    def __init__(
        self,
        exclude: Collection[str] = (),
        tokens: float = 0,
        stream: bool = False,  # noqa: FBT001, FBT002, RUF100 - built on the hot path, positionally
        key: str | None = None,
        weights: Mapping[str, float] | None = None,
        order: int | None = None,
        prompt: Prompt | None = None,
        source: Source | None = None,
    ) -> None:
        self.source = source
        self.prompt = prompt
        self.order = order
        self.exclude = exclude
        self.tokens = tokens
        self.stream = stream
        self.key = key
        self.weights = weights
