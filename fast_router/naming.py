"""What a deployment is called wherever people read of it: its model, its server, the beginning of its id.

The server is the host and port of `api_base` (for plain entries `endpoint`), else the provider. Nothing else of an
address is taken: user, path and query can hold a key. An id that LiteLLM made (64 hex digits) is cut to what is unique
among its siblings; an id that people chose stays whole.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from fast_router.engine import Deployment

__all__ = ["Name", "name_of", "names_of", "served_by", "server_of", "short_id", "short_ids"]

_ADDRESSES = ("api_base", "base_url", "endpoint", "url")
_MADE = re.compile(r"[0-9a-f]{32,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHORTEST = 8
_HOST = re.compile(r"[\w.:\[\]-]{1,253}")
_SHOWN = 3


class Name(NamedTuple):
    """A deployment's name in parts; as text, `gpt-4 on 10.0.0.3:8000 (id 3fa2c81b)`.

    Attributes:
        model: The model group (LiteLLM's `model_name`).
        server: Host and port of `api_base`, or the provider.
        id: LiteLLM's id, shortened to what is unique.
    """

    model: str
    server: str
    id: str

    def __str__(self) -> str:
        return f"{self.model} on {self.server} (id {self.id})"


def server_of(entry: Mapping[str, Any]) -> str:
    """Host and port of the address that calls go to, the provider where there is none, `–` without either."""
    params = entry.get("litellm_params")
    params = params if isinstance(params, Mapping) else {}
    for place in (params, entry):
        for key in _ADDRESSES:
            host = _host_of(place.get(key))
            if host:
                return host
    provider = params.get("custom_llm_provider")
    if isinstance(provider, str) and provider:
        return provider
    model = params.get("model")
    if isinstance(model, str) and "/" in model:
        return model.partition("/")[0]
    return "–"


def _host_of(address: object) -> str | None:
    if not isinstance(address, str) or not address or address.startswith("os.environ/"):
        return None
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or not _HOST.fullmatch(host):
        return None
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if port is not None else host


def short_id(id_: str, among: Iterable[str]) -> str:
    """The beginning of an id that no other one shares, eight characters at the least; see the module.

    Args:
        id_: Whose.
        among: Every id, this one included or not.
    """
    if not _MADE.fullmatch(id_):
        return id_
    shared = max((_common(id_, other) for other in among if other != id_), default=0)
    return id_[: max(_SHORTEST, shared + 1)]


def short_ids(ids: Collection[str]) -> dict[str, str]:
    """The same for all of them at once, O(n log n)."""
    ordered = sorted(ids)
    found = {}
    for position, id_ in enumerate(ordered):
        # In sorted order the one that shares most is a neighbour.
        found[id_] = short_id(id_, ordered[max(0, position - 1) : position + 2])
    return found


def _common(one: str, other: str) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def name_of(deployment: Deployment, among: Iterable[str] = ()) -> Name:
    """Name one deployment.

    Args:
        deployment: Which.
        among: The ids that its own must be told from.
    """
    return Name(deployment.name, server_of(deployment.entry), short_id(deployment.id, among))


def names_of(deployments: Collection[Deployment]) -> dict[str, Name]:
    """Name many, by id."""
    short = short_ids([deployment.id for deployment in deployments])
    return {d.id: Name(d.name, server_of(d.entry), short[d.id]) for d in deployments}


def served_by(deployments: Collection[Deployment]) -> str:
    """Some servers in words: `a:1, b:2 and 5 more`, `nothing` for none."""
    servers = list(dict.fromkeys(server_of(d.entry) for d in deployments))
    if not servers:
        return "nothing"
    more = len(servers) - _SHOWN
    return ", ".join(servers[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
