"""One call as it was expected to go when it was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_router.engine.prefix_cache.mirror import Run
    from fast_router.engine.prefix_cache.prompt import Prompt

__all__ = ["Call"]


class Call:
    """What was expected of one call when it was sent.

    Attributes:
        number: In the order of arrival at this server.
        began: Engine clock, seconds.
        tokens: Of the prompt.
        cached: Tokens of it that were expected to be cached.
        doubt: Tokens more that may be: our blocks are coarse.
        work: Seconds to compute the rest.
        full: Seconds to compute all of it.
        stream: Whether a first token will be heard of.
        prompt: None if its text is unknown.
        runs: What was known of it before.
        serial: Of its use in the mirror.
        seconds: That computing it took, once that is known.
    """

    __slots__ = (
        "began", "cached", "doubt", "full", "number", "prompt", "runs", "seconds", "serial", "stream", "tokens", "work",
    )  # fmt: skip

    def __init__(self, number: int, began: float, tokens: float, stream: bool) -> None:
        self.number = number
        self.began = began
        self.tokens = tokens
        self.stream = stream
        self.cached = 0.0
        self.doubt = 0.0
        self.work = 0.0
        self.full = 0.0
        self.prompt: Prompt | None = None
        self.runs: list[Run] = []
        self.serial = -1
        self.seconds: float | None = None
