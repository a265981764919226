"""Servers of every kind, and the examples' environment pointing at them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from fast_router.testing import Upstream

EXAMPLES = Path(__file__).parents[2] / "examples" / "albert"
KINDS = ("albert", "mistral", "openai", "tei", "vllm")
KEY = "sk-test-0123456789abcdef"
SERVED = {"tei": "served-embeddings"}


@pytest.fixture(scope="session")
def _servers() -> Iterator[dict[str, Upstream]]:
    started = {kind: Upstream(kind, models=(SERVED.get(kind, "served-model"),), name=kind).start() for kind in KINDS}
    yield started
    for upstream in started.values():
        upstream.stop()


@pytest.fixture
def servers(_servers: dict[str, Upstream]) -> Iterator[dict[str, Upstream]]:
    """One upstream of each kind, with clean records and no orders."""
    for upstream in _servers.values():
        # What another test has left behind would count among this one's.
        upstream.wait_for(lambda seen: not seen.in_flight, timeout=60.0)
        upstream.reset()
    yield _servers
    for upstream in _servers.values():
        upstream.order(hold=False, latency=0.0, error_rate=0.0, hang_rate=0.0, throttle_rate=0.0, slots=None)


@pytest.fixture
def environ(servers: Mapping[str, Upstream]) -> dict[str, str]:
    """The variables of the example files."""
    urls = {f"{kind.upper()}_URL": upstream.url for kind, upstream in servers.items()}
    keys = {f"{kind.upper()}_KEY": KEY for kind in servers}
    return {**urls, **keys, "GATEWAY_PASSWORD": "hidden-password"}
