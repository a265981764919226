"""What LiteLLM's proxy asks of its whole fleet with every request, although hardly any fleet has it.

Whether a deployment has a default limit for API keys, an access group, or an auto router's compression policy: each
is a walk over the group (a third of a millisecond at a thousand deployments). Here one walk over the Router's entries
tells that nobody has it; LiteLLM is asked as soon as one has. Kept until LiteLLM announces a change of the deployments.
Whether one has guardrails of its own is not remembered, so that nothing that protects is missed: that walk is quick.

The proxy's modules are big and a Router alone never imports them, so theirs are patched when they are imported.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache, partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.fingerprints import is_known
from fast_router.litellm_plugin.overhead.books import books_of, same_members
from fast_router.litellm_plugin.overhead.construction.model_lists import overridable, plain_group
from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from types import ModuleType

    from fast_router.litellm_plugin.bands.member_names import Names
    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["ACCESS_GROUPS", "FEATURE"]

_NAME = "proxy_questions"

_AUTH = "litellm.proxy.auth.auth_utils"
_COMPRESSION = "litellm.proxy.guardrails.auto_router_compression"
_REQUESTS = "litellm.proxy.common_request_processing"
_params = itemgetter("litellm_params")
_ASKED = frozenset({"deployments_for_request", "_get_wildcard_deployments", "map_team_model"})

_Test = Callable[[dict[str, Any]], Any]


@cache
def _guarded(names: Names) -> frozenset[str]:
    return overridable(names) | _ASKED


def nobody(router: Any, names: Names, model: Any, question: str, test: _Test) -> bool:
    """Whether `test` is true of none of the Router's entries; the answer is kept under `question`.

    False where that says nothing about `model`: with another kind of Router, with entries that are no plain dicts, and
    where a wildcard may serve it, which can outlive its entry.
    """
    core, guarded = names.core, _guarded(names)
    kind = type(router)
    if core not in kind.__mro__ or not same_members(router, core, guarded):
        return False
    if not router.__dict__.keys().isdisjoint(guarded):
        return False
    if model not in getattr(router, names.by_name) and (
        router.pattern_router.patterns or getattr(router, "team_pattern_routers", None)
    ):
        return False
    facts = books_of(router).facts
    entries = getattr(router, names.model_list)
    known = facts.get(question)
    if known is not None and known[0] is entries and known[1] == len(entries):
        return bool(known[2])
    size = len(entries)
    answer = not any(type(entry) is not dict or test(entry) for entry in list(entries))
    facts[question] = (entries, size, answer)
    return answer


def _has_access_group(entry: dict[str, Any]) -> bool:
    info = entry.get("model_info")
    return bool(info) and (type(info) is not dict or bool(info.get("access_groups")))


def _has_param(field: str, entry: dict[str, Any]) -> bool:
    params = entry.get("litellm_params")
    return type(params) is not dict or params.get(field) is not None


def _is_marker(prefix: str, entry: dict[str, Any]) -> bool:
    params = entry.get("litellm_params")
    return isinstance(params, Mapping) and str(params.get("model", "")).startswith(prefix)


def _access_groups(patches: PatchSet, parts: Parts) -> bool:
    """A model's access groups, where no deployment is in one."""
    names, place = parts.names, parts.at("get_model_access_groups")

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_model_access_groups(
            self: Any, model_name: Any = None, model_access_group: Any = None, team_id: Any = None
        ) -> Any:
            # Without a name LiteLLM remembers the answer itself.
            if model_name is not None and nobody(self, names, model_name, "access_groups", _has_access_group):
                return defaultdict(list)
            return original(self, model_name, model_access_group, team_id)

        return get_model_access_groups

    patches.replace(place.owner, place.name, make)
    return True


def _install(patches: PatchSet, parts: Parts) -> bool:
    """Have the proxy's questions answered, once it is there: what is patched later is told by `patches.late`."""
    names = parts.names
    patches.when_imported(_AUTH, partial(_default_limits, patches, names))
    patches.when_imported(_COMPRESSION, partial(_compression_policy, patches, names))
    patches.when_imported(_REQUESTS, partial(_guardrails, patches, names))
    return False


