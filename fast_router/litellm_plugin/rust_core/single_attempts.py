"""LiteLLM 1.110: endpoints of which it makes one attempt, retried as `layers.single_attempts` has it for its methods.

The core's walk could retry and fall back for each of them: it is told not to.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

__all__ = ["retried"]

_KINDS = frozenset({"moderation", "generic_sync"})


def retried(plan: Any, overrides: Any) -> tuple[Any, Any]:
    """Give the plan of a walk and what it overrides, as they are to be."""
    if not plan.single_attempt or plan.kind not in _KINDS:
        return plan, overrides
    return _walked(plan), None


@cache
def _walked(plan: Any) -> Any:
    return replace(plan, single_attempt=False)
