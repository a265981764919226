"""The host registry of LiteLLM 1.110: the Rust core's deployments as its Python host lists them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from fast_router.litellm_plugin.bands.member_names import PREFIX

__all__ = ["LISTING", "NAMED", "is_grouped", "module", "owns", "state"]

LISTING = f"{PREFIX}get_model_list"
"""The method of the registry that lists a group's deployments."""
NAMED = f"{PREFIX}get_all_deployments"
"""The one that lists those that a name stands for, to decide about a request."""


def module() -> ModuleType:
    """The module of `HostRegistry`."""
    return import_module("litellm.router_rust.surface.registry")


def is_grouped(registry: Any, name: str) -> bool:
    """Whether more than the registry decides what stands under a name: routing groups, or an alias."""
    return bool(_read(registry, "routing_groups")) or name in (_read(registry, "model_group_alias") or ())


def state(registry: Any) -> tuple[Any, ...]:
    """What changes with every change of the deployments."""
    handle = registry._live_handle()
    return (handle, handle.registry_version(), handle.registry_rewritten())


def owns(registry: Any, name: str, entries: list[Any]) -> bool:
    """Whether these are the registry's own entries under their own name: no pattern, no copy."""
    if name not in _read(registry, "model_names"):
        return False
    own = {id(entry) for entry in _read(registry, "model_list")}
    return all(id(entry) in own for entry in entries)


def _read(registry: Any, name: str) -> Any:
    return getattr(registry, PREFIX + name)
