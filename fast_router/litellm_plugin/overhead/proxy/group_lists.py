"""LiteLLM 1.110: a group's deployments, listed once per state of the registry.

The proxy asks its Router for a request's whole group, several times per request: for limits, guardrails, compression,
destinations. Each time the Rust core makes a row per deployment, and its host an entry of each row. The core counts up
a version with every change; between two changes the answer is the same live entries, in a list of its own for whoever
asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.contract import Seam
from fast_router.litellm_plugin.bands.rust import registry as registries
from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]

_KEY = "_fast_router_lists"
_MOST = 256  # names that are remembered per state


def _install(patches: PatchSet, _parts: Parts) -> bool:
    host = registries.module().HostRegistry
    patches.replace(host, registries.LISTING, _listing)
    patches.replace(host, registries.NAMED, _named)
    return True


def _listing(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_model_list(self: Any, model_name: Any = None, team_id: Any = None) -> Any:
        return _answer(self, _listing, model_name, team_id, lambda: original(self, model_name, team_id))

    return get_model_list


def _named(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_all_deployments(self: Any, model_name: Any, model_alias: Any = None, team_id: Any = None) -> Any:
        if model_alias is not None:
            return original(self, model_name, model_alias, team_id)
        return _answer(self, _named, model_name, team_id, lambda: original(self, model_name, None, team_id))

    return get_all_deployments


def _answer(registry: Any, method: object, name: Any, team_id: Any, ask: Callable[[], Any]) -> Any:
    lists = None
    key = (method, name, team_id)
    try:
        if type(name) is str and (team_id is None or type(team_id) is str):
            lists = _lists(registry, name)
            found = None if lists is None else lists.get(key)
            if found is not None:
                return found.copy()
    except Exception:  # noqa: BLE001  # LiteLLM's own method answers, or raises its own error
        lists = None
    answer = ask()
    if lists is not None and answer and len(lists) < _MOST and registries.owns(registry, name, answer):
        lists[key] = answer.copy()
    return answer


def _lists(registry: Any, name: str) -> dict[tuple[object, str, str | None], list[Any]] | None:
    """What is remembered for the registry as it is now; None while more than the registry decides."""
    if registries.is_grouped(registry, name):
        return None
    now = registries.state(registry)
    known = vars(registry).get(_KEY)
    if known is None or known[0] != now:
        known = vars(registry)[_KEY] = (now, {})
    lists: dict[tuple[object, str, str | None], list[Any]] = known[1]
    return lists


FEATURE = Feature(
    "group_lists",
    "lists a request's whole group several times for the proxy's questions, a row and an entry per deployment",
    "listed once per state of the registry",
    _install,
    seam=Seam.REGISTRY,
)
