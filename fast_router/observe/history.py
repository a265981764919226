"""The last hour of this process, and what is needed for percentiles of the last minute.

Sampled every ten seconds by the thread that answers the status socket, from the counters that are there anyhow: picks
and calls know nothing of it. A model keeps eight series, a deployment three, each of them 360 numbers of four bytes and
only from its first call on: about 5 MB for 1,000 busy deployments of one model, 16 MB where each is a model of its own.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from fast_router.engine.histogram import BOUNDS, Histogram, percentile
from fast_router.stats import groups_of

if TYPE_CHECKING:
    from fast_router.engine import Deployment
    from fast_router.router import AdvancedRouter

__all__ = ["EVERY", "GROUP_SERIES", "SAMPLES", "SERIES", "History", "history"]

EVERY: Final = 10.0
"""Seconds between two samples."""
SAMPLES: Final = 360
GROUP_SERIES: Final = ("ok", "failed", "in_flight", "p50", "p95", "p99", "first_p50", "first_p95")
"""Per model: calls that succeeded and failed per second, in flight, and seconds."""
SERIES: Final = ("ok", "failed", "in_flight")
_WINDOW: Final = 6  # samples that a window lasts at the least
_NAN = float("nan")
_BUCKETS = len(BOUNDS) + 1
_EMPTY = array("I", bytes(4 * _BUCKETS))


class _Ring:
    """Series of one thing, oldest overwritten first."""

    __slots__ = ("columns",)

    def __init__(self, width: int) -> None:
        self.columns = [array("f", [_NAN]) * SAMPLES for _ in range(width)]

    def put(self, place: int, values: Sequence[float]) -> None:
        for column, value in zip(self.columns, values, strict=True):
            column[place] = value

    def blank(self, place: int) -> None:
        for column in self.columns:
            column[place] = _NAN

    def read(self, start: int) -> list[list[float | None]]:
        """Each series, oldest first; None where nothing is known."""
        return [[_short(v) for v in (*column[start:], *column[:start])] for column in self.columns]


def _short(value: float) -> float | None:
    return None if value != value else float(f"{value:.4g}")  # noqa: PLR0124 - not a number


class _Seen:
    """A deployment's counters at the last sample, and its histograms where the present window began."""

    __slots__ = ("base", "failures", "first_base", "first_last", "first_next", "last", "next", "successes")

    def __init__(self) -> None:
        self.successes = self.failures = 0
        self.last = self.base = self.next = _EMPTY
        self.first_last = self.first_base = self.first_next = _EMPTY


