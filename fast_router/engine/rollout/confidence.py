"""Whether two arms differ, by a test that may be read at any time.

A p-value or an ordinary confidence interval holds for one look at a moment fixed beforehand; whoever reads it after
every few requests until it shows something finds a difference between equal arms sooner or later. A confidence sequence
holds at all times at once: with probability 1 - alpha the true difference lies in *every* interval that is ever read.
So a rollout may be watched, and stopped or widened as soon as zero is outside.

For times this is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform
central limit theory and asymptotic confidence sequences" (Annals of Statistics 52(6), 2024; arXiv:2103.06476),
equation (2) of theorem 2.2 with its advice on rho (appendix B.2). The difference of two means has the variance
v1/n1 + v2/n2; times n = n1 + n2 it is the sigma² of their theorem. Like every asymptotic interval it is honest only
once the means are nearly normal, which it waits for (`ENOUGH`).

Failures are too rare for that: an arm without any would seem to have no variance. If both arms fail alike, a failure is
the new arm's as often as a request is; how often it really is, counts, and the confidence sequence of that share is
exact at any number: Lindon and Malek, "Anytime-valid inference for multinomial count data" (NeurIPS 2022;
arXiv:2011.03567), by Ville's inequality for a beta mixture as in Robbins (Annals of Mathematical Statistics 41(5),
1970). Their `theta0` is the share of the requests that the new arm has had.

Either takes requests as independent of each other. Where sessions stay in their arm, they must be many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ALPHA", "ENOUGH", "Interval", "Moments", "difference", "ratio_of_rates", "width"]

ALPHA: Final = 0.05
"""Chance that the interval ever misses the true difference."""
ENOUGH: Final = 25
"""Values each arm must have before anything is said."""
_SHARPEST: Final = 1_000.0
# Values for which the interval of a mean is as narrow as it can be; it stays valid for all others, and within a tenth
# of the narrowest from a fifth to ten times of that.
_PRIOR: Final = 20.0
"""How many failures' worth of a belief that both arms fail alike the mixture begins with; any number is valid."""
_FAR: Final = 60.0


class Moments:
    """Count, mean and variance of a stream of values.

    By Welford's recurrence (Technometrics 4(3), 1962): sums of squares would lose small variances of large means.

    Attributes:
        count: How many values there were.
        mean: Their mean, 0 without any.
    """

    __slots__ = ("_squares", "count", "mean")

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        """Count one."""
        self.count += 1
        apart = value - self.mean
        self.mean += apart / self.count
        self._squares += apart * (value - self.mean)

    def join(self, count: int, mean: float, squares: float) -> None:
        """Take in another stream's, by Chan, Golub and LeVeque's formula (COMPSTAT 1982); see `state`."""
        if count:
            both = self.count + count
            apart = mean - self.mean
            self.mean += apart * count / both
            self._squares += squares + apart * apart * self.count * count / both
            self.count = both

    @property
    def state(self) -> tuple[int, float, float]:
        """Count, mean and sum of squared deviations: what `join` takes."""
        return self.count, self.mean, self._squares

    @property
    def variance(self) -> float:
        """Unbiased; 0 for less than two values."""
        return self._squares / (self.count - 1) if self.count > 1 else 0.0


@dataclass(frozen=True)
class Interval:
    """Where a difference lies.

    Attributes:
        estimate: As measured; infinite where one of two rates is zero.
        low: Its lower end.
        high: Its upper end.
    """

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the arms differ, as far as is known at this level."""
        return self.low > 0.0 or self.high < 0.0


def width(count: float, alpha: float = ALPHA) -> float:
    """Half the width of the confidence sequence of a mean, in standard deviations of one value.

    Args:
        count: Values so far, at least 1.
        alpha: Chance that it ever misses.
    """
    twice = -2.0 * math.log(alpha)
    rho2 = (twice + math.log(twice + 1.0)) / _SHARPEST
    grown = count * rho2 + 1.0
    return math.sqrt(2.0 * grown / (count * count * rho2) * math.log(math.sqrt(grown) / alpha))


def difference(new: Moments, old: Moments, alpha: float = ALPHA) -> Interval | None:
    """Where `new`'s mean less `old`'s lies, at all times at once; None while either arm has too few values."""
    if min(new.count, old.count) < ENOUGH:
        return None
    count = new.count + old.count
    deviation = math.sqrt(count * (new.variance / new.count + old.variance / old.count))
    estimate, half = new.mean - old.mean, deviation * width(count, alpha)
    return Interval(estimate, estimate - half, estimate + half)


def ratio_of_rates(new: tuple[int, int], old: tuple[int, int], alpha: float = ALPHA) -> Interval | None:
    """Where the logarithm of `new`'s rate of failures over `old`'s lies, at all times at once.

    Args:
        new: Failures and requests of the one arm.
        old: The same of the other.
        alpha: Chance that it ever misses.

    Returns:
        None while nothing has failed, or an arm has too few requests.
    """
    failed = new[0] + old[0]
    if not failed or min(new[1], old[1]) < ENOUGH:
        return None
    share = new[1] / (new[1] + old[1])
    odds = math.log(share) - math.log1p(-share)
    a, b = _PRIOR * share, _PRIOR * (1.0 - share)
    # The mixture's likelihood over that of theta stays below 1 / alpha for the true theta, with chance 1 - alpha.
    bound = _log_beta(a + new[0], b + old[0]) - _log_beta(a, b) + math.log(alpha)

    def inside(logit: float) -> bool:
        return bound < -(new[0] * _softplus(-logit) + old[0] * _softplus(logit))

    best = math.log(new[0]) - math.log(old[0]) if new[0] and old[0] else math.inf if new[0] else -math.inf
    start = min(max(best, -_FAR), _FAR)
    low = _edge(inside, start, -_FAR) if new[0] else -math.inf
    high = _edge(inside, start, _FAR) if old[0] else math.inf
    return Interval(best - odds, low - odds, high - odds)


def _edge(inside: Callable[[float], bool], start: float, end: float) -> float:
    """Where `inside` ends between `start`, which is, and `end`, by bisection."""
    if inside(end):
        return math.copysign(math.inf, end)
    for _ in range(60):
        middle = (start + end) / 2.0
        if inside(middle):
            start = middle
        else:
            end = middle
    return end


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
