"""The table of attacks through LiteLLM's real proxy: one worker for all rows, a model group for each.

With FAST_ROUTER_TEST_PLAIN=1 the same requests meet a proxy without fast_router, to compare with.
"""

from __future__ import annotations

import pytest

from tests.attack import table
from tests.attack.attacked_proxy import attacked_proxy
from tests.attack.doors import ProxyDoor, entries
from tests.attack.upstreams import OWN, fleet

pytestmark = [pytest.mark.proxy, pytest.mark.slow, pytest.mark.timeout(400)]

ROWS = [row for row in table.ROWS if "proxy" in row.doors]


@pytest.fixture(scope="module")
def upstreams():
    with fleet() as made:
        yield made


@pytest.fixture(scope="module")
def proxy(upstreams, tmp_path_factory):
    model_list = [
        entry
        for row in ROWS
        for group in row.names()
        for entry in entries(upstreams, group, dict(row.params), dict(row.info))
    ]
    with attacked_proxy(tmp_path_factory.mktemp("attacked"), model_list) as started:
        yield started


@pytest.fixture
async def door(proxy, upstreams):
    made = ProxyDoor(proxy.url)
    made.own_endpoint = upstreams[OWN].api_base
    yield made
    await made.close()


@pytest.mark.parametrize("row", [pytest.param(row, id=row.slug) for row in ROWS])
async def test_others_are_served_as_without_the_caller(door, row):
    await table.run(row, door)
