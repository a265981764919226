"""One round trip: commands, and who takes which answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Batch", "Command", "code"]

Command = tuple[Any, ...]
Taker = Callable[[list[Any]], None]


class Batch:
    """Commands that travel together.

    Attributes:
        commands: In the order in which they are sent.
    """

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self._takers: list[tuple[int, int, Taker | None]] = []

    def add(self, commands: Sequence[Command], take: Taker | None = None) -> None:
        """Add `commands`; `take` gets their answers, unless one of them is an error."""
        if commands:
            start = len(self.commands)
            self.commands += commands
            self._takers.append((start, len(self.commands), take))

    def deliver(self, answers: Sequence[Any]) -> list[Exception]:
        """Hand the answers out; returns the errors among them."""
        failed: list[Exception] = []
        for start, stop, take in self._takers:
            part = list(answers[start:stop])
            errors = [a for a in part if isinstance(a, Exception)]
            if errors:
                failed += errors
            elif take is not None:
                take(part)
        return failed


def code(error: BaseException) -> str:
    """The error code of a Redis answer (`OOM`, `READONLY`, `WRONGTYPE`), never its text."""
    kind = type(error).__name__
    known = {"ReadOnlyError": "READONLY", "OutOfMemoryError": "OOM", "NoScriptError": "NOSCRIPT"}
    if kind in known:
        return known[kind]
    word = str(error).split(" ", 1)[0]
    return word if word.isupper() and word.isalpha() else kind
