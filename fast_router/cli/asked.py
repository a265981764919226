"""Who was asked, and what to say when nobody of them answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fast_router.observe.runtime_dir import directories

__all__ = ["named", "nobody"]

_NOTHING = (
    "no process answers in {directories}. A process is seen if it was started by `fast-router run`, is a proxy with "
    "fast_router in its startup hooks or callbacks, or has FAST_ROUTER_STATUS=1; only after it imported LiteLLM, and "
    "not while FAST_ROUTER_ENABLED=0. "
    "One with a FAST_ROUTER_RUNTIME_DIR or a user of its own is asked with the same variable, as the same user."
)


def named(document: Mapping[str, Any]) -> str:
    """A process: its id, program and ports."""
    ports = document.get("ports") or ()
    at = f"port{'s' if len(ports) > 1 else ''} {', '.join(map(str, ports))}" if ports else ""
    more = ", ".join(filter(None, (document.get("program"), at, document.get("config"))))
    return f"{document.get('pid', '?')}" + (f" ({more})" if more else "")


def nobody(pid: int | None, everybody: Sequence[Mapping[str, Any]]) -> str:
    """Say why there is nothing to show.

    Args:
        pid: The process that was asked for, None for each.
        everybody: The documents of all that answer.
    """
    if not everybody:
        return _NOTHING.format(directories=", ".join(map(str, directories())))
    return f"process {pid} does not answer; those that do: {', '.join(map(named, everybody))}"
