"""What kind of failure an error is, and whether another deployment may do better.

The classes of LiteLLM, openai, httpx and aiohttp are recognised by name and status code, because the
engine imports nothing but the standard library.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["FailureKind", "answered", "certain", "classify", "forbidden", "remember", "sent", "status_of"]


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
# Only these stand for bytes that were sent, or would have been; LiteLLM dresses its own mistakes as a lost connection.
_TRANSPORT: Final = frozenset({"TransportError", "ClientError", "APIConnectionError", "ConnectionError", "gaierror"})
_LITELLM: Final = "litellm."
# What no request can bring about: nobody listens there.
_UNREACHABLE: Final = frozenset({"ConnectError", "ClientConnectorError", "ConnectionRefusedError", "gaierror"})
_RESET: Final = frozenset({"ConnectionResetError", "BrokenPipeError", "ServerDisconnectedError"})
# How deep a chain of causes is followed: exceptions may form long chains in retry loops.
_DEPTH: Final = 12
_REMEMBERED: Final = "_fast_router_failure"
ENDED: Final = "_fast_router_ended"
"""An attribute of errors whose attempt is over: what follows in a chain belongs to an earlier attempt."""


def status_of(error: BaseException | None) -> int | None:
    """Read the HTTP status that an exception stands for.

    Args:
        error: Any exception; ``status_code`` or ``status`` is read, else those of its ``response``.

    Returns:
        The status, or None if there is none.
    """
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            status = _number(getattr(holder, name, None))
            if status is not None:
                return status
    return None


def _number(value: object) -> int | None:
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599 else None


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


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Give an error and what it came from, up to the error of an earlier attempt."""
    found: BaseException | None = error
    for _ in range(_DEPTH):
        if found is None or (found is not error and getattr(found, ENDED, False)):
            return
        yield found
        found = found.__cause__ or found.__context__


def _names(error: BaseException) -> Iterator[str]:
    return (cls.__name__ for cls in type(error).__mro__)


def classify(error: BaseException) -> FailureKind:
    """Tell what kind of failure an error is.

    Args:
        error: What the attempt raised.

    Returns:
        The kind. What LiteLLM makes of an error (a 500 for a refused connection, a connection error for an error inside
        a stream) gives way to what is found in its chain of causes. An error that says nothing counts as the server's.
    """
    if not isinstance(error, Exception):
        return FailureKind.CANCELLED
    remembered = _remembered(error)
    if remembered is not None:
        return remembered.kind
    if type(error).__name__ == "CancelledError":
        return FailureKind.CANCELLED
    kind = _named(error)
    status = status_of(error)
    if kind is None and status is not None:
        kind = _of_status(status)
    if kind in (None, FailureKind.CONNECTION) or (kind is FailureKind.SERVER and status in (500, 503)):
        below = _from_causes(error)
        if below is not None:
            return below
    return kind or FailureKind.SERVER


class _Failure(NamedTuple):
    kind: FailureKind
    answered: bool
    sent: bool
    certain: bool
    forbidden: bool


def remember(error: BaseException) -> None:
    """Keep what a failure means with it, before its chain of causes is rewritten."""
    if isinstance(error, Exception):
        vars(error)[_REMEMBERED] = _Failure(
            classify(error), answered(error), sent(error), certain(error), forbidden(error)
        )


def _remembered(error: BaseException) -> _Failure | None:
    found: _Failure | None = getattr(error, _REMEMBERED, None)
    return found


def _of_status(status: int) -> FailureKind:
    kind = _BY_STATUS.get(status)
    if kind is None:
        kind = FailureKind.CLIENT if 400 <= status < 500 else FailureKind.SERVER
    return kind


def _from_causes(error: BaseException) -> FailureKind | None:
    for cause in _chain(error):
        if cause is error:
            continue
        kind = _named(cause)
        if kind is FailureKind.TIMEOUT:
            return kind
        # LiteLLM dresses a refused connection as a 500 twice; only these stand for an answer that came.
        if _is_answer(cause):
            return None
        status = _in_stream(cause)
        if status is not None:
            return _of_status(status)
        if kind is FailureKind.CONNECTION and not _below(cause):
            return kind
        if kind is not None and kind is not FailureKind.CONNECTION:
            return None
    return None


def _below(error: BaseException) -> bool:
    return (error.__cause__ or error.__context__) is not None


