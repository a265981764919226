"""`Router.get_deployment`, which validates a deployment's entry into pydantic objects anew whenever it is asked.

The proxy asks two to four times a request. Here the objects are made once and copied for every caller, as long as the
entry equals the copy that was taken of it. Only deployments of plain values: with a list or a dict in it, what a caller
may change would be shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.books import books_of, remember
from fast_router.litellm_plugin.overhead.feature import Feature
from fast_router.litellm_plugin.overhead.lookups import entry_copy

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]

_ATOMS = frozenset({str, int, float, bool, type(None)})
_INNER = ("litellm_params", "model_info")


def _is_plain(values: dict[str, Any] | None) -> bool:
    return values is None or all(type(value) in _ATOMS for value in values.values())


def _can_be_copied(entry: dict[str, Any], made: Any) -> bool:
    """Whether a copy of the objects is what LiteLLM would make of the entry the next time."""
    if entry["model_info"].get("id") is None:
        return False  # it gets a new random one each time
    flag = entry["litellm_params"].get("drop_params")
    if flag is not None and type(flag) is not bool:
        return False  # one that is no flag is warned of each time
    own = {name: value for name, value in vars(made).items() if name not in _INNER}
    inner = [getattr(made, name) for name in _INNER]
    return _is_plain(own) and all(_is_plain(vars(one)) and _is_plain(one.__pydantic_extra__) for one in inner)


def _copied(made: Any) -> Any:
    twin = made.__copy__()
    values = vars(twin)
    for name in _INNER:
        values[name] = values[name].__copy__()
    return twin


def _install(patches: PatchSet, parts: Parts) -> bool:
    service, place = parts.service, parts.at("get_deployment")

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_deployment(self: Any, model_id: Any) -> Any:
            entry = service.entry(self, model_id)
            if entry is None:
                return original(self, model_id)
            memo = books_of(self).objects
            record = memo.get(model_id)
            if record is not None and record[0] == entry:
                return original(self, model_id) if record[1] is None else _copied(record[1])
            before = entry_copy(entry)
            made = original(self, model_id)
            # Another thread may have removed a deployment meanwhile, which for a moment shifts the Router's places.
            if (
                before is not None
                and before == entry
                and service.entry(self, model_id) is entry
                and getattr(made.model_info, "id", None) == before["model_info"].get("id")
            ):
                remember(memo, model_id, (before, _copied(made) if _can_be_copied(before, made) else None))
            return made

        return get_deployment

    patches.replace(place.owner, place.name, make)
    return True


FEATURE = Feature(
    "deployment_objects",
    "validates a deployment's entry into pydantic objects for every `get_deployment` (the proxy: two to four times)",
    "copies the objects of the time before",
    _install,
    needs=("get_deployment",),
    remembers=True,
)
