"""What a simulation found, on a screen of 80 columns and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import click

from fast_router.cache_world import Outcome as CacheOutcome
from fast_router.cli import tables
from fast_router.simulation import Outcome

__all__ = ["bars", "cache_json", "cache_table", "conclusion", "latency_json", "latency_table", "shares"]

_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = 40
_TIED = "\N{NO-BREAK SPACE}"
_TIE = 0.1  # p99s that differ by less are called equal: other arrivals would change their order
_NAMED = 8  # servers whose shares are all named


def latency_table(title: str, outcomes: Sequence[Outcome]) -> None:
    """Print latencies, errors and attempts by strategy."""
    tables.show(
        title,
        ["strategy", "p50 s", "p99 s", "errors", "attempts/req."],
        [
            (
                outcome.name,
                _seconds(outcome.percentile(0.5)),
                _seconds(outcome.percentile(0.99)),
                f"{outcome.errors} of {outcome.requests}",
                f"{outcome.amplification:.3f}",
            )
            for outcome in outcomes
        ],
    )


def cache_table(title: str, outcomes: Sequence[CacheOutcome]) -> None:
    """Print hit share and time to first token by strategy; the last outcome is the oracle's."""
    best = outcomes[-1].percentile(0.9)
    tables.show(
        title,
        ["strategy", "hits %", "first token p50 s", "p90 s", "p99 s", "p90/oracle"],
        [
            (
                outcome.name,
                f"{100 * outcome.hit_share:.1f}",
                *(_seconds(outcome.percentile(share)) for share in (0.5, 0.9, 0.99)),
                f"{outcome.percentile(0.9) / best:.2f}" if best else "–",
            )
            for outcome in outcomes
        ],
    )


def shares(title: str, picks: Mapping[str, Mapping[str, int]]) -> None:
    """Print which server got which share of the attempts, by strategy.

    Args:
        title: What is shared.
        picks: By strategy: attempts by server.
    """
    click.echo(title)
    for strategy, counts in picks.items():
        total = max(1, sum(counts.values()))
        ordered = list(counts.items())
        rest = ""
        if len(ordered) > _NAMED:
            ordered.sort(key=lambda item: -item[1])
            left = [100 * count / total for _, count in ordered[_NAMED - 2 :]]
            rest = f", {len(left)} others {left[-1]:.1f}–{left[0]:.1f}"
            ordered = ordered[: _NAMED - 2]
        # A line ends between two servers, not between one and its share.
        named = ", ".join(f"{name} {100 * count / total:.0f}".replace(" ", _TIED) for name, count in ordered)
        click.echo(tables.wrapped(f"  {strategy}: {named}{rest}", 4).replace(_TIED, " "))


def bars(outcomes: Sequence[Outcome]) -> None:
    """Print the slowest answer of each stretch of time, on one scale for every strategy."""
    drawn: dict[str, list[float]] = {}
    width = max(1, math.ceil(max(len(outcome.timeline) for outcome in outcomes) / _COLUMNS))
    for outcome in outcomes:
        worst = [seconds for seconds, _ in outcome.timeline]
        drawn[outcome.name] = [max(worst[at : at + width]) for at in range(0, len(worst), width)]
    top = max(max(values) for values in drawn.values())
    longest = max(map(len, drawn))
    click.echo(f"Slowest answer, {width} s per bar, full height {top:.2f} s")
    for name, values in drawn.items():
        click.echo(f"{name:>{longest}}  {_spark(values, top)}")


def conclusion(outcomes: Sequence[Outcome], rate: float) -> str:
    """Say which strategy served this fleet best: fewest errors, and among those the lowest p99.

    Args:
        outcomes: One per strategy.
        rate: Requests per second.
    """
    fewest = min(outcome.errors for outcome in outcomes)
    best = min((outcome for outcome in outcomes if outcome.errors == fewest), key=_slowest)
    if math.isinf(_slowest(best)):
        return f"Conclusion: at {rate:g} requests/s no request is answered, whatever the strategy."
    close = [
        outcome.name
        for outcome in outcomes
        if outcome.errors == fewest and _slowest(outcome) <= (1 + _TIE) * _slowest(best)
    ]
    if len(close) == len(outcomes):
        return f"Conclusion: no difference to speak of at {rate:g} requests/s; any of these will do."
    figures = f"p99 {_seconds(best.percentile(0.99))} s, {best.errors} errors"
    others = [name for name in close if name != best.name]
    equal = f"; within 10 % of it: {', '.join(others)}" if others else ""
    return f"Conclusion: at {rate:g} requests/s {best.name} does best ({figures}){equal}."


def _slowest(outcome: Outcome) -> float:
    p99 = outcome.percentile(0.99)
    return math.inf if math.isnan(p99) else p99


def latency_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Give the outcomes as plain data; times in seconds."""
    return [
        {
            "strategy": outcome.name,
            "p50": _number(outcome.percentile(0.5)),
            "p99": _number(outcome.percentile(0.99)),
            "requests": outcome.requests,
            "errors": outcome.errors,
            "attempts": outcome.attempts,
            "failed_attempts": outcome.wasted,
        }
        for outcome in outcomes
    ]


def cache_json(outcomes: Sequence[CacheOutcome]) -> list[dict[str, Any]]:
    """Give the outcomes as plain data; times in seconds, the hit share between 0 and 1."""
    return [
        {
            "strategy": outcome.name,
            "hit_share": outcome.hit_share,
            "first_token": {f"p{share}": _number(outcome.percentile(share / 100)) for share in (50, 90, 99)},
            "requests": len(outcome.waits),
            "picks": outcome.picks,
        }
        for outcome in outcomes
    ]


def _number(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds


def _seconds(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    return f"{seconds:.3f}" if seconds < 1 else f"{seconds:.2f}"


def _spark(values: list[float], top: float) -> str:
    if not top:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(len(_BARS) - 1, int(value / top * (len(_BARS) - 1) + 0.5))] for value in values)
