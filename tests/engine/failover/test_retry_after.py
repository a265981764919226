"""Retry-After in every provider's spelling."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_router.engine.failover.retry_after import parse_duration, retry_after_from_error, retry_after_seconds
from fast_router.errors import NoDeploymentError

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=timezone.utc)


def read(headers, **options):
    return retry_after_seconds(headers, wall_clock=NOW.timestamp, **options)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        (None, None),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-3"}, None),
        ({"retry-after-ms": "-3", "retry-after": "2"}, 2.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=42), usegmt=True)}, 42.0),
        # A time that is over, by a clock that is behind ours, is no time.
        ({"retry-after": format_datetime(NOW - timedelta(seconds=42), usegmt=True)}, None),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) - 11)}, None),
        ({"retry-after": "-1", "x-ratelimit-reset": "4", "x-ratelimit-remaining": "0"}, 4.0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"llm_provider-retry-after": "9"}, 9.0),
        ({"llm_provider-retry-after": "9", "retry-after": "3"}, 3.0),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, 360.0),
        ({"x-ratelimit-reset-tokens": "20ms", "x-ratelimit-remaining-tokens": "0"}, 0.02),
        ({"x-ratelimit-reset-requests": "60"}, 60.0),
        # A limit with something left says nothing about when to come back.
        (
            {
                "x-ratelimit-reset-requests": "1h",
                "x-ratelimit-remaining-requests": "17",
                "x-ratelimit-reset-tokens": "4s",
                "x-ratelimit-remaining-tokens": "0",
            },
            4.0,
        ),
        (
            {
                "anthropic-ratelimit-requests-reset": "2026-05-04T12:00:30Z",
                "anthropic-ratelimit-requests-remaining": "0",
            },
            30.0,
        ),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) + 11)}, 11.0),
        ({"x-ratelimit-reset": str(int(NOW.timestamp() * 1000) + 2500)}, 2.5),
        ({"retry-after": "nonsense"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"x-ratelimit-reset-requests": "in a while"}, None),
    ],
)
def test_spellings(headers, seconds):
    assert read(headers) == (None if seconds is None else pytest.approx(seconds, abs=1e-3))


def test_limit_bounds_what_is_believed():
    assert read({"retry-after": "86400"}, limit=60) == 60


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h2m3.5s", 3723.5), ("2d", 172800), ("12", 12), ("", None), ("5x", None), ("s5", None), ("1m 2s", None)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


class _Answer:
    def __init__(self, headers):
        self.headers = headers


class _ProviderError(Exception):
    def __init__(self, own=None, response=None):
        super().__init__("no")
        self.litellm_response_headers = own
        self.response = response


def test_errors_carry_headers_in_several_places():
    assert retry_after_from_error(_ProviderError(own={"retry-after": "3"})) == 3
    assert retry_after_from_error(_ProviderError(response=_Answer({"Retry-After": "4"}))) == 4
    assert retry_after_from_error(_ProviderError(own={"retry-after": "3"}, response=_Answer({"retry-after": "4"}))) == 3
    assert retry_after_from_error(ValueError("nothing")) is None
    assert retry_after_from_error(NoDeploymentError("all rest", retry_after=2.5)) == 2.5
    assert retry_after_from_error(None) is None


NAMES = ["retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-reset-tokens"]


@given(st.dictionaries(st.sampled_from(NAMES), st.text()))
def test_no_header_breaks_the_reader(headers):
    seconds = read(headers)
    assert seconds is None or seconds >= 0
