"""Write the tables of docs/performance.md that are made from the features' records.

Run it after a change of a record; a test tells when that was forgotten.
"""

from __future__ import annotations

from pathlib import Path

from fast_router.litellm_plugin.overhead import FEATURES

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- made by scripts/feature_tables.py -->\n", "<!-- end -->\n"


def table() -> str:
    """The features, a row each."""
    rows = ["| feature | LiteLLM, on every request | with fast_router |", "|---|---|---|"]
    rows += [f"| `{one.name}` | {one.stock} | {one.line} |" for one in FEATURES]
    return "\n".join(rows) + "\n"


def written(page: str) -> str:
    """The page with the table as it should be."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
