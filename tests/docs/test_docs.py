"""Documentation is true: links lead somewhere, tables match the code, commands exist, code blocks are Python."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner

import fast_router
from fast_router import known_strategies, settings
from fast_router.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SETTINGS_MARK = "<!-- settings: made by `fast-router settings --markdown`, checked by the tests -->\n"


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_to_a_file_leads_to_one(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{_name(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_python_block_is_python(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        ast.parse(re.sub(r"^await ", "", block, flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_fast_router_command_exists(page):
    for words in re.findall(r"(?:^|`)fast-router ((?:[a-z]+ ?)+)", page.read_text(), re.MULTILINE):
        command, *more = words.split()
        result = CliRunner().invoke(main, [command, *(more[:1] if command == "albert" else []), "--help"])
        assert result.exit_code == 0, f"{_name(page)}: fast-router {words}: {result.output}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_make_target_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE):
        assert target in targets, f"{_name(page)} names make {target}"


def test_the_settings_table_is_the_codes():
    page = ROOT / "docs" / "operations.md"
    shown = page.read_text().split(SETTINGS_MARK, 1)[1].strip()
    assert shown == settings.markdown().strip(), "run: fast-router settings --markdown, and put it into the page"


def test_every_strategy_is_documented():
    page = (ROOT / "docs" / "strategies.md").read_text()
    for name in known_strategies():
        if name != "the_last_one":  # a test's own
            assert f"| `{name}`" in page, name


def test_every_public_name_is_documented():
    page = (ROOT / "docs" / "api.md").read_text() + (ROOT / "docs" / "strategies.md").read_text()
    missing = [name for name in fast_router.__all__ if name not in page]
    assert not missing


def test_the_table_of_overhead_features_is_the_codes():
    made = runpy.run_path(str(ROOT / "scripts" / "feature_tables.py"))
    page = made["PAGE"].read_text()
    assert made["written"](page) == page, "run python scripts/feature_tables.py"
