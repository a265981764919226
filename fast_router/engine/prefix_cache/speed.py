"""How fast one server computes prompts: a fixed time and tokens per second, from the prompts whose caching is known.

A prompt believed uncached that was cached after all makes a server look fast, gets it more prompts and makes it look
faster still; one that waited for something unknown makes it look slow, which only costs it requests. So the rate is
that of its slower prompts, never far above its siblings', and a prompt about which there is doubt teaches nothing.
"""

from __future__ import annotations

from collections import deque

__all__ = ["FIXED", "RATE", "Speed"]

RATE = 8000.0
"""Tokens per second before anything is known."""
FIXED = 0.03
"""Seconds per prompt besides, likewise."""
SAMPLES = 32
"""Prompts of each kind that are remembered, the latest."""
EXACT = 4.0
"""Times the doubt about how many of its tokens were computed, from which a prompt says something about the rate."""
TELLING = 128.0
"""Tokens by which two prompts must differ for that, and a quarter of the longer one."""
SLOWER = 0.6
"""Which of the slopes in order is taken: slower than the middle."""
ABOVE = 4.0
"""Times the siblings' rate that a server's own may be."""
_EVERY = 4


class Speed:
    """What one server's prompts have taught.

    Attributes:
        rate: Tokens per second, None before anything is known.
        fixed: Seconds per prompt besides, likewise.
        samples: How many prompts it has learned from.
    """

    __slots__ = ("_exact", "_recent", "fixed", "rate", "samples")

    def __init__(self) -> None:
        self._exact: deque[tuple[float, float]] = deque(maxlen=SAMPLES)
        self._recent: deque[tuple[float, float]] = deque(maxlen=SAMPLES)
        self.samples = 0
        self.rate: float | None = None
        self.fixed: float | None = None

    def forget(self) -> None:
        """Know nothing any more."""
        if self.samples:
            self._exact.clear()
            self._recent.clear()
            self.samples = 0
            self.rate = self.fixed = None

    def learn(self, tokens: float, seconds: float, doubt: float, siblings: float | None) -> bool:
        """Learn from a prompt.

        Args:
            tokens: That were computed.
            seconds: How long that took.
            doubt: Tokens by which `tokens` may be wrong.
            siblings: Tokens per second of the other servers, None if unknown.

        Returns:
            True if the figures were worked out anew.
        """
        if tokens >= TELLING and tokens >= EXACT * doubt:
            self._exact.append((tokens, seconds))
        self._recent.append((tokens, seconds))
        self.samples += 1
        if self.samples > SAMPLES and self.samples % _EVERY:
            return False
        slopes = self._slopes()
        if len(slopes) > 1:
            rate = 1.0 / max(slopes[int(SLOWER * len(slopes))], 1e-7)
            self.rate = rate if siblings is None else min(rate, ABOVE * siblings)
        rate = self.rate or siblings or RATE
        over = sorted(took - computed / rate for computed, took in self._recent)
        self.fixed = max(0.0, over[len(over) // 2])
        return True

    def _slopes(self) -> list[float]:
        """Seconds per token between long prompts and short ones, in order.

        The middle of them is Theil and Sen's line, which errors in some prompts do not move. What there is doubt about
        counts in its mean only: one by one, doubt about lengths makes a line too flat, and a server too fast.
        """
        exact = sorted(self._exact)
        half = len(exact) // 2
        recent = self._recent
        mean = (sum(tokens for tokens, _ in recent) / len(recent), sum(took for _, took in recent) / len(recent))
        pairs = [(mean, long) for long in exact if long[0] >= 4 * mean[0]]
        pairs += zip(exact, exact[len(exact) - half :], strict=False)
        return sorted(
            (took - less_took) / (tokens - less)
            for (less, less_took), (tokens, took) in pairs
            if tokens - less >= max(TELLING, tokens / 4)
        )
