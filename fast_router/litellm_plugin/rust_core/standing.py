"""LiteLLM 1.110: what only the core's walk can do, so that no request may go by the lane while it is wanted."""

from __future__ import annotations

__all__ = ["keep", "reasons"]

reasons: dict[str, str] = {}
"""Why requests are left to the walk, by who wants it; empty as a rule."""


def keep(name: str, reason: str | None) -> None:
    """Leave every request to the walk for a reason, or no longer (None)."""
    if reason is None:
        reasons.pop(name, None)
    else:
        reasons[name] = reason
