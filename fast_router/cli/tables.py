"""Tables on the screen: with rich where it is installed, plain otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

__all__ = ["show", "wrapped"]

WIDTH = 80


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    cells = [list(row) for row in rows]
    try:
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
    except ModuleNotFoundError:
        _plain(title, columns, cells)
        return
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right")
    for row in cells:
        table.add_row(*row)
    Console(highlight=False).print(table)


def _plain(title: str, columns: Sequence[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    click.echo(title)
    for line in (list(columns), ["-" * width for width in widths], *rows):
        first, *others = (
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        click.echo("  ".join([first, *others]).rstrip())


def wrapped(text: str, indent: int = 2) -> str:
    """Fold a paragraph at 80 columns; all lines but the first are indented."""
    return click.wrap_text(text, WIDTH, subsequent_indent=" " * indent)
