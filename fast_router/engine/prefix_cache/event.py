"""What became of a call, as processes before the same servers tell each other."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fast_router.engine.prefix_cache.prompt import Prompt

__all__ = ["Event", "What"]


class What(IntEnum):
    """What became of a call."""

    SENT = 0
    """It was sent."""
    SPOKE = 1
    """Its first token came."""
    DONE = 2
    """Its answer is complete, or its caller gave up; of its first token nothing is known."""
    UNDONE = 3
    """It failed or went elsewhere: its prompt was not computed."""


class Event(NamedTuple):
    """Something became of a call.

    Attributes:
        what: What it was.
        server: The deployment's id.
        number: Of the call, in the order of those that its process sent to that server.
        at: When, seconds of the engine's clock.
        tokens: Of its prompt.
        stream: Whether its first token will be told.
        prompt: What was sent, None where that does not matter.
    """

    what: What
    server: str
    number: int
    at: float
    tokens: float = 0.0
    stream: bool = False
    prompt: Prompt | None = None