def _default_limits(patches: PatchSet, names: Names, module: ModuleType) -> list[str]:
    """The default limits of API keys, asked for twice a request."""
    name = "_get_deployment_default_limit"
    if not is_known(name, vars(module).get(name)) or not _answers_from_its_entries(names):
        return []

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _get_deployment_default_limit(model_name: Any, field: Any) -> Any:
            from litellm.proxy.proxy_server import llm_router  # noqa: PLC0415 - as LiteLLM does

            if nobody(llm_router, names, model_name, field, partial(_has_param, field)):
                return None
            return original(model_name, field)

        return _get_deployment_default_limit

    patches.replace(module, name, make)
    return [_NAME]


def _compression_policy(patches: PatchSet, names: Names, module: ModuleType) -> list[str]:
    """An auto router's compression policy: only its marker deployments can have one."""
    name, asked = "policy_for_model", "deployments_for_request"
    if (
        not is_known(name, vars(module).get(name))
        or not is_known(asked, vars(names.core).get(asked))
        or not _answers_from_its_entries(names)
    ):
        return []
    is_marker = partial(_is_marker, module.AUTO_ROUTER_MODEL_PREFIX)

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def policy_for_model(llm_router: Any, model_alias: Any, request_kwargs: Any, request_tags: Any) -> Any:
            # LiteLLM refuses a name that several teams' deployments have; without teams there is nothing to refuse.
            if (
                nobody(llm_router, names, model_alias, _NAME, is_marker)
                and not llm_router.team_model_to_deployment_indices
            ):
                return None
            return original(llm_router, model_alias, request_kwargs, request_tags)

        return policy_for_model

    patches.replace(module, name, make)
    return [_NAME]


def _guardrails(patches: PatchSet, names: Names, module: ModuleType) -> list[str]:
    """The guardrails that deployments bring along, collected from the whole group before each request."""
    name = "check_and_merge_model_level_guardrails"
    if not is_known(name, vars(module).get(name)) or not _answers_from_its_entries(names):
        return []
    guarded = overridable(names)
    listed = vars(names.core)[names.get_model_list]
    listed = getattr(listed, "__fast_router_original__", listed)

    def brings_none(data: Any, router: Any, alias: Any) -> bool:
        """Whether no deployment of a plain group has any, as its entries read now."""
        for bucket in (data.get("metadata"), data.get("litellm_metadata")):
            if bucket and (type(bucket) is not dict or bucket.get("user_api_key_team_id")):
                return False
        if type(alias) is not str or not isinstance(router, names.core):
            return False
        group = plain_group(router, alias, names, listed, guarded)
        return group is not None and not [1 for params in map(_params, group) if "guardrails" in params]

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def check_and_merge_model_level_guardrails(
            data: Any, llm_router: Any, trust_client_model_info: Any = True, model_alias: Any = None
        ) -> Any:
            if trust_client_model_info is False:
                alias = model_alias if model_alias is not None else data.get("model")
                try:
                    if brings_none(data, llm_router, alias):
                        return data
                except Exception:  # noqa: BLE001 - LiteLLM's own answers, or raises its own error
                    pass
            return original(data, llm_router, trust_client_model_info, model_alias)

        return check_and_merge_model_level_guardrails

    patches.replace(module, name, make)
    return [_NAME]


def _answers_from_its_entries(names: Names) -> bool:
    """Whether what the Router hands out under a name are its entries, by the functions that we have read."""
    listed = vars(names.core).get(names.get_model_list)
    # Ours may stand there already.
    return is_known("get_model_list", getattr(listed, "__fast_router_original__", listed))


ACCESS_GROUPS = Feature(
    "access_groups",
    "walks through the whole group to learn that no deployment is in an access group",
    "one walk until the Router changes",
    _access_groups,
    needs=("get_model_access_groups",),
    remembers=True,
)
FEATURE = Feature(
    _NAME,
    "the proxy walks through the whole group to learn that no deployment has a default limit for API keys, an auto "
    "router's policy, or guardrails",
    "one walk until the Router changes; for guardrails, which protect, a quick one each time",
    _install,
    remembers=True,
    waits=True,
)
