"""`fast-router trace`: the last picks of every process, with candidates, choice and outcome."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from typing import Any

import click

from fast_router.cli.columns import Column, duration, figure, show_lines
from fast_router.observe import asking
from fast_router.observe.orders import seconds_of

__all__ = ["trace"]

_WIDE = 100
_NAMED = 6
_NO_NUMBERS = frozenset({"id", "server"})


@click.command()
@click.option("--on", "length", metavar="TIME", help="Note picks for this long: 60s, 5m; an hour at the most.")
@click.option("--off", is_flag=True, help="Note no more; what was noted stays to be read.")
@click.option("--model", help="This model only.")
@click.option("--last", default=30, show_default=True, help="How many picks to show.")
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
        note = "notes" if count == 1 else "note"
        what = f"{note} picks for {duration(seconds_of(length))}" if length is not None else f"{note} no more picks"
        click.echo(f"{count} process{'' if count == 1 else 'es'} {what}; `fast-router trace` shows them")
        return
    rows = [{**row, "pid": each["pid"]} for each in answers for row in each.get("trace") or ()]
    rows = sorted(rows, key=lambda row: row["at"])[-last:]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        _show(rows)
    else:
        click.echo("no pick was noted; `fast-router trace --on 60s` notes them for a while", err=True)
        raise SystemExit(1)


def _show(rows: list[dict[str, Any]]) -> None:
    """Print a line per pick, and below it the candidates; what is the same everywhere is said once or not at all."""
    alike = {key for key in ("pid", "model") if len({row[key] for row in rows}) == 1}
    if alike:
        words = [f"{'process' if key == 'pid' else key} {rows[0][key]}" for key in sorted(alike)]
        click.secho(", ".join(words), bold=True)
    columns = {
        "at": Column("at"),
        "pid": Column("pid", number=True),
        "model": Column("model"),
        "picked": Column("picked"),
        "outcome": Column("outcome"),
        "seconds": Column("seconds", number=True),
        "first_token": Column("1st token", number=True),
    }
    shown = [key for key in columns if key not in alike]
    cells = [[_cell(row, key) for key in shown] for row in rows]
    width = min(_WIDE, shutil.get_terminal_size((_WIDE, 24)).columns)
    below = [click.wrap_text(_candidates(row), width, initial_indent="    ", subsequent_indent="    ") for row in rows]
    show_lines([columns[key] for key in shown], cells, below)


def _cell(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if key == "at":
        return time.strftime("%H:%M:%S", time.localtime(row["at"])) + f"{row['at'] % 1:.3f}"[1:]
    if key == "picked":
        return _name(row.get("server"), value)
    return figure(value) if key in ("seconds", "first_token") else str(value)


def _name(server: Any, id_: Any) -> str:
    """A deployment; without a server its id says all that is known."""
    return str(id_ or "–") if server in (None, "–") else f"{server} ({id_})"


def _candidates(row: Mapping[str, Any]) -> str:
    candidates = row["candidates"]
    if not isinstance(candidates, list):
        return "LiteLLM chose"
    keys = [key for key in (candidates[0] if candidates else ()) if key not in _NO_NUMBERS]
    same = [key for key in keys if len({each.get(key) for each in candidates}) == 1]
    named = []
    for each in candidates[:_NAMED]:
        numbers = _numbers(each, [key for key in keys if key not in same])
        name = str(each["id"] if each.get("server") in (None, "–") else each["server"])
        named.append(f"{name} ({numbers})" if numbers else name)
    more = len(candidates) - len(named)
    found = f"{len(candidates)} of {row['of']}: {', '.join(named)}" + (f" and {more} more" if more > 0 else "")
    alike = _numbers(candidates[0], same) if candidates else ""
    return f"{found}; each: {alike}" if alike else found


def _numbers(candidate: Mapping[str, Any], keys: Iterable[str]) -> str:
    known = [(key.replace("_", " "), candidate.get(key)) for key in keys]
    return ", ".join(f"{key} {figure(value)}" for key, value in known if value is not None)
