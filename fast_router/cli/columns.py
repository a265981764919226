"""Tables of what lives: columns of words and numbers, states in colour; plain where rich is not installed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

__all__ = ["COLOURS", "Column", "duration", "figure", "show", "show_lines"]

# State → colour, in words that rich and click both know.
COLOURS = {
    "up": "green",
    "warming": "green",
    "full": "yellow",
    "spent": "yellow",
    "slow": "yellow",
    "due": "yellow",
    "probing": "yellow",
    "held": "cyan",
    "draining": "cyan",
    "drained": "cyan",
    "resting": "red",
    "failing": "red",
    "closed": "blue",
}
_WIDE = 160


class Column:
    """A column: its heading, and whether its cells are numbers (to the right)."""

    __slots__ = ("heading", "number")

    def __init__(self, heading: str, *, number: bool = False) -> None:
        self.heading = heading
        self.number = number


def show(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print a table; a state's word has its colour."""
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        _plain(columns, rows, title)
        return
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else max(_WIDE, _width(columns, rows)), highlight=False)
    if title:
        console.print(title, style="bold", markup=False)
    console.print(rich_table(columns, rows))


def show_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], below: Sequence[str]) -> None:
    """Print a table with some lines of text below each row."""
    for row, text in zip(_lines(columns, [[column.heading for column in columns], *rows]), ["", *below], strict=True):
        click.echo(row)
        if text:
            click.echo(text)


def rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Any:
    """The same as an object of rich's."""
    from rich import box  # noqa: PLC0415 - an extra
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in columns:
        table.add_column(column.heading, justify="right" if column.number else "left", no_wrap=column.number)
    for row in rows:
        table.add_row(*(Text(cell, style=COLOURS.get(cell.partition(" ")[0], "")) for cell in row))
    return table


def _plain(columns: Sequence[Column], rows: Sequence[Sequence[str]], title: str) -> None:
    limit = shutil.get_terminal_size((_WIDE, 24)).columns if sys.stdout.isatty() else None
    if title:
        click.secho(title, bold=True)
    for line in _lines(columns, [[column.heading for column in columns], *rows]):
        click.echo(line if limit is None else line[:limit])


def _lines(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Each row as a line, its cells under each other."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    for row in rows:
        cells = []
        for column, width, cell in zip(columns, widths, row, strict=True):
            cells.append(cell.rjust(width) if column.number else cell.ljust(width))
        yield "  ".join(cells).rstrip()


def _width(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> int:
    return sum(3 + max([len(c.heading), *(len(row[i]) for row in rows)]) for i, c in enumerate(columns))


def figure(value: float | None, unit: str = "") -> str:
    """A number with as many digits as say something, `–` for none."""
    if value is None:
        return "–"
    shown = f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return f"{shown} {unit}".rstrip()


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `4.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {left} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
