"""From a raw file to one shape: finds models and providers in whatever dialect, value by value.

Nothing here judges a value; that is `schema` and `checks`. What it keeps is where each value stood in the file, so
that every later message can name the line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import spellings
from .report import Report
from .source import PathKey
from .spellings import Spelling

__all__ = ["ModelDraft", "ProviderDraft", "drafts"]


@dataclass
class _Draft:
    """Values by our name, and where each stands in the file."""

    path: PathKey
    values: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, PathKey] = field(default_factory=dict)
    spelled: set[str] = field(default_factory=set)

    def at(self, name: str) -> PathKey:
        """Where the value called `name` stands, or the entry itself if it is missing."""
        return self.paths.get(name, self.path)

    def has(self, *keys: str) -> bool:
        """Whether the file spelled one of these keys."""
        return not self.spelled.isdisjoint(keys)


@dataclass
class ProviderDraft(_Draft):
    """A provider as the file has it."""


@dataclass
class ModelDraft(_Draft):
    """A model as the file has it, with its providers and the dialect that its keys belong to."""

    providers: list[ProviderDraft] = field(default_factory=list)
    dialect: str = ""

    @property
    def unnamed(self) -> bool:
        """True for a flat entry that leaves the model's name to the server."""
        return self.dialect == "D0" and not self.providers[0].values.get("model_name")


# What stood beside the models in files of March 2025, by `type`.
_SERVICES = ("brave", "duckduckgo", "elastic", "elasticsearch", "grist", "milvus", "qdrant", "redis", "sql")


def drafts(report: Report) -> list[ModelDraft]:
    """Every model of the document, whatever its dialect.

    Args:
        report: Takes problems of structure and unknown keys.
    """
    data = report.document.data
    for key in data:
        if key not in spellings.SECTIONS and not key.startswith("x-"):
            report.unknown_key((), key, spellings.SECTIONS)
    models = data.get("models")
    if not isinstance(models, list) or not models:
        what = "is missing or empty" if models in (None, [], {}) else f"is {report.shown(models)}, not a list"
        at: PathKey = ("models",) if "models" in data else ()
        report.error(at, f"`models` {what}", _why_none(data))
        return []
    found = []
    for index, raw in enumerate(models):
        path: PathKey = ("models", index)
        if isinstance(raw, Mapping) and raw.get("type") in _SERVICES:
            what = f"'{raw['type']}' is a database or a service, not a model"
            right = "Some files of March 2025 list them here: move it to `databases:`, which is not read, or delete it."
            report.error((*path, "type"), what, right)
        elif isinstance(raw, Mapping):
            found.append(_model(raw, path, report))
        else:
            report.error(path, f"{report.shown(raw)} is not a model", "Write `- name: …` with its keys below.")
    _label_the_rest(found, data)
    return found


def _why_none(data: Mapping[str, Any]) -> str:
    """What to do about a file without models."""
    dependencies = data.get("dependencies")
    if isinstance(dependencies, Mapping) and "postgres" in dependencies:
        return (
            "OpenGateLLM can keep its models in the database (`dependencies.postgres`), which is not read here: "
            "list them in the file, as `models:` with `  - name: …` below it."
        )
    return "List at least one model: `models:` and `  - name: …` below it."


def _label_the_rest(found: list[ModelDraft], data: Mapping[str, Any]) -> None:
    """A model whose keys every later dialect shares is of the file's newest dialect."""
    newest = max((draft.dialect for draft in found), default="")
    settings, dependencies = data.get("settings"), data.get("dependencies")
    if isinstance(settings, Mapping):
        if any(str(key).startswith("celery_") for key in settings):
            newest = max(newest, "D4")
        if any(str(key).startswith("routing_") for key in settings):
            newest = max(newest, "D5")
    if isinstance(dependencies, Mapping) and "celery" in dependencies:
        newest = max(newest, "D5")
    for draft in found:
        draft.dialect = draft.dialect or max(newest, "D3")


def _model(raw: Mapping[str, Any], path: PathKey, report: Report) -> ModelDraft:
    containers = [key for key in ("providers", "clients") if key in raw]
    flat = not containers and any(key in raw for key in ("url", "base_url", "api_url"))
    draft = ModelDraft(path)
    known = set(_first_keys(spellings.MODEL)) | spellings.MODEL_IGNORED | (set(spellings.FLAT) if flat else set())
    _take(raw, draft, spellings.MODEL, known, report)
    if flat:
        # D0 has no word for the kind of server: `type` is the model's.
        provider = ProviderDraft(path)
        _take(raw, provider, {name: spellings.PROVIDER[name] for name in _FLAT_FIELDS}, None, report)
        draft.providers.append(provider)
    for key in containers:
        _providers(raw[key], (*path, key), draft, report)
    if not containers and not flat:
        report.error(path, "no provider", "Add `providers:` with at least one `- type: …` below it.")
    draft.dialect = _dialect(draft, flat=flat, clients="clients" in containers)
    return draft


_FLAT_FIELDS = ("url", "key", "timeout", "model_name")


