"""What the page shows: the workers' answers added up, asked for once however many browsers look."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fast_router.engine.histogram import BOUNDS, percentile
from fast_router.observe import asking
from fast_router.observe.history import EVERY, GROUP_SERIES, SAMPLES
from fast_router.observe.runtime_dir import directories
from fast_router.observe.summary import idle_parents, summarise

__all__ = ["Live"]

QUICKEST = 0.5
"""Seconds between two looks at the workers, at the least."""
_CHANGES = 40
_SUMS = ("ok", "failed", "in_flight")


class Live:
    """Asks the workers, no more often than they can bear."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._documents: list[dict[str, Any]] = []
        self._state: dict[str, Any] = {}
        self._due = 0.0
        self._pace = QUICKEST

    def documents(self) -> list[dict[str, Any]]:
        """The newest answers to `status`."""
        self.state()
        return self._documents

    def forget(self) -> None:
        """Ask anew next time: something was ordered."""
        self._due = 0.0

    def state(self) -> dict[str, Any]:
        """Everything but the history; the same object for all who ask within a second or so."""
        with self._lock:
            if time.monotonic() < self._due:
                return self._state
            self._documents = asking.processes()
            state = summarise(self._documents)
            rows = sum(group["size"] for group in state["groups"])
            # A worker spends some 30 ms on 1,000 deployments.
            self._pace = max(QUICKEST, round(rows / 400, 1))
            state.update(
                now=time.time(),
                every=self._pace,
                idle=len(idle_parents(self._documents)),
                total=_total(self._documents),
                changes=_changes(self._documents),
                events=_events(self._documents),
                nothing=f"No process answers in {', '.join(map(str, directories()))}.",
            )
            self._state = state
            self._due = time.monotonic() + 0.9 * self._pace
            return state

    def explain(self, model: str) -> dict[str, Any]:
        """Why each deployment of a model may be picked or not, as each worker sees it."""
        answers = asking.ask_all({"do": "explain", "model": model})
        return {"explained": [{"pid": a.get("pid"), **each} for a in answers for each in a.get("explained") or ()]}

    def history(self, model: str | None) -> dict[str, Any]:
        """The last hour of one model or of all, over all workers.

        Calls and in flight are sums; percentiles are means over workers, weighted by calls.
        """
        answers = asking.ask_all({"do": "history", "model": model} if model else {"do": "history", "sum": True})
        parts = [
            columns
            for answer in answers
            for columns in ((answer.get("history") or {}).get("groups") or {}).values()
            if len(columns) == len(GROUP_SERIES)
        ]
        return {"now": time.time(), "every": EVERY, "series": merge(parts)}


def merge(parts: Sequence[Sequence[Sequence[float | None]]]) -> dict[str, list[float | None]]:
    """Add up the series of several workers, oldest first."""
    merged: dict[str, list[float | None]] = {name: [None] * SAMPLES for name in GROUP_SERIES}
    for place in range(SAMPLES):
        known = [part for part in parts if part[0][place] is not None]
        if not known:
            continue
        for column, name in enumerate(GROUP_SERIES):
            if name in _SUMS:
                merged[name][place] = sum(part[column][place] or 0.0 for part in known)
                continue
            weighed = [(part[column][place], part[0][place] or 0.0) for part in known]
            pairs = [(value, max(weight, 1e-9)) for value, weight in weighed if value is not None]
            if pairs:
                merged[name][place] = sum(v * w for v, w in pairs) / sum(w for _, w in pairs)
    return merged


def _total(documents: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Percentiles of the last minute or two over everything."""
    counts, first = [0] * (len(BOUNDS) + 1), [0] * (len(BOUNDS) + 1)
    for document in documents:
        for router in document.get("routers") or ():
            for group in router["models"].values():
                for row in group["deployments"]:
                    if row.get("window"):
                        counts = [a + b for a, b in zip(counts, row["window"][0], strict=True)]
                        first = [a + b for a, b in zip(first, row["window"][1], strict=True)]
    return {
        "p50": percentile(counts, 0.5),
        "p95": percentile(counts, 0.95),
        "first_p50": percentile(first, 0.5),
        "first_p95": percentile(first, 0.95),
    }


def _changes(documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The newest first; several workers that saw the same within two seconds say it once."""
    every = [
        change
        for document in documents
        for router in document.get("routers") or ()
        for change in router.get("changes") or ()
    ]
    found: list[dict[str, Any]] = []
    seen: dict[tuple[str, str, str], float] = {}
    for change in sorted(every, key=lambda each: -each["at"]):
        # The first words say what; figures differ from worker to worker.
        key = (change["model"], change["id"], " ".join(change["what"].split()[:2]))
        if key in seen and seen[key] - change["at"] < 2:
            continue
        seen[key] = change["at"]
        found.append(change)
        if len(found) == _CHANGES:
            break
    return found


def _events(documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    counts: Counter[tuple[str, str]] = Counter()
    for document in documents:
        for each in (document.get("status") or {}).get("events") or ():
            counts[each["event"], each["model"]] += each["count"]
    return [{"event": event, "model": model, "count": count} for (event, model), count in counts.most_common(30)]
