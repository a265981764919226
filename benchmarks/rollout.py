"""What the comparison of a rollout's arms may be trusted with: simulated runs, read after every 50 requests.

Each run draws the log-normal latencies (or failures) of two arms and asks after every 50 requests whether they differ,
as whoever watches a rollout does. Run with `python -m benchmarks.rollout [--runs 1000]`.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from dataclasses import dataclass

from benchmarks.report import Report
from fast_router.engine.rollout.arms import Arms, Measure
from fast_router.engine.rollout.assignment import Assignment

_EVERY = 50


@dataclass(frozen=True)
class _Case:
    """Two arms.

    Attributes:
        arms: What is the matter with them, for the table.
        share: Of the new arm, in percent.
        spread: Standard deviation of the logarithm of the latency; the rate of failures for that measure.
        ratio: The new arm's median, or rate, over the old one's.
        requests: Of both together.
        measure: What is tested.
    """

    arms: str
    share: float
    spread: float
    ratio: float
    requests: int
    measure: Measure = "latency"


CASES = (
    _Case("equal", 50, 0.5, 1.0, 2000),
    _Case("equal", 50, 1.0, 1.0, 2000),
    _Case("equal", 10, 0.5, 1.0, 2000),
    _Case("equal, 1 % fail", 50, 0.01, 1.0, 2000, "failures"),
    _Case("equal, 5 % fail", 10, 0.05, 1.0, 2000, "failures"),
    _Case("p50 20 % better", 50, 0.5, 0.8, 2000),
    _Case("p50 20 % better", 50, 1.0, 0.8, 10_000),
    _Case("p50 20 % better", 10, 0.5, 0.8, 2000),
)


def play(case: _Case, rng: random.Random) -> int | None:
    """After how many requests a difference is reported, None if never."""
    arms = Arms("old", "new", Assignment(case.share / 100, "", rng), case.measure, float)
    for number in range(1, case.requests + 1):
        arm = arms.arm(None)
        ratio = case.ratio if arm is arms.new else 1.0
        if case.measure == "failures":
            arms.ended(arm, 1.0, failed=rng.random() < case.spread * ratio)
        else:
            arms.ended(arm, ratio * math.exp(rng.gauss(0.0, case.spread)))
        if number % _EVERY == 0:
            interval = arms.interval()
            if interval is not None and interval.excludes_zero:
                return number
    return None


def main() -> None:
    """Play every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    columns = ["arms", "share %", "spread or rate", "requests", "report a difference %", "half of these after"]
    report = Report("rollout", f"{runs} runs each, read after every {_EVERY} requests", columns)
    for case in CASES:
        rng = random.Random(1)
        found = [after for _ in range(runs) if (after := play(case, rng)) is not None]
        half = round(statistics.median(found)) if found else None
        report.add(case.arms, case.share, case.spread, case.requests, round(100 * len(found) / runs, 1), half)
    report.notes.append("equal arms may report a difference in at most 5 % of the runs")
    report.finish()


if __name__ == "__main__":
    main()