def _providers(raw: Any, path: PathKey, draft: ModelDraft, report: Report) -> None:
    if isinstance(raw, Mapping):
        report.error(path, "a mapping where a list is needed", "Put `- ` before the first key of each provider.")
        return
    if not isinstance(raw, list) or not raw:
        report.error(path, "no provider", "Add at least one `- type: …` with url and model_name.")
        return
    for index, item in enumerate(raw):
        at = (*path, index)
        if not isinstance(item, Mapping):
            report.error(at, f"{report.shown(item)} is not a provider", "Write `- type: …` with its keys below.")
            continue
        provider = ProviderDraft(at)
        known = set(_first_keys(spellings.PROVIDER)) | spellings.PROVIDER_IGNORED
        _take(item, provider, spellings.PROVIDER, known, report)
        if provider.has("params.total", "params.active", "params.zone"):
            report.warn(
                (*at, "params"),
                "the shipped example writes `params:`, which the Albert API itself never read; it is read here",
                "Write `carbon:` with `total_params`, `active_params` and `model_zone`.",
            )
        draft.providers.append(provider)


def _first_keys(table: Mapping[str, tuple[Spelling, ...]]) -> Iterator[str]:
    for choices in table.values():
        for spelling in choices:
            yield spelling[0]


def _take(
    raw: Mapping[str, Any],
    draft: _Draft,
    table: Mapping[str, tuple[Spelling, ...]],
    known: set[str] | None,
    report: Report,
) -> None:
    """Fill `draft` from `raw` by `table`; None as `known` leaves unknown keys to somebody else."""
    for name, choices in table.items():
        for spelling in choices:
            found, value = _look(raw, spelling)
            if not found:
                continue
            draft.spelled.add(".".join(spelling))
            at = (*draft.path, *spelling)
            if value is None:
                draft.paths.setdefault(name, at)
                if name not in draft.values:
                    draft.values[name] = None
            elif draft.values.get(name) is None:
                draft.values[name] = value
                draft.paths[name] = at
            elif draft.values[name] != value:
                other = ".".join(str(part) for part in draft.paths[name][len(draft.path) :])
                report.error(at, f"says something else than `{other}`", "Keep one of the two.")
    if known is None:
        return
    nested = {spelling[0] for choices in table.values() for spelling in choices if len(spelling) > 1}
    for key, value in raw.items():
        if key not in known:
            report.unknown_key(draft.path, key, known)
        elif key in nested and isinstance(value, Mapping):
            _unknown_inside(value, (key,), draft.path, table, report)
        elif key in nested and value is not None and (key,) not in _single(table):
            report.error((*draft.path, key), f"{report.shown(value)} is not a mapping", f"Write keys below `{key}:`.")


def _single(table: Mapping[str, tuple[Spelling, ...]]) -> set[Spelling]:
    return {spelling for choices in table.values() for spelling in choices if len(spelling) == 1}


def _unknown_inside(
    raw: Mapping[str, Any],
    prefix: Spelling,
    path: PathKey,
    table: Mapping[str, tuple[Spelling, ...]],
    report: Report,
) -> None:
    size = len(prefix)
    known = {
        spelling[size]
        for choices in table.values()
        for spelling in choices
        if len(spelling) > size and spelling[:size] == prefix
    }
    for key, value in raw.items():
        if key not in known:
            report.unknown_key((*path, *prefix), key, known)
        elif isinstance(value, Mapping):
            _unknown_inside(value, (*prefix, key), path, table, report)


def _look(raw: Any, spelling: Spelling) -> tuple[bool, Any]:
    for key in spelling:
        if not isinstance(raw, Mapping) or key not in raw:
            return False, None
        raw = raw[key]
    return True, raw


def _dialect(draft: ModelDraft, *, flat: bool, clients: bool) -> str:
    """The dialect that a model's keys belong to; the newest key decides."""
    spelled = draft.spelled.union(*(provider.spelled for provider in draft.providers))
    if flat:
        return "D0"
    if clients:
        return "D1" if "args.base_url" in spelled else "D2"
    null_limit = any(provider.has("qos_limit") and provider.values["qos_limit"] is None for provider in draft.providers)
    for dialect, keys in _MARKS:
        if spelled & keys or (dialect == "D6" and null_limit):
            return dialect
    return ""


_MARKS = (
    ("D6", {"basic_auth", "qos_retries_before_reject"}),
    (
        "D5",
        {
            "qos_metric", "qos_limit", "model_hosting_zone", "model_total_params", "model_active_params",
        },
    ),
    ("D4", {"qos_policy", "performance_threshold", "max_parallel_requests"}),
    ("D3b", {"args.api_url", "args.base_url", "args.api_key", "args.timeout"}),
    (
        "D3",
        {
            "model_cost_prompt_tokens", "model_cost_completion_tokens", "model_carbon_footprint_zone",
            "model_carbon_footprint_total_params", "model_carbon_footprint_active_params", "routing_strategy",
        },
    ),
    ("D5", {"cost_prompt_tokens", "cost_completion_tokens", "load_balancing_strategy"}),
)  # fmt: skip
