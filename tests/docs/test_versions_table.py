"""The table of what is on with which LiteLLM: read back as it was written, and what it calls a loss."""

from __future__ import annotations

import dataclasses

from scripts import versions


def test_the_page_says_what_can_be_read_back():
    rows = versions.kept(versions.PAGE.read_text())
    assert [row.first for row in rows] == sorted((row.first for row in rows), key=versions.numbers, reverse=True)
    page = "before\n" + versions.BEGIN + versions.HEAD + "".join(row.text() for row in rows) + versions.END + "after\n"
    assert versions.kept(page) == rows
    assert "".join(row.text() for row in rows) in versions.PAGE.read_text()


def test_a_feature_that_is_gone_is_a_loss_and_one_that_came_is_none():
    old = versions.kept(versions.PAGE.read_text())[0]
    fewer = dataclasses.replace(old, differs=(*old.differs, "hedging"), picks=versions.CHOICE)
    assert old.lost_since(old) == []
    assert fewer.lost_since(old) == ["hedging", f"picks {old.picks}"]
    assert old.lost_since(fewer) == []


def test_neighbours_of_which_the_same_is_true_are_one_row():
    def row(release, on):
        return versions.Row(release, release, versions.FAST, on, (), ("group_lists",))

    merged = versions.merged([row("1.99.0", 3), row("1.99.4", 3), row("1.100.0", 3), row("1.101.0", 4)])
    assert [(one.first, one.last) for one in merged] == [("1.99.0", "1.100.0"), ("1.101.0", "1.101.0")]


def test_what_waits_for_the_proxy_is_no_loss():
    status = {
        "band": "1.106",
        "features": ["selection"],
        "skipped": {
            "startup_heap": "waits for LiteLLM's proxy",
            "clients": "_get_client of LiteLLM 1.106.2 reads differently from those that were checked against",
            "usage_verdict": "LiteLLM 1.106.2 has no _increment_deployment_usage",
        },
    }
    row = versions.told("1.106.2", status)
    assert (row.picks, row.on, row.differs, row.absent) == (versions.FAST, 1, ("clients",), ("usage_verdict",))
