"""The table of attacks through `litellm.Router` in this process, on every LiteLLM."""

from __future__ import annotations

import pytest

from tests.attack import table
from tests.attack.doors import entries


@pytest.fixture
def door_of(upstreams, door_to):
    def door(row, **options):
        groups = (entries(upstreams, group, dict(row.params), dict(row.info)) for group in row.names())
        return door_to([entry for group in groups for entry in group], **options)

    return door


def rows(*kinds):
    return [pytest.param(row, id=row.slug) for row in table.ROWS if row.doors >= set(kinds)]


@pytest.mark.parametrize("row", rows("router"))
async def test_others_are_served_as_without_the_caller(door_of, row):
    door = door_of(row)
    await table.run(row, door)
    assert not door.resting()


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in rows("router", "proxy") if not row.values[0].named])
async def test_others_are_served_when_nobody_is_told_from_anybody(door_of, row):
    door = door_of(row, named=False)
    await table.run(row, door)
    assert not door.resting()


@pytest.mark.slow
@pytest.mark.parametrize("row", rows("sync", "proxy"))
async def test_others_are_served_by_synchronous_calls(door_of, row):
    door = door_of(row, sync=True)
    await table.run(row, door)
    assert not door.resting()
