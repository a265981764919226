"""One table on the screen and one JSON file a benchmark; all benchmarks report through here.

report = Report("pick", "One pick, µs", ["strategy", "deployments", "LiteLLM", "fast_router", "ratio"])
report.add("least-busy", 10, 61.0, 0.9, 67.8)
report.finish()
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

try:
    from rich.console import Console
    from rich.table import Table
except ImportError:  # it comes with fast-router[cli]
    Console = Table = None  # type: ignore[assignment, misc]

RESULTS = Path(__file__).resolve().parent / "results"


class Report:
    """Rows of one benchmark.

    Args:
        name: Name of the JSON file.
        title: What is measured, and in which unit.
        columns: Names of the columns, also the keys in the JSON.
        notes: Sentences under the table: what the figures leave out, how they were taken.
    """

    def __init__(self, name: str, title: str, columns: list[str], notes: list[str] | None = None) -> None:
        self.name = name
        self.title = title
        self.columns = columns
        self.notes = list(notes or [])
        self.rows: list[dict[str, Any]] = []
        self._began = time.time()

    def add(self, *values: Any) -> None:
        """Add a row, one value a column."""
        self.rows.append(dict(zip(self.columns, values, strict=True)))

    def finish(self, **extra: Any) -> Path:
        """Show the table, write the JSON, return its path."""
        self.show()
        return self.save(**extra)

    def show(self) -> None:
        """Print the table: with rich if it is there, plain otherwise."""
        cells = [[_text(row[column]) for column in self.columns] for row in self.rows]
        if Console is None:
            self._show_plain(cells)
        else:
            self._show_rich(cells)
        for note in self.notes:
            print(f"  {note}")
        print()

    def save(self, **extra: Any) -> Path:
        """Write benchmarks/results/<name>.json and return its path."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        content = {
            "name": self.name,
            "title": self.title,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._began)),
            "seconds": round(time.time() - self._began, 1),
            "machine": machine(),
            "notes": self.notes,
            "rows": self.rows,
            **extra,
        }
        path.write_text(json.dumps(content, indent=2, default=str) + "\n")
        return path

    def _show_rich(self, cells: list[list[str]]) -> None:
        table = Table(title=self.title, title_justify="left")
        for place, column in enumerate(self.columns):
            numbers = all(isinstance(row[column], (int, float)) or row[column] is None for row in self.rows)
            table.add_column(column, justify="right" if numbers and place else "left", no_wrap=not place)
        for line in cells:
            table.add_row(*line)
        console = Console()
        if not console.is_terminal:  # a table wider than 80 characters should stay one in a file, too
            console.width = max(console.width, 120)
        console.print(table)

    def _show_plain(self, cells: list[list[str]]) -> None:
        widths = [max(map(len, column)) for column in zip(self.columns, *cells, strict=True)]
        print(self.title)
        for line in [self.columns, ["-" * width for width in widths], *cells]:
            print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def machine() -> dict[str, Any]:
    """Return what a reader needs to judge the figures."""
    versions = {}
    for name in ("fast-router", "litellm", "redis", "celery"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": versions,
    }


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        size = abs(value)
        if size >= 100:
            return f"{value:,.0f}"
        return f"{value:.1f}" if size >= 10 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
