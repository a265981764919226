"""On or off by `FAST_ROUTER_ENABLED`, asked before anything else of ours is imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NEVER", "forbids_names", "off"]

NEVER = "never"
"""Off, and strategy names that LiteLLM lacks are not translated either."""
_OFF = frozenset({"0", "false", "no", "off", "f", "n", NEVER})


def off(environ: Mapping[str, str] | None = None) -> bool:
    """Whether `FAST_ROUTER_ENABLED` switches everything off; no other setting is looked at then.

    Args:
        environ: The environment, `os.environ` by default.
    """
    return _word(environ) in _OFF


def forbids_names() -> bool:
    """Whether it forbids the translation of strategy names as well."""
    return _word(None) == NEVER


def _word(environ: Mapping[str, str] | None) -> str:
    env = os.environ if environ is None else environ
    return env.get("FAST_ROUTER_ENABLED", "").strip().lower()
