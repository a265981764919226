"""Which features are off, in a line for each reason: first what somebody may miss, last what there is no need for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fast_router.settings.features import OVERHEAD

__all__ = ["left_out"]

_NAMED = 6
_LACKS = "LiteLLM"
"""What the reason begins with where LiteLLM has no place for a feature."""


def left_out(summary: Mapping[str, Any]) -> Iterator[str]:
    """The lines.

    Args:
        summary: That of `observe.summary.summarise`.
    """
    capabilities = summary["capabilities"] or {}
    by_reason: dict[str, dict[str, None]] = {}
    spared: dict[str, None] = {}
    for each in summary["processes"]:
        for feature, reason in each["skipped"].items():
            lacking = reason.startswith(_LACKS)
            unasked = capabilities.get(feature, {}).get("why") == "routing is local"
            # What takes LiteLLM's own cost down is not missed where LiteLLM has no such cost.
            if feature in OVERHEAD and lacking:
                spared[feature] = None
            elif lacking or not unasked:
                by_reason.setdefault(reason, {})[feature] = None
    for reason, features in by_reason.items():
        names = list(features)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield f"left out: {', '.join(names[:_NAMED])}{more} ({reason})"
    if spared:
        count = f"{len(spared)} saving{'' if len(spared) == 1 else 's'}"
        cost = "cost" if len(spared) == 1 else "costs"
        yield f"not needed: {count} of {cost} that this LiteLLM does not have; nothing to do"
