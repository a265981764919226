"""What a failure means: whose fault it is, and whether another deployment may do better.

The classes of LiteLLM, openai, httpx and aiohttp are recognised by name and status code, because the
engine imports nothing but the standard library.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["FailureKind", "classify", "status_of"]


class FailureKind(enum.Enum):
    """Why an attempt failed."""

    CLIENT = "client"
    """The request itself is wrong (400, context window, content policy): no deployment is to blame."""
    RATE_LIMIT = "rate_limit"
    """The deployment has no quota left for now (429)."""
    AUTH = "auth"
    """The deployment's key is refused, not permitted or not paid (401, 402, 403)."""
    NOT_FOUND = "not_found"
    """The deployment does not serve this model (404)."""
    CONNECTION = "connection"
    """No connection, or it broke: refused, reset, DNS, TLS."""
    TIMEOUT = "timeout"
    """The deployment did not answer in time (408, 504, client-side timeouts)."""
    SERVER = "server"
    """The deployment is broken (5xx) or its answer makes no sense."""
    CANCELLED = "cancelled"
    """The caller went away: nobody's fault."""

    @property
    def blames_deployment(self) -> bool:
        """Whether the failure counts against the deployment."""
        return self not in _BLAMELESS

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later on the same deployment."""
        return self in _RETRYABLE

    @property
    def elsewhere(self) -> bool:
        """Whether the same request may succeed at once on another deployment."""
        return self not in _BLAMELESS


_BLAMELESS: Final = frozenset({FailureKind.CLIENT, FailureKind.CANCELLED})
_RETRYABLE: Final = frozenset({FailureKind.RATE_LIMIT, FailureKind.CONNECTION, FailureKind.TIMEOUT, FailureKind.SERVER})

# More telling than the status code: LiteLLM gives its connection errors the status 500 and its
# content-policy errors the status 400.
_BY_NAME: Final = {
    "ContextWindowExceededError": FailureKind.CLIENT,
    "ContentPolicyViolationError": FailureKind.CLIENT,
    "Timeout": FailureKind.TIMEOUT,
    "APITimeoutError": FailureKind.TIMEOUT,
    "TimeoutException": FailureKind.TIMEOUT,
    "ServerTimeoutError": FailureKind.TIMEOUT,
    "APIConnectionError": FailureKind.CONNECTION,
    "NetworkError": FailureKind.CONNECTION,
    "RemoteProtocolError": FailureKind.CONNECTION,
    "ClientConnectionError": FailureKind.CONNECTION,
    "ClientPayloadError": FailureKind.CONNECTION,
    "RateLimitError": FailureKind.RATE_LIMIT,
    "AuthenticationError": FailureKind.AUTH,
    "PermissionDeniedError": FailureKind.AUTH,
    "NotFoundError": FailureKind.NOT_FOUND,
    "BadRequestError": FailureKind.CLIENT,
    "UnprocessableEntityError": FailureKind.CLIENT,
}
_BY_STATUS: Final = {
    401: FailureKind.AUTH,
    402: FailureKind.AUTH,
    403: FailureKind.AUTH,
    404: FailureKind.NOT_FOUND,
    408: FailureKind.TIMEOUT,
    429: FailureKind.RATE_LIMIT,
    499: FailureKind.CANCELLED,
    504: FailureKind.TIMEOUT,
}
_ANSWERED: Final = frozenset({"APIStatusError", "HTTPStatusError", "ClientResponseError"})
# How deep a chain of causes is followed: exceptions may form long chains in retry loops.
_DEPTH: Final = 6


def status_of(error: BaseException | None) -> int | None:
    """Read the HTTP status that an exception stands for.

    Args:
        error: Any exception; ``status_code`` or ``status`` is read, else those of its ``response``.

    Returns:
        The status, or None if there is none.
    """
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            value = getattr(holder, name, None)
            if isinstance(value, str) and value.isdigit():
                value = int(value)
            if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
                return value
    return None


def _named(error: BaseException) -> FailureKind | None:
    if isinstance(error, TimeoutError):
        return FailureKind.TIMEOUT
    if isinstance(error, ConnectionError):
        return FailureKind.CONNECTION
    for cls in type(error).__mro__:
        kind = _BY_NAME.get(cls.__name__)
        if kind is not None:
            return kind
        if cls.__name__ == "TimeoutError":  # asyncio.TimeoutError is a class of its own up to Python 3.10
            return FailureKind.TIMEOUT
    return None


def classify(error: BaseException) -> FailureKind:
    """Tell what a failure means.

    Args:
        error: What the attempt raised.

    Returns:
        The kind. A 500 without an answer behind it (LiteLLM's dress for a refused or reset
        connection) is found by its chain of causes. An error that says nothing counts as the server's.
    """
    if not isinstance(error, Exception):
        return FailureKind.CANCELLED
    if type(error).__name__ == "CancelledError":
        return FailureKind.CANCELLED
    kind = _named(error)
    status = status_of(error)
    if kind is None and status is not None:
        kind = _BY_STATUS.get(status)
        if kind is None:
            kind = FailureKind.CLIENT if 400 <= status < 500 else FailureKind.SERVER
    if kind is None or (kind is FailureKind.SERVER and status == 500):
        below = _from_causes(error)
        if below is not None:
            return below
    return kind or FailureKind.SERVER


def _from_causes(error: BaseException) -> FailureKind | None:
    cause = error.__cause__ or error.__context__
    for _ in range(_DEPTH):
        if cause is None:
            return None
        kind = _named(cause)
        if kind in (FailureKind.CONNECTION, FailureKind.TIMEOUT):
            return kind
        # LiteLLM dresses a refused connection as a 500 twice; only these stand for an answer that came.
        if kind is not None or any(cls.__name__ in _ANSWERED for cls in type(cause).__mro__):
            return None
        cause = cause.__cause__ or cause.__context__
    return None
