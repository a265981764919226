"""Numbers of tokens as callers and answers give them, which need not be numbers."""

from __future__ import annotations

__all__ = ["counted"]

_MOST = 1e9
"""No prompt and no answer has more; a larger number would stay in every mean that it entered."""


def counted(tokens: object) -> float:
    """Return a whole number of tokens, 0 for what says nothing: None, NaN, less than 0, absurdly many, no number.

    Whole, because times are divided by it: a part of a token could make a second infinite.
    """
    return float(int(tokens)) if isinstance(tokens, (int, float)) and 0 <= tokens <= _MOST else 0.0
