"""Asking a server what it can take: context length and vector size.

vLLM and the Albert API say the context length in /v1/models, Text Embeddings Inference in /info; the vector size is
seen from one embedding. A server that cannot be asked is reported, not fatal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from .endpoints import Endpoint, ProviderType

if TYPE_CHECKING:
    from .forward import Target

__all__ = ["PROBE_TIMEOUT", "Probe", "probe"]

PROBE_TIMEOUT = 10.0
"""Seconds that a server has to answer a probe."""


@dataclass(frozen=True)
class Probe:
    """What a server said.

    Attributes:
        reachable: Whether it answered.
        max_context_length: Tokens, None if it does not say.
        vector_size: Length of its embeddings, None if it has none.
        problem: Why it could not be asked, None if it could.
    """

    reachable: bool
    max_context_length: int | None = None
    vector_size: int | None = None
    problem: str | None = None


async def probe(http: httpx.AsyncClient, target: Target, *, vectors: bool, timeout: float = PROBE_TIMEOUT) -> Probe:
    """Ask `target` for its context length, and for the size of its vectors; never raises.

    Args:
        http: The connection pool.
        target: The server.
        vectors: Whether to ask for one embedding.
        timeout: Seconds for each question.
    """
    try:
        answer = await http.get(
            f"{target.url}{target.path(Endpoint.MODELS)}", headers=dict(target.headers), timeout=timeout
        )
        if answer.is_error:
            return Probe(reachable=False, problem=f"it answered {answer.status_code}")
        length = _context_length(answer.json(), target)
        size = await _vector_size(http, target, timeout) if vectors else None
        return Probe(reachable=True, max_context_length=length, vector_size=size)
    except httpx.TimeoutException:
        return Probe(reachable=False, problem=f"no answer within {timeout:g} s")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Probe(reachable=False, problem=type(error).__name__)
    except ValueError:
        return Probe(reachable=False, problem="its answer is not JSON")


def _context_length(data: Any, target: Target) -> int | None:
    if target.kind is ProviderType.TEI:
        rows: list[Any] = [data]
    else:
        listed = data.get("data") if isinstance(data, dict) else None
        rows = listed if isinstance(listed, list) else []
    for row in rows:
        named = isinstance(row, dict) and (
            row.get("id") == target.model or target.model in (row.get("aliases") or ()) or len(rows) == 1
        )
        if not named:
            continue
        for key in ("max_model_len", "max_context_length", "max_input_length"):
            value = row.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


async def _vector_size(http: httpx.AsyncClient, target: Target, timeout: float) -> int | None:
    path = target.table.get(Endpoint.EMBEDDINGS)
    if path is None:
        return None
    body = {"model": target.model, "input": "hello", "encoding_format": "float"}
    try:
        answer = await http.post(f"{target.url}{path}", json=body, headers=dict(target.headers), timeout=timeout)
        vector = answer.json()["data"][0]["embedding"] if answer.is_success else None
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError):
        return None  # a model of another kind: it has no vectors
    return len(vector) if isinstance(vector, list) and vector else None
