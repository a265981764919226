"""Shared state in words: whether Redis answers, and the workers of other hosts that are heard over it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from fast_router.cli.columns import Column, show

__all__ = ["away", "show_fleet"]


def away(states: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each Redis that does not answer.

    Args:
        states: What `fast_router.status()` says under `shared_state`, of every process.
    """
    by_redis: dict[str, list[Mapping[str, Any]]] = {}
    for state in states:
        if state.get("redis"):
            by_redis.setdefault(state["redis"], []).append(state)
    for redis, users in by_redis.items():
        lost = [state for state in users if not state["connected"]]
        if not lost:
            continue
        began = min((state["away_since"] for state in lost if state.get("away_since")), default=None)
        moment = "" if began is None else f" since {time.strftime('%H:%M:%S', time.localtime(began))}"
        where = "" if len(lost) == len(users) else f" for {len(lost)} of {len(users)} processes"
        yield f"shared state: Redis at {redis} is away{where}{moment}; each process decides alone"


def show_fleet(documents: Sequence[Mapping[str, Any]]) -> None:
    """Print the other workers, or why none is known."""
    statuses = [document.get("status") or {} for document in documents]
    states = [state for status in statuses for state in status.get("shared_state") or ()]
    found: dict[str, Mapping[str, Any]] = {}
    for state in states:
        found.update(state.get("instances") or {})
    rows = [
        [str(each.get("host", "?")), str(each.get("pid", "?")), str(each["in_flight"]), f"{each['heard']:.1f} s ago"]
        for each in sorted(found.values(), key=lambda each: (str(each.get("host")), str(each.get("pid"))))
    ]
    click.echo()
    if rows:
        columns = (Column("host"), Column("pid", number=True), Column("in flight", number=True), Column("heard"))
        show(columns, rows, title="fleet, as shared state knows it")
        return
    lost = list(away(states))
    for sentence in lost or [_nobody(statuses, states)]:
        click.echo(f"fleet: no other worker is known: {sentence}")


def _nobody(statuses: Sequence[Mapping[str, Any]], states: Sequence[Mapping[str, Any]]) -> str:
    if at := [state["redis"] for state in states if state.get("redis")]:
        return f"Redis at {at[0]} answers, and nobody else is there"
    why = [((status.get("capabilities") or {}).get("shared_state") or {}).get("why") for status in statuses]
    return next((f"shared state is off ({each})" for each in why if each), "shared state is off")
