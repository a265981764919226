"""`fast-router top`: the status of all workers, live in a terminal."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fast_router.cli.columns import COLOURS, figure
from fast_router.cli.status import to_watch, why
from fast_router.cli.trouble import troubles
from fast_router.observe import asking
from fast_router.observe.summary import SEVERITY, summarise

__all__ = ["Screen", "top"]

_KEYS = "s order   r reverse   / filter   Esc clear   space pause   q leave"
_TROUBLES = 4
_PER_SECOND = 320  # deployments that a worker may be asked about in a second: it spends some 50 ms on 1,000
_RANK = {state: rank for rank, state in enumerate(SEVERITY)}
_ORDERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "trouble": lambda r: (_RANK.get(r["state"], 0), -r["failed_rate"], -r["rate"], r["model"], r["server"]),
    "calls/s": lambda r: (-r["rate"], r["model"], r["server"]),
    "in flight": lambda r: (-r["in_flight"], r["model"], r["server"]),
    "failures": lambda r: (-r["failures"], r["model"], r["server"]),
    "p95": lambda r: (-(r["p95"] or 0.0), r["model"], r["server"]),
    "model": lambda r: (r["model"], r["server"]),
}


class Screen:
    """What is on the screen, and what the keys do to it.

    Args:
        model: Show this model only.
    """

    def __init__(self, model: str | None = None) -> None:
        self.model = model
        self.order = 0
        self.reverse = False
        self.filter = ""
        self.typing = False
        self.paused = False
        self._before: dict[tuple[str, str], tuple[int, int]] = {}
        self._at = 0.0
        self._rows: list[dict[str, Any]] = []
        self._summary: dict[str, Any] = {"processes": [], "groups": [], "lanes": {}, "errors": {}}

    def press(self, key: str) -> bool:
        """Do what a key stands for; False to leave."""
        if self.typing:
            if key in "\r\n":
                self.typing = False
            elif key == "\x1b":
                self.typing, self.filter = False, ""
            elif key in "\x7f\b":
                self.filter = self.filter[:-1]
            elif key.isprintable():
                self.filter += key
            return True
        if key in "qQ\x03":
            return False
        if key == "s":
            self.order = (self.order + 1) % len(_ORDERS)
        elif key == "r":
            self.reverse = not self.reverse
        elif key == "/":
            self.typing, self.filter = True, ""
        elif key == "\x1b":
            self.filter = ""
        elif key == " ":
            self.paused = not self.paused
        return True

    def take(self, documents: Sequence[Mapping[str, Any]], now: float) -> None:
        """Take in what the processes say; rates are differences to the time before."""
        self._summary = summarise(documents)
        passed, self._at = now - self._at, now
        rows, seen = [], {}
        for group in self._summary["groups"]:
            for row in group["deployments"]:
                key = (group["model"], row["id"])
                counts = (row["successes"] + row["failures"], row["failures"])
                before = self._before.get(key)
                rates = [max(0, a - b) / passed for a, b in zip(counts, before, strict=True)] if before else [0.0, 0.0]
                seen[key] = counts
                rows.append({**row, "model": group["model"], "rate": rates[0], "failed_rate": rates[1]})
        self._rows, self._before = rows, seen

    def pace(self, interval: float) -> float:
        """Seconds between two looks: the interval, or what the workers can bear if that is longer."""
        return max(interval, len(self._rows) / _PER_SECOND)

    def shown(self) -> list[dict[str, Any]]:
        """The rows in their order, those that the filter leaves."""
        word = self.filter.lower()
        rows = [
            row
            for row in self._rows
            if self.model in (None, row["model"])
            and (not word or any(word in row[key].lower() for key in ("model", "server", "id", "state")))
        ]
        return sorted(rows, key=list(_ORDERS.values())[self.order], reverse=self.reverse)

    def render(self, height: int, now: float) -> RenderableType:
        """The screen."""
        rows = self.shown()
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), expand=True)
        for heading in ("model", "server", "id", "state"):
            table.add_column(heading, no_wrap=True, overflow="ellipsis")
        for heading in ("in flight", "share", "calls/s", "failed/s", "p50", "p95", "1st p95"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("why", no_wrap=True, overflow="ellipsis", ratio=1)
        groups = [each for each in self._summary["groups"] if self.model in (None, each["model"])]
        sentences = troubles(sorted(groups, key=to_watch), now, _TROUBLES)
        room = max(1, height - 8 - 2 * len(sentences))  # each may need a second line
        for row in rows[:room]:
            table.add_row(*_cells(row, now))
        foot = f"… {len(rows) - room} more" if len(rows) > room else ""
        ill = [Text(sentence, style="bold") for sentence in sentences]
        return Group(self._head(), *ill, table, Text(foot, style="dim"), self._foot())

    def _head(self) -> Text:
        summary = self._summary
        rows = self._rows
        up = sum(1 for row in rows if row["state"] in {"up", "warming"})
        text = Text()
        text.append("fast-router top", style="bold")
        count = len(summary["processes"])
        text.append(f"  {count} process{'' if count == 1 else 'es'}  {up} of {len(rows)} deployments up", style="")
        text.append(f"  {sum(row['in_flight'] for row in rows)} in flight")
        text.append(f"  {sum(row['rate'] for row in rows):.1f} calls/s")
        failed = sum(row["failed_rate"] for row in rows)
        text.append(f"  {failed:.1f} failed/s", style="red" if failed else "")
        if self.paused:
            text.append("  paused", style="yellow")
        return text

    def _foot(self) -> Text:
        order = list(_ORDERS)[self.order] + (", reversed" if self.reverse else "")
        typed = f"   filter: {self.filter}{'▏' if self.typing else ''}" if self.filter or self.typing else ""
        return Text(f"{_KEYS}   by {order}{typed}", style="dim")


def _cells(row: Mapping[str, Any], now: float) -> list[RenderableType]:
    state = row["state"] + (
        f" {row['workers_alike']}/{row['workers']}" if row["workers_alike"] < row["workers"] else ""
    )
    share = "–" if row["share"] is None else f"{100 * row['share']:.0f} %"
    return [
        row["model"],
        row["server"],
        row["short"],
        Text(state, style=COLOURS.get(row["state"], "")),
        str(row["in_flight"]),
        share,
        f"{row['rate']:.1f}",
        Text(f"{row['failed_rate']:.1f}", style="red" if row["failed_rate"] else ""),
        *(figure(row[key], "s") for key in ("p50", "p95", "first_p95")),
        why(row, now),
    ]


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Single keys of the terminal, without waiting for a line; gives a function that waits so long for one."""
    if not sys.stdin.isatty():
        yield lambda seconds: time.sleep(seconds) or ""  # type: ignore[func-returns-value]  # sleep, then nothing
        return
    import termios  # noqa: PLC0415 - a terminal of a Unix
    import tty  # noqa: PLC0415

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)

    def key(seconds: float) -> str:
        ready, _, _ = select.select([number], [], [], seconds)
        return os.read(number, 16).decode(errors="ignore")[:1] if ready else ""

    try:
        yield key
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


@click.command()
@click.option("--model", help="This model only.")
@click.option(
    "--interval",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0.2, 60),
    help="Seconds between looks; longer beyond 160 deployments.",
)
@click.option("--once", is_flag=True, help="One screen, two looks an interval apart, for a pipe.")
def top(model: str | None, interval: float, once: bool) -> None:
    """Show all deployments live, the ones in trouble first; `q` leaves."""
    screen, console = Screen(model), Console()
    screen.take(asking.processes(), time.monotonic())
    if once:
        time.sleep(interval)
        screen.take(asking.processes(), time.monotonic())
        wide = console if console.is_terminal else Console(width=160)
        wide.print(screen.render(10_000, time.time()))
        return
    with _keys() as key, Live(console=console, screen=True, auto_refresh=False) as live:
        due = time.monotonic() + screen.pace(interval)
        while True:
            live.update(screen.render(console.height, time.time()), refresh=True)
            try:
                pressed = key(max(0.0, due - time.monotonic()))
            except KeyboardInterrupt:
                return
            if pressed and not screen.press(pressed):
                return
            if time.monotonic() >= due:
                due = time.monotonic() + screen.pace(interval)
                if not screen.paused:
                    screen.take(asking.processes(), time.monotonic())
