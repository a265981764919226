"""Every benchmark's figures reach the screen and the JSON."""

from __future__ import annotations

import json

import pytest

from benchmarks import report as reporting
from benchmarks.__main__ import names
from benchmarks.common import interleaved


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.mark.parametrize("rich", [True, False])
def test_rows_are_shown_and_saved(folder, monkeypatch, capsys, rich):
    if not rich:
        monkeypatch.setattr(reporting, "Console", None)
    report = reporting.Report("x", "A title", ["what", "µs", "ratio"], ["a note"])
    report.add("one", 1234.5, None)
    report.add("two", 0.123, 2)
    path = report.finish(more=7)
    out = capsys.readouterr().out
    for text in ("A title", "what", "1,23", "0.12", "–", "a note"):
        assert text in out
    saved = json.loads(path.read_text())
    assert path == folder / "x.json"
    assert saved["rows"] == [{"what": "one", "µs": 1234.5, "ratio": None}, {"what": "two", "µs": 0.123, "ratio": 2}]
    assert saved["more"] == 7
    assert saved["machine"]["processors"] >= 1


def test_a_row_needs_a_value_for_each_column():
    with pytest.raises(ValueError, match="argument"):
        reporting.Report("x", "t", ["a", "b"]).add(1)


def test_candidates_take_turns_and_medians_win():
    order = []
    times = {"a": iter([1.0, 9.0, 2.0]), "b": iter([5.0, 4.0, 6.0])}

    def take(name):
        def taken():
            order.append(name)
            return next(times[name])

        return taken

    assert interleaved({name: take(name) for name in times}, 3) == {"a": 2.0, "b": 5.0}
    assert order == ["a", "b"] * 3


def test_the_benchmarks_are_found():
    assert {"pick", "direct", "footprint"} <= set(names())
    assert not {"report", "common", "__main__"} & set(names())
