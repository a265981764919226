"""Around each way in which LiteLLM makes a Router: its constructor, and the `from_config` of its proxy (1.109 on)."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fast_router.litellm_plugin.patching import PatchSet

    Told = Callable[[Mapping[str, Any]], Mapping[str, Any]]
    Made = Callable[[Any, Mapping[str, Any]], None]

__all__ = ["around"]


def _as_given(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    return arguments


def _nothing(_router: Any, _arguments: Mapping[str, Any]) -> None:
    pass


def around(patches: PatchSet, router: type, *, told: Told = _as_given, made: Made = _nothing) -> None:
    """Stand around the making of every Router.

    Args:
        patches: Where to register it.
        router: `litellm.Router`.
        told: Gives the keyword arguments that LiteLLM gets in the place of those given.
        made: Told of a Router that is there, and the arguments that LiteLLM got.
    """
    patches.replace(router, "__init__", lambda original: _init(original, told, made))
    if "from_config" in vars(router):
        patches.replace(router, "from_config", lambda original: _from_config(original, told, made))


def _init(original: Any, told: Told, made: Made) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it stands in for that method
        arguments = told(kwargs)
        original(self, *args, **arguments)
        made(self, arguments)

    # LiteLLM reads its Router's parameters off the signature.
    __init__.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    __init__.__doc__ = original.__doc__
    return __init__


def _from_config(original: Any, told: Told, made: Made) -> Any:
    def from_config(cls: Any, config: Any, *args: Any, **kwargs: Any) -> Any:
        given = getattr(config, "arguments", None) or {}
        arguments = told(given)
        if arguments is not given:
            config = dataclasses.replace(config, arguments=arguments)
        router = original.__get__(None, cls)(config, *args, **kwargs)
        made(router, arguments)
        return router

    return classmethod(from_config)
