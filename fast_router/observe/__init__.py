"""What operators look at: Prometheus metrics. The status is `fast_router.status()` and `fast-router status`.

`fast_router.observe.metrics` is imported when first asked for.
"""

from __future__ import annotations

from typing import Any

__all__ = ["metrics"]


def __getattr__(name: str) -> Any:
    if name != "metrics":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module  # noqa: PLC0415 - `import fast_router` should cost a program next to nothing

    return import_module("fast_router.observe.metrics")
