"""The `litellm.Router` that stands behind `litellm.model_list`, kept in step with that list.

Whoever assigns a list of deployments to `litellm.model_list` gets a Router made of it at the next call. Appending,
removing and replacing entries and assigning another list are seen at the next call as well: deployments that
stay keep their cooldowns and their open leases, since only the difference is applied. A list that is wrong
changes nothing and is refused with one error that names the entry.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import threading
from collections.abc import Mapping
from typing import Any

from fast_router import settings
from fast_router.deployment_options import options_of
from fast_router.errors import ConfigurationError, UnknownStrategyError
from fast_router.litellm_plugin.bands.member_names import method_of, model_id_maker
from fast_router.litellm_plugin.strategy_names import LITELLM

__all__ = ["ImplicitRouter", "is_deployments"]

_log = logging.getLogger("fast_router")
_NUMBERS = ("weight", "rpm", "tpm", "max_parallel_requests", "timeout", "input_cost_per_token", "output_cost_per_token")
_SECRET = re.compile(r"key|secret|token|password|credential|authorization|header", re.IGNORECASE)


def is_deployments(value: object) -> bool:
    """True if `litellm.model_list` holds what we must look at: anything but the stock list of names, or nothing.

    Raises:
        ConfigurationError: It is not a list at all.
    """
    if not value:
        return False
    if not isinstance(value, list | tuple):
        msg = (
            f"litellm.model_list must be a list of deployments, not {type(value).__name__}; "
            'use litellm.model_list = [{"model_name": …, "litellm_params": {"model": …}}, …]'
        )
        raise ConfigurationError(msg)
    return not isinstance(value[0], str) or any(isinstance(entry, Mapping) for entry in value)


class ImplicitRouter:
    """A Router, the list it was made of, and the names it answers to.

    Attributes:
        router: The Router; None until the first list arrived.
    """

    def __init__(self) -> None:
        self.router: Any = None
        self._lock = threading.RLock()
        self._source: object = None
        self._seen: object = None
        self._settings: settings.Settings | None = None
        self._entries: dict[str, dict[str, Any]] = {}
        self._names: frozenset[str] = frozenset()
        self._patterns: tuple[re.Pattern[str], ...] = ()
        self._debug_info: bool | None = None

    def serves(self, source: list[Any] | tuple[Any, ...], model: str) -> bool:
        """Bring the Router in step with `source`; True if `model` is one of its model groups.

        Raises:
            ConfigurationError: The list is malformed; the Router is as it was.
        """
        # Comparing lists compares identities first: a microsecond for hundreds of entries.
        if source is not self._source or source != self._seen or settings.current() is not self._settings:
            self._follow(source)
        return model in self._names or any(pattern.fullmatch(model) for pattern in self._patterns)

    def forget(self) -> None:
        """Take the Router out of LiteLLM's callbacks; the next list starts afresh."""
        if self.router is None and self._source is None:
            return
        with self._lock:
            router, self.router = self.router, None
            self._source = self._seen = self._settings = None
            self._entries = {}
            self._names, self._patterns = frozenset(), ()
            if router is not None:
                _retire(router)
                if self._debug_info is not None:
                    import litellm  # noqa: PLC0415

                    litellm.suppress_debug_info = self._debug_info
                    self._debug_info = None

    def _follow(self, source: list[Any] | tuple[Any, ...]) -> None:
        with self._lock:
            seen = copy.copy(source)
            options = settings.current()
            entries = _checked(list(seen))
            if self.router is None or options is not self._settings or not self._apply(entries):
                self._build(entries, options)
            names = {entry["model_name"] for entry in entries.values()} | _extra_names(options.router_settings)
            names |= _aliases(entries).keys()
            self._patterns = tuple(
                re.compile(".*".join(map(re.escape, name.split("*")))) for name in sorted(names) if "*" in name
            )
            self._names = frozenset(names)
            self._entries = entries
            self._settings = options
            self._source, self._seen = source, seen

    def _build(self, entries: dict[str, dict[str, Any]], options: settings.Settings) -> None:
        import litellm  # noqa: PLC0415

        arguments = dict(options.router_settings)
        if options.strategy is not None:
            arguments["routing_strategy"] = _strategy(options.strategy)
        aliases = {**_aliases(entries), **(arguments.get("model_group_alias") or {})}
        if aliases:
            arguments["model_group_alias"] = aliases
        shown = litellm.suppress_debug_info
        try:
            router = litellm.Router(model_list=list(entries.values()), **arguments)
        except Exception as error:  # noqa: BLE001 - whatever LiteLLM raises for it
            litellm.suppress_debug_info = shown
            raise _refusal(error, entries) from None
        if self.router is None:
            self._debug_info = shown
        else:
            _retire(self.router)
        self.router = router

    def _apply(self, entries: dict[str, dict[str, Any]]) -> bool:
        """Apply the difference to the running Router; False if it takes a new one."""
        before = self._entries
        gone = [id_ for id_ in before if id_ not in entries]
        new = [id_ for id_, entry in entries.items() if before.get(id_) != entry]
        if any(_is_special(entries[id_]) for id_ in new) or any(_is_special(before[id_]) for id_ in gone):
            return False
        if _aliases(entries) != _aliases(before):
            return False
        upsert, delete = method_of(self.router, "upsert_deployment"), method_of(self.router, "delete_deployment")
        if upsert is None or delete is None:
            return False
        from litellm.types.router import Deployment  # noqa: PLC0415

        try:
            made = [Deployment(**_resolved(entries[id_])) for id_ in new]
            for deployment in made:
                upsert(deployment)
            for id_ in gone:
                delete(id_)
        except Exception as error:  # noqa: BLE001 - a new Router says what is wrong, or works
            _log.debug("litellm.model_list: building a new Router (%s)", type(error).__name__)
            return False
        return True