class History:
    """The samples of one process; used by one thread at a time."""

    def __init__(self) -> None:
        self._groups: dict[str, _Ring] = {}
        self._rings: dict[str, _Ring] = {}
        self._seen: dict[tuple[int, str], _Seen] = {}
        self._place = 0
        self._count = 0

    def sample(self, routers: Iterable[AdvancedRouter]) -> None:
        """Take one sample."""
        place, turn = self._place, self._count % _WINDOW == 0
        for ring in (*self._groups.values(), *self._rings.values()):
            ring.blank(place)
        living: set[tuple[int, str]] = set()
        models: set[str] = set()
        totals: dict[str, list[Any]] = {}
        rows: dict[str, list[float]] = {}
        for router in routers:
            for model, (_, members) in groups_of(router).items():
                models.add(model)
                total = totals.setdefault(model, [0.0, 0.0, 0.0, [0] * _BUCKETS, [0] * _BUCKETS])
                for deployment in members:
                    key = (router.number, deployment.id)
                    first_time = key not in living
                    living.add(key)
                    self._take(key, deployment, total, rows if first_time else None, turn=turn)
        for model, (ok, failed, in_flight, counts, first) in totals.items():
            if model not in self._groups and not ok and not failed and not in_flight:
                continue
            shares = [_or_nan(percentile(counts, share)) for share in (0.5, 0.95, 0.99)]
            firsts = [_or_nan(percentile(first, share)) for share in (0.5, 0.95)]
            ring = self._groups.setdefault(model, _Ring(len(GROUP_SERIES)))
            ring.put(place, [ok / EVERY, failed / EVERY, in_flight, *shares, *firsts])
        for id_, values in rows.items():
            if id_ in self._rings or any(values):
                self._rings.setdefault(id_, _Ring(len(SERIES))).put(place, values)
        self._forget(living, models)
        self._place = (place + 1) % SAMPLES
        self._count += 1

    def _take(
        self,
        key: tuple[int, str],
        deployment: Deployment,
        total: list[Any],
        rows: dict[str, list[float]] | None,
        *,
        turn: bool,
    ) -> None:
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = _Seen()
        ok, failed = deployment.successes - seen.successes, deployment.failures - seen.failures
        counts, first = _counts(deployment.durations), _counts(deployment.first_durations)
        total[0] += ok
        total[1] += failed
        total[2] += deployment.in_flight
        if counts is not seen.last and ok:
            _add(total[3], counts, seen.last)
            _add(total[4], first, seen.first_last)
        if rows is None:
            return  # the same deployment in a second group of its Router
        row = rows.setdefault(deployment.id, [0.0, 0.0, 0.0])
        row[0] += ok / EVERY
        row[1] += failed / EVERY
        row[2] += deployment.in_flight
        seen.successes, seen.failures = deployment.successes, deployment.failures
        seen.last, seen.first_last = counts, first
        if turn:
            seen.base, seen.next = seen.next, counts
            seen.first_base, seen.first_next = seen.first_next, first

    def _forget(self, living: set[tuple[int, str]], models: set[str]) -> None:
        for key in [key for key in self._seen if key not in living]:
            del self._seen[key]
        ids = {id_ for _, id_ in living}
        for id_ in [id_ for id_ in self._rings if id_ not in ids]:
            del self._rings[id_]
        for model in [model for model in self._groups if model not in models]:
            del self._groups[model]

    def window(self, router: AdvancedRouter, deployment: Deployment) -> tuple[list[int], list[int]] | None:
        """Durations and first tokens of the last one to two minutes, in buckets; None if there were none."""
        seen = self._seen.get((router.number, deployment.id))
        counts, first = [0] * _BUCKETS, [0] * _BUCKETS
        _add(counts, _counts(deployment.durations), _EMPTY if seen is None else seen.base)
        if not any(counts):
            return None
        _add(first, _counts(deployment.first_durations), _EMPTY if seen is None else seen.first_base)
        return counts, first

    def total(self) -> dict[str, Any]:
        """The series of all models in one, oldest first; percentiles are means weighted by calls."""
        start, places = self._place, range(SAMPLES)
        rings = list(self._groups.values())
        columns: list[list[float | None]] = [[None] * SAMPLES for _ in GROUP_SERIES]
        for place in places:
            at = (start + place) % SAMPLES
            rows = [[column[at] for column in ring.columns] for ring in rings]
            rows = [row for row in rows if row[0] == row[0]]
            for number in range(len(GROUP_SERIES)) if rows else ():
                if number < len(SERIES):
                    columns[number][place] = _short(sum(row[number] for row in rows))
                    continue
                pairs = [(row[number], row[0]) for row in rows if row[number] == row[number] and row[0]]
                weight = sum(calls for _, calls in pairs)
                columns[number][place] = _short(sum(v * calls for v, calls in pairs) / weight) if weight else None
        return {"every": EVERY, "series": GROUP_SERIES, "groups": {"": columns} if rings else {}, "deployments": {}}

    def read(self, model: str | None = None, ids: Iterable[str] = ()) -> dict[str, Any]:
        """The series of all models or of one, and of some deployments, oldest first."""
        start = self._place
        groups = {name: ring.read(start) for name, ring in self._groups.items() if model in (None, name)}
        return {
            "every": EVERY,
            "series": GROUP_SERIES,
            "groups": groups,
            "deployments": {id_: self._rings[id_].read(start) for id_ in ids if id_ in self._rings},
        }


def _counts(histogram: Histogram | None) -> array[int]:
    return _EMPTY if histogram is None else array("I", histogram.counts)


def _add(total: list[int], now: Sequence[int], before: Sequence[int]) -> None:
    if now is before:
        return
    for place, (more, less) in enumerate(zip(now, before, strict=True)):
        total[place] += more - less


def _or_nan(value: float | None) -> float:
    return _NAN if value is None else value


history = History()
"""This process's."""
