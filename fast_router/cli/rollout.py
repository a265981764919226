"""The two arms of a rollout or an experiment side by side, for `fast-router status`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from fast_router.cli.columns import Column, figure, show

__all__ = ["show_rollouts"]

_COLUMNS = (
    Column("arm"),
    Column("requests", number=True),
    Column("failed", number=True),
    Column("retries", number=True),
    Column("p50", number=True),
    Column("p95", number=True),
    Column("1st token", number=True),
    Column("spread", number=True),
    Column("busiest", number=True),
)


def show_rollouts(summary: Mapping[str, Any]) -> None:
    """Print every rollout and experiment of `observe.summary.summarise`; nothing without one."""
    for rollout in summary["rollouts"]:
        click.echo()
        show(_COLUMNS, [_cells(arm) for arm in rollout["arms"]], title=_title(rollout))
        for line in _lines(rollout):
            click.echo(line)


def _title(rollout: Mapping[str, Any]) -> str:
    workers = rollout["workers"]
    processes = f"({workers} process{'' if workers == 1 else 'es'})"
    if (tried := rollout.get("experiment")) is not None:
        return f"experiment: {tried['share']:g} % of the requests by {tried['strategy']} {processes}"
    setting = rollout["rollout"]
    said = "observe: LiteLLM picks, we only watch" if setting == "observe" else f"{setting:g} % of the requests"
    return f"rollout: {said} {processes}"


def _cells(arm: Mapping[str, Any]) -> list[str]:
    failed = arm["failures"]
    share = f" ({failed / arm['requests']:.1%})" if failed and arm["requests"] else ""
    busiest = arm["busiest"]
    return [
        arm["arm"],
        str(arm["requests"]),
        f"{failed}{share}",
        str(arm["retries"]),
        figure(arm["latency"]["p50"], "s"),
        figure(arm["latency"]["p95"], "s"),
        figure(arm["first_token"]["p50"], "s"),
        f"{arm['spread']:.2f}",
        "–" if busiest is None else f"{busiest:.0%}",
    ]


def _lines(rollout: Mapping[str, Any]) -> Iterator[str]:
    if rollout.get("configured"):
        yield f"configured: {', '.join(rollout['configured'])}"
    if rollout.get("rollout") != "observe":
        yield f"by {rollout['measure']}: {rollout['verdict']}; look as often as you like"
        yield rollout["shared"]
        return
    seen = rollout["observed"]
    lanes = ", ".join(f"{count} {lane}" for lane, count in seen["lanes"].items()) or "none yet"
    yield f"LiteLLM picked {seen['picks']} times; our lanes: {lanes}"
    yield f"the same as we would have: {seen['same_pick']} of {seen['compared']}"
    yield (
        f"picked although resting with us: {seen['to_resting']}, full: {seen['to_full']}, "
        f"just failed: {seen['to_just_failed']}"
    )
    if seen["counters_read"]:
        yield (
            f"its counters of calls in flight were off at {seen['counters_off']} of {seen['counters_read']} picks, "
            f"by up to {seen['furthest_off']:g}"
        )