def _retire(router: Any) -> None:
    """Take a Router's callbacks out of LiteLLM's lists; calls that are under way end as they would."""
    with contextlib.suppress(Exception):
        (getattr(router, "retire", None) or router.discard)()


def _strategy(name: str) -> str:
    """The spelling of a strategy that this process's Router takes: ours where the plugin admits it, else LiteLLM's."""
    from fast_router.engine.strategies import canonical  # noqa: PLC0415

    try:
        return LITELLM.get(canonical(name), canonical(name))
    except UnknownStrategyError:
        return name


def _extra_names(router_settings: Mapping[str, Any]) -> set[str]:
    """Names beside the entries' own under which the Router may be called: aliases and routing groups."""
    names = {str(alias) for alias in router_settings.get("model_group_alias") or ()}
    for group in router_settings.get("routing_groups") or ():
        if isinstance(group, Mapping) and group.get("group_name"):
            names.add(str(group["group_name"]))
    return names


def _aliases(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Other names of the entries' model groups, from ``model_info: {fast_router: {aliases: […]}}``."""
    aliases: dict[str, str] = {}
    for entry in entries.values():
        for alias in options_of(entry).aliases:
            aliases.setdefault(alias, entry["model_name"])
    return aliases


def _checked(source: list[Any]) -> dict[str, dict[str, Any]]:
    """Entries by deployment id, copied, each with its id filled in; one entry repeated word for word counts once."""
    entries: dict[str, dict[str, Any]] = {}
    declared: dict[str, int] = {}
    for index, entry in enumerate(source):
        _check(index, entry)
        copied = _copied(entry)
        info = copied.setdefault("model_info", {})
        given = info.get("id")
        if given is None:
            id_ = _generated_id(copied)
        else:
            id_ = str(given)
            if id_ in declared:
                msg = (
                    f"{_where(index, entry)}: model_info.id {id_!r} is the id of entry {declared[id_]} already; "
                    "give each deployment an id of its own, or none"
                )
                raise ConfigurationError(msg)
            declared[id_] = index
        info["id"] = id_
        entries[id_] = copied
    return entries


def _where(index: int, entry: object) -> str:
    name = entry.get("model_name") if isinstance(entry, Mapping) else None
    return f"litellm.model_list[{index}]" + (f" ({name!r})" if isinstance(name, str) and name else "")


def _check(index: int, entry: object) -> None:
    def refuse(problem: str) -> None:
        raise ConfigurationError(f"{_where(index, entry)}: {problem}")

    if not isinstance(entry, Mapping):
        refuse(
            f"expected a deployment, found {type(entry).__name__}; "
            'write {"model_name": …, "litellm_params": {"model": …}} (model names alone cannot be routed)'
        )
        return
    name = entry.get("model_name")
    if not isinstance(name, str) or not name:
        refuse("model_name is missing; it is the name that callers use")
    params = entry.get("litellm_params")
    if not isinstance(params, Mapping):
        remedy = "LiteLLM needs to know what to call"
        if "endpoint" in entry:
            remedy = "an `endpoint` is for fast_router.AdvancedRouter; LiteLLM takes it as litellm_params.api_base"
        refuse(f'litellm_params is missing; {remedy}: {{"model": "provider/name", "api_base": …, "api_key": …}}')
        return
    if not isinstance(params.get("model"), str) or not params["model"]:
        refuse('litellm_params.model is missing; write provider and model, as in "openai/gpt-4o"')
    info = entry.get("model_info")
    if info is not None and not isinstance(info, Mapping):
        refuse(f"model_info must be a mapping, not {type(info).__name__}")
    for field in _NUMBERS:
        value = params.get(field)
        if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
            refuse(f"litellm_params.{field} is {value}; it cannot be negative")


def _copied(entry: Mapping[str, Any]) -> dict[str, Any]:
    try:
        copied: dict[str, Any] = copy.deepcopy(dict(entry))
    except Exception:  # noqa: BLE001 - a client object in the entry need not be copyable
        copied = {key: dict(value) if isinstance(value, Mapping) else value for key, value in entry.items()}
    if copied.get("model_info") is None:
        copied.pop("model_info", None)
    return copied


def _generated_id(entry: dict[str, Any]) -> str:
    """LiteLLM's own id for a deployment that names none, so that other Routers and processes agree on it."""
    return str(model_id_maker()(entry["model_name"], _resolved(entry)["litellm_params"]))


def _resolved(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with `os.environ/NAME` values looked up, as the Router does for its first list."""
    import litellm  # noqa: PLC0415

    params = {
        key: litellm.get_secret(value) if isinstance(value, str) and value.startswith("os.environ/") else value
        for key, value in entry["litellm_params"].items()
    }
    return {**entry, "litellm_params": params}


def _is_special(entry: dict[str, Any]) -> bool:
    """Entries that stand for several deployments or for a router of their own: those need a new Router."""
    params = entry["litellm_params"]
    return isinstance(params.get("organization"), list) or str(params["model"]).startswith("auto_router/")


def _refusal(error: Exception, entries: dict[str, dict[str, Any]]) -> ConfigurationError:
    """LiteLLM's refusal of the list, with the entry named if it can be told, and without secrets."""
    import litellm  # noqa: PLC0415
    from litellm.types.router import Deployment  # noqa: PLC0415

    for index, entry in enumerate(entries.values()):
        params = entry["litellm_params"]
        try:
            Deployment(**_resolved(entry))
            litellm.get_llm_provider(
                model=params["model"],
                custom_llm_provider=params.get("custom_llm_provider"),
                api_base=params.get("api_base"),
            )
        except Exception as found:  # noqa: BLE001 - whatever LiteLLM raises for it
            return ConfigurationError(f"{_where(index, entry)}: {_reason(found, entries)}")
    return ConfigurationError(f"litellm.model_list: litellm.Router refused it: {_reason(error, entries)}")


def _reason(error: Exception, entries: dict[str, dict[str, Any]]) -> str:
    details = getattr(error, "errors", None)
    if callable(details):
        with contextlib.suppress(Exception):
            return "; ".join(
                f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
                for item in details(include_url=False, include_input=False, include_context=False)
            )
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    for entry in entries.values():
        for key, value in entry["litellm_params"].items():
            if isinstance(value, str) and value and _SECRET.search(key):
                text = text.replace(value, "***")
    return text
