"""Plots of a simulation, written by matplotlib (`fast-router[plots]`)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fast_router import extras
from fast_router.cache_world import Outcome as CacheOutcome
from fast_router.errors import ConfigurationError
from fast_router.simulation import Outcome

__all__ = ["cache_plot", "check", "latency_plot"]

_ORACLE = "#888888"
_OTHERS = ("#0b6e99", "#d9730d", "#448361", "#9065b0", "#c14c8a", "#cb912f", "#5a7fc0", "#787774")
_SIZE = (9.0, 3.6)


def check(path: Path) -> None:
    """Refuse what cannot be written before the simulation runs.

    Raises:
        ConfigurationError: matplotlib is not installed, the format is unknown to it, or there is no such folder.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigurationError(extras.needs("--plot", error.name, "plots")) from None
    formats = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix.lstrip(".") not in formats:
        raise ConfigurationError(f"--plot {path}: the name must end in one of {', '.join(formats)}; svg is a good one")
    if not path.parent.is_dir():
        raise ConfigurationError(f"--plot {path}: there is no folder {path.parent}")


def cache_plot(path: Path, title: str, outcomes: Sequence[CacheOutcome]) -> None:
    """Draw hit shares as bars, and the distribution of the time to first token."""
    figure, (hits, waits) = _figure(title)
    colours = _colours(outcomes)
    names = [outcome.name for outcome in outcomes]
    drawn = hits.barh(names, [100 * one.hit_share for one in outcomes], color=[colours[name] for name in names])
    hits.bar_label(drawn, fmt="%.0f", padding=2, fontsize=8)
    hits.invert_yaxis()
    hits.set_xlim(0, 105)
    hits.set_xlabel("prompt tokens found in a cache, %")
    for outcome in outcomes:
        _survivors(waits, outcome.name, [wait for _, wait in outcome.waits], colours[outcome.name])
    waits.set_xlabel("time to first token, s")
    _finish(figure, waits, path)


def latency_plot(path: Path, title: str, outcomes: Sequence[Outcome]) -> None:
    """Draw the slowest answer of each second, and the distribution of the latencies."""
    figure, (course, waits) = _figure(title)
    colours = _colours(outcomes)
    for outcome in outcomes:
        colour = colours[outcome.name]
        # Nothing arrived in the last second: answers of before ended there.
        worst = list(itertools.dropwhile(lambda seconds: not seconds, [s for s, _ in reversed(outcome.timeline)]))
        course.plot(worst[::-1], color=colour, linewidth=1, alpha=0.8)
        _survivors(waits, outcome.name, outcome.latencies, colour)
    course.set_xlabel("arrival, s after the beginning")
    course.set_ylabel("slowest answer of the second, s")
    course.set_ylim(bottom=0)
    waits.set_xlabel("latency, s")
    _finish(figure, waits, path)


def _figure(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415

    # Not pyplot: no global state, no display.
    figure = Figure(figsize=_SIZE, layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(1, 2)
    for one in axes:
        one.tick_params(labelsize=8)
        one.xaxis.label.set_size(8)
        one.yaxis.label.set_size(8)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _colours(outcomes: Sequence[Any]) -> dict[str, str]:
    colours = itertools.cycle(_OTHERS)
    return {one.name: _ORACLE if one.name == "oracle" else next(colours) for one in outcomes}


def _survivors(axes: Any, name: str, values: Sequence[float], colour: str) -> None:
    """Draw which share waited longer: a percentile is where the curve crosses 50, 10 or 1 %."""
    ordered = sorted(values)
    size = len(ordered)
    if not size:
        return
    # At most 200 points, closer together where the tail is: a file of tens of kilobytes, whatever the run.
    places = sorted({min(size - 1, round(size * (1 - 10 ** (-3 * step / 199)))) for step in range(200)})
    axes.plot(
        [ordered[place] for place in places],
        [100 * (size - place) / size for place in places],
        color=colour,
        linewidth=1.4,
        linestyle="--" if name == "oracle" else "-",
        label=name,
    )


def _finish(figure: Any, waits: Any, path: Path) -> None:
    from matplotlib.ticker import LogLocator  # noqa: PLC0415

    waits.set_xscale("log")
    waits.set_yscale("log")
    waits.set_ylim(0.1, 110)
    waits.set_yticks([100, 50, 10, 1, 0.1], ["all", "p50", "p90", "p99", "p99.9"])
    waits.minorticks_off()
    waits.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # a run may lie within one power of ten
    waits.xaxis.set_major_formatter("{x:g}")
    waits.grid(visible=True, alpha=0.3)
    waits.legend(fontsize=7, frameon=False)
    # Without the date and with a fixed salt the same outcomes are the same bytes.
    import matplotlib as mpl  # noqa: PLC0415

    with mpl.rc_context({"svg.hashsalt": "fast_router", "svg.fonttype": "none"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=metadata, dpi=150)
