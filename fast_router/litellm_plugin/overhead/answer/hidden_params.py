"""`_hidden_params` of an answer, found at the first place where Python looks.

LiteLLM reads this private value of its answers some twenty times a request: for headers, costs and logs. pydantic finds
private values last of all, by way of its `__getattr__`, at 2-3 µs each. A property of the class is found first, and
reads the very dict in which pydantic keeps them; where it finds nothing, pydantic is asked as before. Writing,
copying and pickling stay pydantic's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]

_NAME = "_hidden_params"


def _read(self: Any) -> Any:
    try:
        return self.__pydantic_private__[_NAME]
    except (KeyError, TypeError):
        # Not set, or no private values at all: Python goes on to pydantic's `__getattr__`.
        raise AttributeError(_NAME) from None


def _declaring(module: Any) -> Iterator[Any]:
    """The classes of answers that declare the value themselves, and keep it as pydantic does."""
    from pydantic import BaseModel  # noqa: PLC0415 - LiteLLM has it loaded

    for kind in list(vars(module).values()):
        if not isinstance(kind, type) or not issubclass(kind, BaseModel) or kind.__module__ != module.__name__:
            continue
        found = kind.__private_attributes__.get(_NAME)
        inherited = any(_NAME in getattr(base, "__private_attributes__", {}) for base in kind.__mro__[1:])
        if (
            found is not None
            and not inherited
            and not hasattr(found.default, "__get__")
            and not hasattr(found.default, "__set__")
            and kind.__getattr__ is BaseModel.__getattr__  # type: ignore[attr-defined]  # hidden from type checkers
            and kind.__setattr__ is BaseModel.__setattr__
        ):
            yield kind


def _install(patches: PatchSet, _parts: Parts) -> bool:
    done = False
    for kind in _declaring(importlib.import_module("litellm.types.utils")):
        patches.replace(kind, _NAME, lambda _: property(_read))
        done = True
    return done


FEATURE = Feature(
    "hidden_params",
    "reads an answer's `_hidden_params` some twenty times, which pydantic finds last of all",
    "a property of the class finds them first",
    _install,
)