def _in_stream(error: BaseException) -> int | None:
    """Read the status of an error that a server wrote into a stream; 500 if it gave none, None for other errors."""
    if type(error).__name__ != "APIError" or _own(error):
        return None
    body = getattr(error, "body", None)
    for value in (getattr(error, "code", None), body.get("code") if isinstance(body, dict) else None):
        status = _number(value)
        if status is not None and status >= 400:
            return status
    return 500


def answered(error: BaseException) -> bool:
    """Tell whether the server answered: with an error status, or with an error inside a stream."""
    remembered = _remembered(error)
    if remembered is not None:
        return remembered.answered
    # LiteLLM sets it on what it makes of an answer, and on nothing else.
    if getattr(error, "litellm_response_headers", None) is not None:
        return True
    return any(_is_answer(e) or _in_stream(e) is not None for e in _chain(error))


def forbidden(error: BaseException) -> bool:
    """Tell whether the server refused with 403: by its answer, or inside a stream."""
    remembered = _remembered(error)
    if remembered is not None:
        return remembered.forbidden
    return status_of(error) == 403 or any(_in_stream(e) == 403 for e in _chain(error))


def _is_answer(error: BaseException) -> bool:
    # LiteLLM's own errors derive from openai's, whatever they are made of.
    return not _own(error) and not _ANSWERED.isdisjoint(_names(error))


def _own(error: BaseException) -> bool:
    return type(error).__module__.startswith(_LITELLM)


def sent(error: BaseException) -> bool:
    """Tell whether the attempt got as far as a server.

    LiteLLM refuses requests by itself (a full deployment, its own rate limits, arguments that it cannot translate) and
    raises the exceptions that stand for a server's answer. Those have neither an answer nor a broken connection in
    their chain, while an exception that LiteLLM's callers make up (`mock_response`) has no chain at all.

    Args:
        error: What an attempt made by LiteLLM raised.

    Returns:
        False if nothing was sent.
    """
    remembered = _remembered(error)
    if remembered is not None:
        return remembered.sent
    if answered(error):
        return True
    if getattr(error, "category", None) == "litellm_rate_limit":
        return False
    bare, first = True, error
    for cause in _chain(error):
        names, first = set(_names(cause)), cause
        if not _own(cause) and (not names.isdisjoint(_TRANSPORT) or _named(cause) is FailureKind.TIMEOUT):
            return True
        # The answer came, and makes no sense.
        if "JSONDecodeError" in names or "MockException" in names or _came_of_an_answer(cause):
            return True
        bare = bare and cause is error
    # A stream that breaks is raised by the Router's own wrapper: the chain above comes first.
    status = status_of(first)
    if refused_here(first) or "APIConnectionError" in set(_names(first)) or status is None:
        return False
    # Nothing below it: made up in the place of an answer. LiteLLM's own refusals of that shape are not, and what it
    # refuses to translate is no 5xx: that is its word for an answer in which it finds nothing (a page, `null`, `{}`).
    return bare or (_own(first) and status >= 500)


# Where LiteLLM takes an answer apart.
_READERS: Final = ("/llm_response_utils/", "\\llm_response_utils\\")
_READING: Final = re.compile(r"\w*transform\w*_response")


def _came_of_an_answer(error: BaseException) -> bool:
    """Tell whether an error was raised over what a server had answered."""
    # openai's client gives an answer of another type than JSON as text.
    if isinstance(error, AttributeError) and getattr(error, "name", None) == "model_dump":
        return True
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if any(part in code.co_filename for part in _READERS) or _READING.fullmatch(code.co_name):
            return True
        trace = trace.tb_next
    return False


# Where LiteLLM refuses an attempt before it makes the call.
_ROUTING: Final = ("/litellm/router", "\\litellm\\router")
_CALL: Final = ("/litellm/utils.py", "\\litellm\\utils.py")


def refused_here(error: BaseException) -> bool:
    """Tell whether LiteLLM's Router raised an error by itself, without having made the call."""
    trace: TracebackType | None = error.__traceback__
    routing = False
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.endswith(_CALL):
            return False
        routing = routing or any(part in name for part in _ROUTING)
        trace = trace.tb_next
    return routing


def certain(error: BaseException) -> bool:
    """Tell whether no request can have brought a failure about: nobody listens at that address."""
    remembered = _remembered(error)
    if remembered is not None:
        return remembered.certain
    unreachable = False
    for cause in _chain(error):
        names = set(_names(cause))
        if not names.isdisjoint(_RESET):
            return False
        unreachable = unreachable or not names.isdisjoint(_UNREACHABLE)
    return unreachable
