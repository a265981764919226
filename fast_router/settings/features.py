"""Every name that `disabled_features` knows, whichever LiteLLM is here."""

from __future__ import annotations

from fast_router.litellm_plugin.hook import FEATURES, RUST_FEATURES

__all__ = ["INNER", "known"]

INNER = ("counters_behind", "hedging", "stream_failover", "waiting")
"""Parts of other features with a name of their own; the modules that install those features ask for it."""


def known() -> frozenset[str]:
    """The features that `enable` installs, their parts, and those of the bookkeeping."""
    # Not cheap, and wanted only by those who switch a feature off.
    from fast_router.litellm_plugin import overhead  # noqa: PLC0415

    return frozenset({*(name for name, _ in (*FEATURES, *RUST_FEATURES)), *INNER, *overhead.FEATURES})
