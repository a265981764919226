"""An existing proxy under fast_router, without touching it: LiteLLM's real proxy with two workers, six ways."""

from __future__ import annotations

import json

import pytest

from tests.launch.wrapped import MASTER_KEY, UPSTREAM_KEY, WAYS, WORKERS, chat

pytestmark = [pytest.mark.proxy, pytest.mark.timeout(500)]

REQUESTS = 12
SECTION = """
fast_router: {max_wait: 3}
"""


def ways():
    """Each way; a minute each, so all but one are left to `make test-slow`."""
    return [pytest.param(way, marks=pytest.mark.slow if way != "launcher" else ()) for way in WAYS]


@pytest.mark.parametrize("way", ways())
def test_requests_through_a_wrapped_proxy_are_fast_picks(start, upstreams, way):
    command, extra, environment = WAYS[way]
    proxy = start(command, extra=extra + SECTION, **environment)
    proxy.until(proxy.alive, "it never became alive")
    for number in range(REQUESTS):
        answer = chat(proxy, stream=number % 3 == 0)
        assert answer.status_code == 200, answer.text
    assert sum(each.records.served for each in upstreams) == REQUESTS
    statuses = proxy.until(
        lambda: (found := proxy.statuses()) and len(found) >= WORKERS and found, "its workers do not answer"
    )
    # A pick from a compiled plan; or, where LiteLLM's core is not written in Python, a request in the lane.
    told = [(each["status"]["picks"], each["status"]["lane"]) for each in statuses]
    assert sum(picks["fast"] + lane["requests"] for picks, lane in told) == REQUESTS, told
    assert all(each["status"]["errors"]["count"] == 0 for each in statuses)
    assert {each["status"]["capabilities"]["waiting"]["why"] for each in statuses} == {"up to 3 s"}
    shown = json.dumps(statuses)
    assert MASTER_KEY not in shown
    assert UPSTREAM_KEY not in shown
