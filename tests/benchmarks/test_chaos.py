"""What the chaos benchmark makes of what it has seen."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from benchmarks import chaos
from benchmarks.chaos import CASES, ROUTERS, TABLE, Plan

pytest.importorskip("litellm")

PLAN = Plan(before=1.0, faulty=2.0, after=4.0)


def side(samples: list[tuple[float, list[int]]], late: list[tuple[float, float, bool]] | None = None) -> Any:
    """A side that has seen this, without a proxy."""
    return chaos._Side(None, "simple_shuffle", [], late=late or [], samples=samples)  # type: ignore[arg-type]


def seen(*shares: int) -> list[tuple[float, list[int]]]:
    """Requests counted each second, of which the first upstream gets so many and the other two six each."""
    first = 0
    samples = [(0.0, [0, 0, 0])]
    for second, share in enumerate(shares, start=1):
        first += share
        samples.append((float(second), [first, 6 * second, 6 * second]))
    return samples


def test_calls_to_the_broken_server_are_those_of_the_fault() -> None:
    figures = chaos._figures(side(seen(6, 5, 1, 0, 6, 6, 6)), PLAN, "500", 1.0)
    assert figures["calls to it"] == 6


def test_nothing_is_counted_where_nobody_listens() -> None:
    assert math.isnan(chaos._figures(side(seen(6, 0, 0, 6)), PLAN, "refused", 1.0)["calls to it"])


def test_it_is_back_when_it_has_three_quarters_of_a_fair_share() -> None:
    assert chaos._back(side(seen(6, 1, 1, 1, 3, 6)), PLAN) == 3.0
    assert chaos._back(side(seen(6, 1, 1, 5, 6, 6)), PLAN) == 1.0
    assert math.isnan(chaos._back(side(seen(6, 1, 1, 1, 1, 1)), PLAN))


def test_errors_and_percentiles_are_told_apart() -> None:
    late = [(0.5, 0.1, False)] * 98 + [(1.5, 3.0, False), (1.6, 9.0, True)]
    figures = chaos._figures(side(seen(6, 6, 6, 6), late), PLAN, "hang", 0.5)
    assert (figures["requests"], figures["errors"]) == (100, 1)
    assert figures["p99 s"] == 3.0
    assert figures["to usual"] == 6.0
    assert figures["in the fault"] == 3.0


def test_every_plan_of_the_table_can_be_run() -> None:
    for plan in (Plan(), *(each for part in TABLE.values() for each in part)):
        assert set(plan.cases) <= CASES.keys()
        assert set(plan.routers) <= ROUTERS.keys()
        assert plan.patience > 0
        assert dataclasses.asdict(plan)


async def test_a_key_is_a_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litellm.proxy._types")
    from benchmarks._callers import known

    monkeypatch.setenv("LITELLM_MASTER_KEY", "sk-master")
    # LiteLLM calls it by these names.
    assert (await known(request=None, api_key="sk-master")).user_id == "good"
    assert (await known(request=None, api_key="sk-of-the-hostile-caller")).user_id == "the-hostile-caller"
    with pytest.raises(PermissionError):
        await known(request=None, api_key="sk-nobody")
