"""When a second attempt is worth its money: not before the group's usual time, not above a share of requests.

Dean and Barroso, "The Tail at Scale" (CACM 2013): a second attempt sent after the 95th percentile of the
expected latency costs some 5 % more requests and cuts the tail. A language model bills both attempts, so a
budget in percent bounds them, and nothing is hedged after the first token.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

__all__ = ["HedgeOptions", "HedgePolicy"]


@dataclass(frozen=True)
class HedgeOptions:
    """How a group hedges.

    Attributes:
        delay: Seconds before the second attempt; None takes the ``quantile`` of what was observed.
        quantile: Of the observed seconds to the first token (or to the answer, without a stream).
        percent: Second attempts per hundred requests, at most.
        samples: How many observations are kept.
        min_samples: Below this many observations, nothing is hedged without a fixed ``delay``.
        burst: Second attempts that may be saved up.
    """

    delay: float | None = None
    quantile: float = 0.95
    percent: float = 5.0
    samples: int = 200
    min_samples: int = 20
    burst: float = 10.0

    def __post_init__(self) -> None:
        if self.delay is not None and self.delay < 0:
            raise ValueError("a hedge delay is seconds ≥ 0")
        if not 0 < self.quantile <= 1:
            raise ValueError("a hedge quantile is between 0 and 1")
        if not 0 <= self.percent <= 100:
            raise ValueError("a hedge budget is a percentage between 0 and 100")
        if self.samples < 1 or self.min_samples < 1 or self.burst < 1:
            raise ValueError("samples, min_samples and burst are at least 1")


class HedgePolicy:
    """The hedges of one group. Not thread-safe by itself.

    Streams and whole answers are observed apart: the first token of a stream and the end of an answer are
    different waits.

    Args:
        options: How it hedges.
    """

    __slots__ = ("_budget", "_options", "_seen", "_sorted", "fired", "won")

    def __init__(self, options: HedgeOptions | None = None) -> None:
        self._options = options or HedgeOptions()
        self._seen: dict[bool, deque[float]] = {stream: deque(maxlen=self._options.samples) for stream in (False, True)}
        self._sorted: dict[bool, float | None] = {False: None, True: None}
        self._budget = 0.0
        self.fired = 0
        self.won = 0

    def observe(self, seconds: float, *, stream: bool) -> None:
        """Note how long a request took to its first token (stream) or its answer.

        Overtaken requests count, too, with the time until the second attempt answered: left out, the quantile
        would be one of the fast requests alone, and sink a little with every hedge.
        """
        if seconds >= 0 and math.isfinite(seconds):
            self._seen[stream].append(seconds)
            self._sorted[stream] = None

    def delay(self, *, stream: bool) -> float | None:
        """Give the seconds to wait before a second attempt; None while too little is known."""
        if self._options.delay is not None:
            return self._options.delay
        if stream and len(self._seen[True]) < self._options.min_samples:
            # Too few streams to tell: a first token takes no longer than a whole answer.
            stream = False
        seen = self._seen[stream]
        if len(seen) < self._options.min_samples:
            return None
        value = self._sorted[stream]
        if value is None:
            rank = math.ceil(self._options.quantile * len(seen)) - 1
            value = self._sorted[stream] = sorted(seen)[rank]
        return value

    def request(self) -> None:
        """Count a request: it earns its share of a hedge."""
        self._budget = min(self._options.burst, self._budget + self._options.percent / 100.0)

    def take(self) -> bool:
        """Ask for one second attempt; True if the budget allows it, which is then spent."""
        # Shares add up in floats: a hair below 1 is 1.
        if self._budget < 1.0 - 1e-9:
            return False
        self._budget -= 1.0
        self.fired += 1
        return True

    def give_back(self) -> None:
        """Undo one `take`: there was nobody to send the second attempt to."""
        self.fired -= 1
        self._budget = min(self._options.burst, self._budget + 1.0)
