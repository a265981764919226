"""A hook of mkdocs: what the pages link to outside docs/ is part of the site, and links to it hold in both places.

On a code host a page links to `../examples/…`, and CHANGELOG.md links to `docs/…`; in the site all of them lie side by
side.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md")
_OUT = re.compile(r"\]\(\.\./(?=[^)]+\))")
_IN = re.compile(r"\]\(docs/(?=[^)]+\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages beside docs/, and the examples."""
    for path in (*(ROOT / name for name in PAGES), *sorted((ROOT / "examples").rglob("*.y*ml"))):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_more: Any) -> str:
    """Let links lead to where the files are in the site."""
    return (_IN if page.file.src_uri in PAGES else _OUT).sub("](", markdown)
