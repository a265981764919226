"""What an answer says about when to come back, in seconds from now.

Providers say it in different ways; the most precise one wins:

1. ``retry-after-ms`` (Azure, OpenAI): milliseconds.
2. ``retry-after`` (RFC 9110 section 10.2.3): seconds, or an HTTP date.
3. The reset time of an exhausted limit: ``x-ratelimit-reset-requests`` and ``-tokens`` (OpenAI:
   durations such as ``6m0s`` or ``20ms``; Azure: plain seconds), ``anthropic-ratelimit-*-reset``
   (RFC 3339 times), ``x-ratelimit-reset`` (seconds, or a Unix time in seconds or milliseconds). A
   limit with something remaining says nothing about when to come back, so its reset is ignored.

LiteLLM hands provider headers on with the prefix ``llm_provider-``; both spellings are read.
"""

from __future__ import annotations

import math
import re
import time
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["error_headers", "parse_duration", "retry_after_from_error", "retry_after_seconds"]

_PREFIX = "llm_provider-"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
# A number of seconds beyond this is a point in time, not a span (1e9 s is September 2001).
_EPOCH_SECONDS = 1e9
_EPOCH_MILLISECONDS = 1e12
_LIMITS = (
    ("x-ratelimit-reset-requests", "x-ratelimit-remaining-requests"),
    ("x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens"),
    ("anthropic-ratelimit-requests-reset", "anthropic-ratelimit-requests-remaining"),
    ("anthropic-ratelimit-tokens-reset", "anthropic-ratelimit-tokens-remaining"),
    ("anthropic-ratelimit-input-tokens-reset", "anthropic-ratelimit-input-tokens-remaining"),
    ("anthropic-ratelimit-output-tokens-reset", "anthropic-ratelimit-output-tokens-remaining"),
    ("x-ratelimit-reset", "x-ratelimit-remaining"),
)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def parse_duration(text: str) -> float | None:
    """Read a span such as ``"20ms"``, ``"6m0s"``, ``"1h2m3.5s"`` or ``"12"`` (plain seconds).

    Args:
        text: The header value.

    Returns:
        Seconds, or None if the text is no span.
    """
    text = text.strip().lower()
    value = _number(text)
    if value is not None:
        return value
    total, end = 0.0, 0
    for match in _DURATION.finditer(text):
        if match.start() != end:
            return None
        total += float(match.group(1)) * _UNITS[match.group(2)]
        end = match.end()
    return total if end and end == len(text) else None


def _until(when: datetime, now: float) -> float:
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return when.timestamp() - now


def _http_date(text: str, now: float) -> float | None:
    try:
        return _until(parsedate_to_datetime(text), now)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _reset(text: str, now: float) -> float | None:
    """Read a reset header: a span, a Unix time, or an RFC 3339 time."""
    value = parse_duration(text)
    if value is not None:
        if value >= _EPOCH_MILLISECONDS:
            return value / 1000.0 - now
        return value - now if value >= _EPOCH_SECONDS else value
    try:
        # fromisoformat reads the Z suffix only from Python 3.11 on.
        return _until(datetime.fromisoformat(text.strip().replace("Z", "+00:00")), now)
    except (ValueError, OverflowError):
        return _http_date(text, now)


def _lowered(headers: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> dict[str, str]:
    items = headers.items() if hasattr(headers, "items") else headers
    found: dict[str, str] = {}
    for name, value in items:
        key = str(name).lower()
        if key.startswith(_PREFIX):
            found.setdefault(key[len(_PREFIX) :], str(value))
        else:
            found[key] = str(value)
    return found


def retry_after_seconds(
    headers: Mapping[Any, Any] | Iterable[tuple[Any, Any]] | None,
    *,
    wall_clock: Callable[[], float] = time.time,
    limit: float | None = None,
) -> float | None:
    """Tell how long an answer asks its client to stay away.

    Args:
        headers: The headers of the answer; names in any case.
        wall_clock: Unix time in seconds, for dates and reset times.
        limit: The longest answer to believe, in seconds; None believes everything.

    Returns:
        Seconds from now, never negative; None if the headers do not say. Malformed values count as
        absent: a broken header must not break the failover that reads it. So do times that are over: whoever
        names one has a clock that is behind ours, and means no rest of no length.
    """
    if not headers:
        return None
    found = _lowered(headers)
    now = wall_clock()
    seconds: float | None = None
    milliseconds = found.get("retry-after-ms")
    if milliseconds is not None:
        value = _number(milliseconds)
        seconds = None if value is None or value < 0 else value / 1000.0
    if seconds is None and "retry-after" in found:
        text = found["retry-after"].strip()
        seconds = parse_duration(text)
        if seconds is None:
            seconds = _http_date(text, now)
    if seconds is None or seconds < 0:
        seconds = _exhausted_limit(found, now)
    if seconds is None or seconds < 0:
        return None
    return seconds if limit is None else min(seconds, limit)


def _exhausted_limit(found: Mapping[str, str], now: float) -> float | None:
    """Give the latest reset among the limits that have nothing left."""
    latest: float | None = None
    for reset_name, remaining_name in _LIMITS:
        text = found.get(reset_name)
        if text is None:
            continue
        remaining = _number(found.get(remaining_name, ""))
        if remaining is not None and remaining > 0:
            continue
        value = _reset(text, now)
        if value is not None and (latest is None or value > latest):
            latest = value
    return latest


def error_headers(error: BaseException | None) -> Mapping[Any, Any] | None:
    """Find the response headers that an exception of LiteLLM, openai, httpx or aiohttp carries.

    Args:
        error: Any exception.

    Returns:
        The headers, or None. ``litellm_response_headers`` goes first: LiteLLM builds the ``response``
        of some exceptions itself, without the provider's headers.
    """
    for candidate in (
        getattr(error, "litellm_response_headers", None),
        getattr(getattr(error, "response", None), "headers", None),
        getattr(error, "headers", None),
    ):
        if candidate and hasattr(candidate, "items"):
            headers: Mapping[Any, Any] = candidate
            return headers
    return None


def retry_after_from_error(
    error: BaseException | None,
    *,
    wall_clock: Callable[[], float] = time.time,
    limit: float | None = None,
) -> float | None:
    """Tell how long a failure asks its client to stay away.

    Args:
        error: What the attempt raised. Our own errors carry ``retry_after`` themselves.
        wall_clock: Unix time in seconds.
        limit: The longest answer to believe, in seconds.

    Returns:
        Seconds from now, or None if the failure does not say.
    """
    own = getattr(error, "retry_after", None)
    if isinstance(own, (int, float)) and not isinstance(own, bool) and math.isfinite(own):
        value = max(0.0, float(own))
        return value if limit is None else min(value, limit)
    return retry_after_seconds(error_headers(error), wall_clock=wall_clock, limit=limit)
