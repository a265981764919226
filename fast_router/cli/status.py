"""`fast-router status`: what all processes of this user say about their picks, added up."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from fast_router.cli.asked import nobody
from fast_router.cli.columns import Column, figure, show
from fast_router.cli.fleet import away, show_fleet
from fast_router.cli.left_out import left_out
from fast_router.cli.rollout import show_rollouts
from fast_router.cli.trouble import changes_in, since, troubles
from fast_router.observe import asking
from fast_router.observe.summary import idle_parents, summarise

__all__ = ["COLUMNS", "cells", "status", "to_watch"]

# As many rows as a screen or two hold.
_MOST = 40
_PER_GROUP = 10
_TROUBLES = 5

COLUMNS = (
    Column("server"),
    Column("id"),
    Column("state"),
    Column("in flight", number=True),
    Column("share", number=True),
    Column("picks", number=True),
    Column("failed", number=True),
    Column("latency", number=True),
    Column("1st token", number=True),
    Column("why"),
)
_CACHED = (Column("cached", number=True), Column("said", number=True))
"""Share of the prompt tokens expected to be cached, and what answers said: where a strategy looks at caches."""


@click.command()
@click.option("--model", help="This model only, every deployment of it.")
@click.option("--pid", type=int, help="This process only.")
@click.option("--all", "everything", is_flag=True, help="Every deployment, and idle parents of workers.")
@click.option("--watch", is_flag=True, help="Again every three seconds until Ctrl-C (`fast-router top` shows more).")
@click.option("--fleet", is_flag=True, help="Also the workers of other hosts, as shared state knows them.")
@click.option("--json", "as_json", is_flag=True, help="All that the processes say, as one JSON array.")
def status(model: str | None, pid: int | None, everything: bool, watch: bool, fleet: bool, as_json: bool) -> None:
    """Show how the processes of this user pick; exit code 1 if there is none."""
    while True:
        everybody = asking.processes()
        documents = [each for each in everybody if pid in (None, each.get("pid"))]
        if watch:
            click.clear()
        if as_json:
            click.echo(json.dumps(documents, indent=2))
        elif documents:
            _show(documents, model, everything=everything)
            if fleet:
                show_fleet(documents)
        if not documents:
            click.echo(nobody(pid, everybody), err=True)
            if not watch:
                raise SystemExit(1)
        if not watch:
            return
        try:
            time.sleep(3)
        except KeyboardInterrupt:
            return


def _show(documents: Sequence[Mapping[str, Any]], model: str | None, *, everything: bool) -> None:
    summary = summarise(documents, everybody=everything)
    _processes(summary, 0 if everything else len(idle_parents(documents)))
    groups = [group for group in summary["groups"] if model in (None, group["model"])]
    if model is not None and not groups:
        known = ", ".join(group["model"] for group in summary["groups"][:20]) or "none"
        raise click.ClickException(f"no process has a model {model!r}; there are: {known}")
    now, left = time.time(), _MOST
    if sentences := [*away(summary["shared_state"]), *troubles(sorted(groups, key=to_watch), now, _TROUBLES)]:
        click.echo()
        for sentence in sentences:
            click.secho(sentence, bold=True)
    show_rollouts(summary)
    both = any(each.get("rollout") not in (None, "observe") for each in summary["rollouts"])
    total = sum(group["size"] for group in groups)
    hidden = 0
    for group in sorted(groups, key=to_watch):
        most = group["size"] if everything or model is not None or total <= _MOST else min(_PER_GROUP, left)
        rows = group["deployments"][:most]
        left -= len(rows)
        hidden += group["size"] - len(rows)
        if rows:
            click.echo()
            cached = any(row["cache"] for row in rows)
            columns = (*COLUMNS[:-1], *_CACHED, COLUMNS[-1]) if cached else COLUMNS
            show(columns, [cells(row, now, cached=cached) for row in rows], title=_heading(group, both=both))
    if hidden:
        click.echo(f"\n… and {hidden} more deployments, {_states(groups)}; --model NAME or --all shows them")
    _rest(summary)


def to_watch(group: Mapping[str, Any]) -> tuple[bool, int, str]:
    """Order of groups: the ones in trouble first, then by traffic."""
    return group["up"] == group["size"], -group["picks"], group["model"]


def _states(groups: Sequence[Mapping[str, Any]]) -> str:
    rows = [row for group in groups for row in group["deployments"]]
    up = sum(1 for row in rows if row["state"] == "up")
    return f"{up} of all {len(rows)} up"


def _heading(group: Mapping[str, Any], *, both: bool) -> str:
    arms = " in both arms" if both else ""
    picks = f"{group['picks']} pick{'' if group['picks'] == 1 else 's'}"
    return (
        f"{group['model']} ({group['strategy']}): {group['up']} of {group['size']} up, "
        f"{group['in_flight']} in flight, {picks}{arms}, {group['failures']} failed"
    )


def cells(row: Mapping[str, Any], now: float, *, cached: bool = False) -> list[str]:
    """A deployment as a row of `COLUMNS`, with its cache hits before the last if `cached`."""
    state = row["state"]
    if row["workers_alike"] < row["workers"]:
        state += f" ({row['workers_alike']}/{row['workers']})"
    cache = row["cache"] or {"predicted_hit_share": None, "reported_hit_share": None}
    unit = "s/token" if row["latency_of"] == "token" else "s"
    return [
        row["server"],
        row["short"],
        state,
        str(row["in_flight"]),
        _percent(row["share"]),
        str(row["picks"]),
        str(row["failures"]),
        figure(row["latency"], unit),
        figure(row["first_token"], "s"),
        *((_percent(cache["predicted_hit_share"]), _percent(cache["reported_hit_share"])) if cached else ()),
        why(row, now),
    ]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def why(row: Mapping[str, Any], now: float) -> str:
    """Why it is as it is, since when, and when that changes."""
    return ", ".join(filter(None, (row["reason"], since(row, now), changes_in(row))))


def _processes(summary: Mapping[str, Any], idle: int) -> None:
    rows = []
    for each in summary["processes"]:
        if "error" in each:
            rows.append([str(each.get("pid", "?")), each.get("program", ""), "", "", each["error"], "", "", ""])
            continue
        rows.append(
            [
                str(each["pid"]),
                each.get("program", ""),
                ", ".join(map(str, each.get("ports") or ())) or "–",
                each.get("config") or "–",
                "on" if each["enabled"] else "off",
                str(each.get("litellm") or "–"),
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.get("started", 0))),
                str(each["picks"]),
            ]
        )
    columns = [Column("pid", number=True), *map(Column, ("program", "port", "configuration", "state", "LiteLLM"))]
    show([*columns, Column("since"), Column("picks", number=True)], rows)
    if idle:
        click.echo(f"({idle} idle parent{'s' if idle > 1 else ''} left out; --all shows)")


def _rest(summary: Mapping[str, Any]) -> None:
    lanes = summary["lanes"]
    walked = f"{lanes['request_lane']} in the request lane, " if lanes["request_lane"] else ""
    click.echo(f"\npicks: {lanes['fast']} fast, {walked}{lanes['filtered']} filtered, {lanes['delegated']} delegated")
    for each in lanes["reasons"]:
        click.echo(f"  {each['lane']}: {each['picks']} × {each['reason']}")
    for each in summary["waits"]:
        waited = f"p50 {figure(each['p50'], 's')}, p95 {figure(each['p95'], 's')}"
        click.echo(f"waited for a deployment: {each['count']} requests of {each['model']}, {waited}")
    for celery in summary["celery"]:
        state = "connected" if celery["connected"] else "not connected"
        reasons = ", ".join(f"{count} × {reason}" for reason, count in celery["local_picks"].items())
        click.echo(f"celery: {state}, {celery['picks']} picks by workers, local: {reasons or 'none'}")
    for problem in dict.fromkeys(state["problem"] for state in summary["shared_state"] if "problem" in state):
        click.echo(problem)
    capabilities = summary["capabilities"] or {}
    for line in left_out(summary):
        click.echo(line)
    for sentence in capabilities.get("options_without_effect", ()):
        click.echo(f"without effect: {sentence}")
    errors = summary["errors"]
    for strategy, count in errors["of_your_strategies"].items():
        click.echo(f"your strategy {strategy} failed {count} times; LiteLLM's own code answered")
    if errors["count"]:
        click.echo(f"errors of fast_router, answered by LiteLLM: {errors['count']} (last: {errors['last']})")
