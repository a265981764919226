"""A deployment as LiteLLM looks it up for bookkeeping, remembered while nothing changed.

`Router.get_deployment` builds a pydantic object and `Router.get_router_model_info` merges the price
map's entry with the deployment's own (a deep copy), both of them on every request. Here each result
is kept with a copy of the deployment's entry; it is used only while the live entry equals that copy
(so an edit in place is seen), the price map is in the same generation, and the price map's limits of
the model are the ones that went into it.

LiteLLM's own function bodies run unchanged: they get a `Lookups` in place of ``self``, which answers
these two calls and hands every other attribute on to the Router.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.member_names import PREFIX
from fast_router.litellm_plugin.overhead.books import books_of, remember, remember_name

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.member_names import Names
    from fast_router.litellm_plugin.overhead.construction.prices import PriceClock

__all__ = ["LookupService", "Lookups"]

_LIMITS = ("tpm", "rpm", "itpm", "otpm")


class _Info:
    """A remembered model info with everything that it was made from."""

    __slots__ = ("cost", "cost_key", "cost_rpm", "cost_tpm", "entry", "generation", "info", "structure")

    def __init__(
        self, entry: dict[str, Any], info: Any, cost: dict[str, Any], generation: int, structure: int | None
    ) -> None:
        self.entry = entry
        self.info = info
        self.generation = generation
        #: The structure that a wildcard deployment was resolved in, None for any other.
        self.structure = structure
        #: The map itself: a reload replaces the object.
        self.cost = cost
        self.cost_key = info.get("key")
        row = cost.get(self.cost_key)
        self.cost_tpm = row.get("tpm") if row is not None else None
        self.cost_rpm = row.get("rpm") if row is not None else None

    def of(self, entry: dict[str, Any]) -> _Info:
        """The same of another deployment of the same model."""
        twin = object.__new__(_Info)
        for name in _Info.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.entry = entry
        return twin


def entry_copy(entry: dict[str, Any]) -> dict[str, Any] | None:
    """A copy of a model_list entry, deep enough to notice a value set in place.

    Returns:
        None for an entry that is not made of plain dicts: nothing is remembered about it.
    """
    params = entry.get("litellm_params")
    info = entry.get("model_info")
    if type(params) is not dict or type(info) is not dict:
        return None
    return {**entry, "litellm_params": dict(params), "model_info": dict(info)}


def _own_limit(entry: dict[str, Any]) -> bool:
    places = (entry, entry["litellm_params"], entry["model_info"])
    return any(place.get(limit) is not None for place in places for limit in _LIMITS)


#: For these LiteLLM takes the provider from the model's name, whatever the deployment's address is.
_NAMED_PROVIDERS = ("openai/", "hosted_vllm/")


def _kinship(entry: dict[str, Any]) -> Any:
    """What deployments share that have the same row of the price map; None where that is not certain."""
    params, info = entry.get("litellm_params"), entry.get("model_info")
    if type(params) is not dict or type(info) is not dict:
        return None
    model = params.get("model")
    if type(model) is not str or not model.startswith(_NAMED_PROVIDERS) or "*" in model:
        return None
    if params.get("custom_llm_provider") is not None or params.get("use_litellm_proxy"):
        return None
    base = info.get("base_model") or params.get("base_model")
    return (model, base) if base is None or type(base) is str else None


class LookupService:
    """Remembered deployments and model infos of every Router.

    Args:
        litellm: The module `litellm`.
        names: Where this version keeps what.
        prices: The price map's generation.
    """

    __slots__ = ("_kin", "_litellm", "_names", "_prices")

    def __init__(self, litellm: Any, names: Names, prices: PriceClock) -> None:
        self._litellm = litellm
        self._names = names
        self._prices = prices
        #: Model → record of one of its deployments that nothing limits.
        self._kin: dict[Any, _Info] = {}

    def entry(self, router: Any, deployment_id: str) -> dict[str, Any] | None:
        """The live model_list entry of a deployment, None if it is unknown or not a plain dict."""
        index = router.model_id_to_deployment_index_map.get(deployment_id)
        if index is None:
            return None
        entry = getattr(router, self._names.model_list)[index]
        return entry if type(entry) is dict else None

    def deployment(self, router: Any, deployment_id: str) -> Any:
        """What `Router.get_deployment` answers, shared between calls: callers must not change it."""
        entry = self.entry(router, deployment_id)
        if entry is None:
            return getattr(router, self._names.get_deployment)(model_id=deployment_id)
        memo = books_of(router).deployments
        record = memo.get(deployment_id)
        if record is not None and record[0] == entry:
            return record[1]
        copied = entry_copy(entry)
        found = getattr(router, self._names.get_deployment)(model_id=deployment_id)
        if copied is not None and found is not None and copied == entry:
            remember(memo, deployment_id, (copied, found))
        return found

    def record(self, router: Any, deployment: Any, group: str, kind: str) -> _Info | None:
        """The remembered model info of ``deployment`` as ``group`` sees it, made now if need be.

        Args:
            router: The Router.
            deployment: The pydantic deployment (kind ``"object"``) or the live entry (``"entry"``).
            group: The model name that the request asked for.
            kind: Which of the two ``deployment`` is: LiteLLM merges them a little differently.

        Returns:
            None where nothing may be remembered: LiteLLM's own method has to answer.
        """
        info = deployment["model_info"] if kind == "entry" else deployment.model_info
        deployment_id = info.get("id")
        entry = self.entry(router, deployment_id)
        if entry is None or (kind == "entry" and entry is not deployment):
            return None
        memo = books_of(router).infos
        key = (deployment_id, group, kind)
        known: _Info | None = memo.get(key)
        if known is not None and self._holds(router, known, entry):
            return known
        return self._make(router, deployment, entry, group, memo, key)

    def untracked(self, router: Any, deployment_id: str, group: str) -> bool:
        """Whether nothing sets a limit for the deployment, so that LiteLLM counts no usage for it.

        The quick door: one comparison of the entry, one of the price map's generation.
        """
        index = router.model_id_to_deployment_index_map.get(deployment_id)
        if index is None:
            return False
        entry = getattr(router, self._names.model_list)[index]
        verdicts = books_of(router).verdicts
        known: _Info | None = verdicts.get((deployment_id, group))
        if known is not None and self._holds(router, known, entry):
            return True
        relative = self._kin.get(_kinship(entry)) if type(entry) is dict else None
        if relative is None or not self._prices_hold(router, relative):
            return False
        copied = entry_copy(entry)
        if copied is None or _own_limit(copied) or copied != entry:
            return False
        remember_name(router, self._names, verdicts, (deployment_id, group), relative.of(copied), group)
        return True

    def _holds(self, router: Any, known: _Info, entry: Any) -> bool:
        return bool(known.entry == entry) and self._prices_hold(router, known)

    def _prices_hold(self, router: Any, known: _Info) -> bool:
        if known.generation != self._prices.now() or self._has_discoveries(router):
            return False
        if known.structure is not None and known.structure != books_of(router).structure:
            return False
        cost = self._litellm.model_cost
        if cost is not known.cost:
            return False
        row = cost.get(known.cost_key)
        if row is None:
            return known.cost_tpm is None and known.cost_rpm is None
        return bool(row.get("tpm") == known.cost_tpm and row.get("rpm") == known.cost_rpm)

    def _has_discoveries(self, router: Any) -> bool:
        """Whether limits were learned from the servers: they change without any announcement."""
        name = self._names.discoveries
        return name is not None and bool(router.__dict__[name].cache_dict)

    def _make(
        self, router: Any, deployment: Any, entry: dict[str, Any], group: str, memo: Any, key: Any
    ) -> _Info | None:
        copied = entry_copy(entry)
        if copied is None or self._has_discoveries(router) or self._speaks_up(copied):
            return None
        generation = self._prices.now()
        cost = self._litellm.model_cost
        books = books_of(router)
        wild = "*" in str(copied["litellm_params"].get("model"))
        structure = books.structure if wild else None
        info = getattr(router, self._names.get_router_model_info)(deployment=deployment, received_model_name=group)
        if type(info) is not dict or copied != entry or generation != self._prices.now():
            return None
        made = _Info(copied, info, cost, generation, structure)
        remember_name(router, self._names, memo, key, made, group)
        if not _own_limit(copied) and all(info.get(limit) is None for limit in _LIMITS):
            remember_name(router, self._names, books.verdicts, key[:2], made, group)
            kinship = _kinship(copied)
            if kinship is not None:
                remember(self._kin, kinship, made)
        return made

    def _speaks_up(self, entry: dict[str, Any]) -> bool:
        """Whether LiteLLM writes a log line on every lookup of this deployment, which must stay.

        It does for Azure deployments without a ``base_model``.
        """
        params = entry["litellm_params"]
        provider = str(params.get("custom_llm_provider") or params.get("model") or "")
        if "azure" not in provider.lower():
            return False
        return entry["model_info"].get("base_model") is None and params.get("base_model") is None


class Lookups:
    """A Router as a function body of LiteLLM sees it: two lookups remembered, the rest its own."""

    __slots__ = ("_names", "_router", "_service")

    def __init__(self, router: Any, service: LookupService, names: Names) -> None:
        self._router = router
        self._service = service
        self._names = names

    def get_deployment(self, model_id: str) -> Any:
        """As `Router.get_deployment`."""
        return self._service.deployment(self._router, model_id)

    def get_router_model_info(self, deployment: Any, received_model_name: str, **more: Any) -> Any:
        """As `Router.get_router_model_info`."""
        if not more:
            kind = "entry" if type(deployment) is dict else "object"
            record = self._service.record(self._router, deployment, received_model_name, kind)
            if record is not None:
                return record.info
        return getattr(self._router, self._names.get_router_model_info)(
            deployment=deployment, received_model_name=received_model_name, **more
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in Lookups.__slots__:
            object.__setattr__(self, name, value)
        else:
            setattr(self._router, name, value)


for _name in ("get_deployment", "get_router_model_info"):
    setattr(Lookups, PREFIX + _name, vars(Lookups)[_name])
