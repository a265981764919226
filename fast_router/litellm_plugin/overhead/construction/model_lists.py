"""`get_model_list`, asked several times per request for a length or a flag.

For a model name that is a plain group (no alias, no routing group, no wildcard, no team) the answer
is the entries of the name's index, in order. It is kept as long as the Router's list and that index
are the same objects of the same length; every call gets its own new list of the live entries, as
LiteLLM's does. The two callers that only test a flag do not ask at all where the flag cannot be set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.books import books_of, remember, same_members
from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.bands.member_names import Names
    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE", "overridable", "plain_group"]

_OVERRIDABLE = (
    "get_model_list",
    "get_all_deployments",
    "_get_all_deployments",
    "should_include_deployment",
    "get_model_list_from_model_alias",
    "get_model_list_from_routing_groups",
)


def overridable(names: Names) -> frozenset[str]:
    """The methods that a subclass must not have changed for `plain_group` to say what it would answer."""
    return frozenset(_OVERRIDABLE) | {names.prefix + name for name in _OVERRIDABLE}


def plain_group(
    router: Any, model: Any, names: Names, original: Callable[..., Any], guarded: frozenset[str]
) -> list[Any] | None:
    """The remembered entries of group ``model``: the list itself, not to be changed or handed out.

    Returns:
        None where the name is not a plain group.
    """
    alias = getattr(router, names.alias)
    if alias and model in alias:
        return None
    index = getattr(router, names.by_name).get(model)
    if not index or (type(router) is not names.core and not same_members(router, names.core, guarded)):
        return None
    entries = getattr(router, names.model_list)
    books = books_of(router)
    known = books.lists.get(model)
    if (
        known is not None
        and known[0] is entries
        and known[1] == len(entries)
        and known[2] is index
        and known[3] == len(index)
    ):
        answer: list[Any] = known[4]
        return answer
    record = (entries, len(entries), index, len(index))
    found = original(router, model_name=model)
    if len(found) != len(index) or any(entry is not entries[place] for entry, place in zip(found, index, strict=True)):
        return None
    remember(books.lists, model, (*record, found))
    return list(found)


def _install(patches: PatchSet, parts: Parts) -> bool:
    """Remember plain groups, and skip two questions whose answer nobody uses."""
    names, core = parts.names, parts.core
    guarded = overridable(names)
    listed = parts.at("get_model_list")
    original_list = listed.function

    def make_list(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_model_list(self: Any, model_name: Any = None, team_id: Any = None) -> Any:
            if model_name is not None and team_id is None:
                try:
                    found = plain_group(self, model_name, names, original, guarded)
                except Exception:  # noqa: BLE001  # LiteLLM's own method answers, or raises its own error
                    found = None
                if found is not None:
                    return list(found)
            return original(self, model_name, team_id)

        return get_model_list

    patches.replace(core, listed.name, make_list)
    _skip_mock_question(patches, parts)
    _skip_prompt_question(patches, parts, original_list, guarded)
    return True


def _skip_mock_question(patches: PatchSet, parts: Parts) -> None:
    """Without the test flag in the request nothing of the list is used."""
    name = "_handle_mock_testing_rate_limit_error"
    if not parts.knows(name):
        return

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _handle_mock_testing_rate_limit_error(self: Any, kwargs: Any, model_group: Any = None) -> Any:
            if kwargs.get("mock_testing_rate_limit_error") is not True:
                kwargs.pop("mock_testing_rate_limit_error", None)
                return None
            return original(self, kwargs, model_group)

        return _handle_mock_testing_rate_limit_error

    patches.replace(parts.core, parts.at(name).name, make)


def _skip_prompt_question(
    patches: PatchSet, parts: Parts, original_list: Callable[..., Any], guarded: frozenset[str]
) -> None:
    """Only a group of one deployment can be a prompt-management model."""
    names, name = parts.names, "_is_prompt_management_model"
    if not parts.knows(name):
        return

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _is_prompt_management_model(self: Any, model: Any) -> Any:
            try:
                group = plain_group(self, model, names, original_list, guarded)
            except Exception:  # noqa: BLE001  # LiteLLM's own method answers
                group = None
            if group is not None and len(group) != 1:
                return False
            return original(self, model)

        return _is_prompt_management_model

    patches.replace(parts.core, parts.at(name).name, make)


FEATURE = Feature(
    "model_lists",
    "the group's list built three or four times for a length or a flag",
    "kept until the Router changes",
    _install,
    needs=("get_model_list",),
    remembers=True,
)
