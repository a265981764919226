"""What makes a plan outdated: announcements of LiteLLM's, and assignments to a Router."""

from __future__ import annotations

from typing import Any

from fast_router.litellm_plugin.picks.binding import existing

__all__ = ["announced", "watched_delete", "watched_write"]


def announced(original: Any) -> Any:
    """Around a method that LiteLLM calls when the deployments, groups or prices of a Router change."""

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        binding = existing(self)
        if binding is not None:
            binding.version += 1
        return original(self, *args, **kwargs)

    return changed


def watched_write(original: Any, watched: frozenset[str]) -> Any:
    """Around `__setattr__` of the core class: whoever assigns a setting makes the plans outdated."""

    def __setattr__(self: Any, name: str, value: Any) -> None:  # noqa: N807 - it stands in for that method
        original(self, name, value)
        if name in watched:
            binding = existing(self)
            if binding is not None:
                binding.version += 1

    return __setattr__


def watched_delete(original: Any, watched: frozenset[str]) -> Any:
    """Around `__delattr__` of the core class: the same for settings that are deleted."""

    def __delattr__(self: Any, name: str) -> None:  # noqa: N807 - it stands in for that method
        original(self, name)
        if name in watched:
            binding = existing(self)
            if binding is not None:
                binding.version += 1

    return __delattr__
