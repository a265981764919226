"""A provider that a worker granted, with the reservation behind it."""

from __future__ import annotations

import time
from collections.abc import Callable

from typing_extensions import Self

__all__ = ["Grant"]


class Grant(str):
    """The provider's id, and the slot that is reserved on it for one request.

    It is a `str`, so it works wherever a provider id does. Release it exactly once when the request is
    over. One that is dropped without a release frees its slot, as a cancelled request would.

    Attributes:
        rid: The request's id.
        model: The model it was granted for.
    """

    __slots__ = ("_first", "_open", "_release", "_started", "model", "rid")

    rid: str
    model: str
    _release: Callable[[Grant, str, tuple[float, float, float]], None]
    _started: float
    _first: float
    _open: bool

    def __new__(
        cls,
        provider: str,
        *,
        rid: str,
        model: str,
        release: Callable[[Grant, str, tuple[float, float, float]], None],
    ) -> Self:
        """Made by `CeleryRouting`."""
        grant = super().__new__(cls, provider)
        grant.rid = rid
        grant.model = model
        grant._release = release
        grant._started = time.monotonic()
        grant._first = -1.0
        grant._open = True
        return grant

    def first_token(self) -> None:
        """The first token arrived; later calls change nothing."""
        if self._first < 0:
            self._first = time.monotonic() - self._started

    def release(
        self,
        error: BaseException | None = None,
        *,
        completion_tokens: float = 0,
        first_token: float | None = None,
        cancelled: bool = False,
    ) -> bool:
        """The request is over: free the slot and record what was measured.

        Args:
            error: What failed, None for success.
            completion_tokens: Tokens of the answer, 0 if it has none.
            first_token: Seconds to the first token, for callers that did not call `first_token()`.
            cancelled: The client went away; nothing is measured.

        Returns:
            True for the first call, False for any later one.
        """
        # Taking the slot's only value is atomic, so two threads cannot both release.
        try:
            del self._open
        except AttributeError:
            return False
        seconds = time.monotonic() - self._started
        if self._first < 0 and first_token is not None:
            self._first = first_token
        outcome = "drop" if cancelled else "error" if error is not None else "ok"
        per_token = seconds / completion_tokens if completion_tokens > 0 else -1.0
        self._release(self, outcome, (seconds, self._first, per_token))
        return True

    def __del__(self) -> None:
        # A caller that was cancelled between our answer and its own code can release nothing.
        self.release(cancelled=True)
