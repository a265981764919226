"""What model servers say about themselves on `/metrics`: their load (vLLM), their queue (vLLM, TEI)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from fast_router.engine import Deployment

__all__ = ["load_from_metrics", "server_of", "waiting_in"]


_LOAD = re.compile(
    r"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|gpu_cache_usage_perc)"
    r"(?:\{[^}]*\})?\s+([0-9.eE+-]+)\s*$",
    re.MULTILINE,
)


def server_of(deployment: Deployment) -> str | None:
    """Give the root URL of a deployment's server, None if it has no `api_base` of its own."""
    params = deployment.entry.get("litellm_params")
    base = params.get("api_base") if isinstance(params, dict) else None
    if not isinstance(base, str):
        return None
    parts = urlsplit(base)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("http", "https") and parts.netloc else None


def load_from_metrics(text: str) -> float | None:
    """Read a vLLM's load off its Prometheus metrics.

    Args:
        text: The body of `/metrics`.

    Returns:
        Requests: those running, and those waiting weighted up to double as the key-value cache fills (a
        waiting request then waits for memory, too). None if these are no vLLM metrics.
    """
    running = waiting = cache = 0.0
    found = False
    for name, value in _LOAD.findall(text):
        found = True
        number = float(value)
        if name == "num_requests_running":
            running += number
        elif name == "num_requests_waiting":
            waiting += number
        else:
            cache = max(cache, number)
    return running + waiting * (1.0 + min(1.0, cache)) if found else None


_QUEUE = re.compile(
    r"^(?:vllm:num_requests_waiting|te_queue_size)(?:\{[^}]*\})?\s+([0-9.eE+-]+)\s*$",
    re.MULTILINE,
)


def waiting_in(text: str) -> float | None:
    """The requests that wait at a server, by its Prometheus metrics; None if they do not say."""
    found = _QUEUE.findall(text)
    return sum(map(float, found)) if found else None
