"""`fast-router trace`: the last picks of every process, with candidates, choice and outcome."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from fast_router.cli.columns import Column, duration, figure, show
from fast_router.observe import asking
from fast_router.observe.orders import seconds_of

__all__ = ["trace"]

_COLUMNS = (
    Column("at"),
    Column("pid", number=True),
    Column("model"),
    Column("picked"),
    Column("outcome"),
    Column("seconds", number=True),
    Column("1st token", number=True),
    Column("candidates, with what was compared"),
)


@click.command()
@click.option("--on", "length", metavar="TIME", help="Note picks from now on, so long: 60s, 5m; an hour at the most.")
@click.option("--off", is_flag=True, help="Note no more; what was noted stays to be read.")
@click.option("--model", help="This model only.")
@click.option("--last", default=30, show_default=True, help="So many.")
@click.option("--json", "as_json", is_flag=True, help="All of it.")
def trace(length: str | None, off: bool, model: str | None, last: int, as_json: bool) -> None:
    """Show the last picks, after `--on 60s` has had them noted for a while. No prompt is in it."""
    question: dict[str, Any] = {"do": "trace", "model": model}
    if length is not None:
        question["on"] = seconds_of(length)
    if off:
        question["off"] = True
    answers = asking.ask_all(question)
    if length is not None or off:
        count = sum("trace" in each for each in answers)
        what = f"note picks for {duration(seconds_of(length))}" if length is not None else "note no more picks"
        click.echo(f"{count} process{'' if count == 1 else 'es'} {what}; `fast-router trace` shows them")
        return
    rows = [{**row, "pid": each["pid"]} for each in answers for row in each.get("trace") or ()]
    rows = sorted(rows, key=lambda row: row["at"])[-last:]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        show(_COLUMNS, [_cells(row) for row in rows])
    else:
        click.echo("no pick was noted; `fast-router trace --on 60s` notes them for a while", err=True)
        raise SystemExit(1)


def _cells(row: dict[str, object]) -> list[str]:
    at = float(row["at"])  # type: ignore[arg-type]  # from JSON
    moment = time.strftime("%H:%M:%S", time.localtime(at)) + f"{at % 1:.3f}"[1:]
    seconds, first = row["seconds"], row["first_token"]
    return [
        moment,
        str(row["pid"]),
        str(row["model"]),
        str(row["picked"] or "–"),
        str(row["outcome"]),
        figure(seconds if isinstance(seconds, (int, float)) else None),
        figure(first if isinstance(first, (int, float)) else None),
        _candidates(row),
    ]


def _candidates(row: dict[str, object]) -> str:
    candidates = row["candidates"]
    if not isinstance(candidates, list):
        return "LiteLLM chose"
    shown = []
    for each in candidates[:4]:
        known = [(key.replace("_", " "), value) for key, value in each.items() if key != "id" and value is not None]
        numbers = ", ".join(f"{key} {figure(value)}" for key, value in known)
        shown.append(f"{each['id']} ({numbers})" if numbers else str(each["id"]))
    more = len(candidates) - len(shown)
    return f"{len(candidates)} of {row['of']}: " + ", ".join(shown) + (f" and {more} more" if more > 0 else "")
