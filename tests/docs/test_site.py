"""The site builds in mkdocs' strict mode: no link or anchor leads nowhere, and no page loads anything from outside."""

from __future__ import annotations

import logging
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    into = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(into))
    warnings = []
    watch = logging.Handler(logging.WARNING)
    watch.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger("mkdocs").addHandler(watch)
    config.plugins.on_startup(command="build", dirty=False)
    try:
        build(config)
    except BaseException as error:  # strict mode ends the command
        pytest.fail(f"{error}: {warnings}")
    finally:
        logging.getLogger("mkdocs").removeHandler(watch)
        config.plugins.on_shutdown()
    return into


class _Loaded(HTMLParser):
    """What a page loads by itself."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe") and given.get("src"):
            self.found.append(given["src"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "preconnect", "icon"):
            self.found.append(given["href"])


def test_every_page_is_there_and_loads_nothing_from_outside(site):
    for page in sorted((ROOT / "docs").glob("*.md")):
        built = site / ("index.html" if page.stem == "index" else f"{page.stem}/index.html")
        loaded = _Loaded()
        loaded.feed(built.read_text())
        assert loaded.found
        assert not [one for one in loaded.found if one.startswith(("http:", "https:", "//"))], page.name


def test_what_lies_beside_the_pages_is_part_of_it(site):
    assert (site / "examples/albert/d0.yml").read_bytes() == (ROOT / "examples/albert/d0.yml").read_bytes()
    assert (site / "grafana.json").exists()
    assert 'href="../failover/#whom-a-failure-blames"' in (site / "CHANGELOG/index.html").read_text()


def test_each_of_the_ten_questions_is_answered():
    page = (ROOT / "docs" / "index.md").read_text()
    rows = re.findall(r"^\| ([A-Z][^|]+\?) \| ([^|]+) \| ([^|]*) \|$", page, re.MULTILINE)
    assert len(rows) == 10
    assert all("](" in answer or "`" in command for _, answer, command in rows)
