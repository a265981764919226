"""How many examples a property is tried on: few in every run, as many as you like by hand."""

from __future__ import annotations

import os

__all__ = ["examples"]


def examples(usual: int) -> int:
    """Give `usual`, or what FAST_ROUTER_TEST_MALFORMED says."""
    return int(os.environ.get("FAST_ROUTER_TEST_MALFORMED") or usual)
