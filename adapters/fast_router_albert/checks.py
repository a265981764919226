"""Validation: from drafts to models, every problem with its line, what is wrong and what would be right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError

from fast_router.errors import did_you_mean

from . import spellings
from .dialects import ModelDraft, ProviderDraft
from .endpoints import DEFAULT_URLS, SERVING_PROVIDERS, ModelType, ProviderType
from .env import Interpolation
from .report import Report
from .schema import MAX_NAME, BasicAuth, Metric, Model, Provider, Secret
from .source import PathKey

__all__ = ["build_models"]

_RIGHT = {
    "id": f"Give it a name of 1 to {MAX_NAME} characters.",
    "aliases": f"Write a list of names of 1 to {MAX_NAME} characters: `aliases: [one, two]`.",
    "model_name": "Write what the server calls the model, as text.",
    "url": "Write the server's address without /v1, for example http://localhost:8000.",
    "timeout": "Write seconds, for example 300.",
    "hosting_zone": "Write an ISO 3166 code of three capitals, for example FRA, or WOR.",
    "qos_limit": "Write a number of 0 or more, or leave it out for no limit.",
    "cost_prompt_tokens": "Write the price of a million tokens, 0 or more.",
    "cost_completion_tokens": "Write the price of a million tokens, 0 or more.",
    "total_params": "Write billions of parameters, 0 or more.",
    "active_params": "Write billions of parameters, 0 or more.",
    "max_context_length": "Write a whole number of tokens above 0.",
    "vector_size": "Write a whole number above 0.",
    "basic_auth": "Write `username` and `password` below it.",
    "retries": "Write a whole number of 0 or more.",
    "created": "Write a Unix time in seconds.",
    "owned_by": "Write a text.",
}
_POLICIES = ("warning-log", "performance-threshold", "parallel-requests-threshold")


def build_models(drafts: Iterable[ModelDraft], found: Interpolation, report: Report) -> list[Model]:
    """Validate every draft; what is wrong goes to `report`, and the models that stand are returned."""
    retries, countdown = _waiting(report)
    models: list[Model] = []
    seen: dict[str, PathKey] = {}
    for draft in drafts:
        _names(draft, seen, report)
        model = _model(draft, found, report, retries, countdown)
        if model is None:
            continue
        twin = next((one for one in models if draft.dialect == one.dialect == "D0" and one.id == model.id), None)
        if twin is None:
            models.append(model)
        elif twin.type is not model.type:
            what = f"its server serves {report.shown(model.id)}, which is a {twin.type.value} model already"
            report.error(draft.path, what, "Give one of the two entries an `id:` of its own.")
        else:
            models[models.index(twin)] = twin.model_copy(update={"providers": (*twin.providers, *model.providers)})
    return models


def _names(draft: ModelDraft, seen: dict[str, PathKey], report: Report) -> None:
    """Ids and aliases are one name space over the whole file."""
    names = [(draft.values.get("id"), draft.at("id"))]
    aliases = draft.values.get("aliases")
    if isinstance(aliases, (list, tuple)):
        names += [(alias, (*draft.at("aliases"), index)) for index, alias in enumerate(aliases)]
    for name, path in names:
        if not isinstance(name, str):
            continue
        if name in seen:
            first = report.document.line(seen[name])
            where = f" (first on line {first})" if first else ""
            if draft.dialect != "D0":  # flat files list a model once per server
                report.error(path, f"the name {report.shown(name)} is taken{where}", "Ids and aliases must be unique.")
        else:
            seen[name] = path


def _model(draft: ModelDraft, found: Interpolation, report: Report, retries: int, countdown: float) -> Model | None:
    values = {name: value for name, value in draft.values.items() if value is not None}
    former = spellings.FORMER_TYPES.get(str(values.get("type")))
    if former is not None:
        report.warn(draft.at("type"), f"{report.shown(values['type'])} is read as '{former}'", f"Write {former}.")
        values["type"] = former
    if not isinstance(values.get("aliases", []), (list, tuple)):
        report.error(draft.at("aliases"), f"{report.shown(values.pop('aliases'))} is not a list", _RIGHT["aliases"])
    if "qos_retries" in draft.values:
        values["retries"] = values.pop("qos_retries", 0)
        values["retry_countdown"] = 0.5
    else:
        values["retries"], values["retry_countdown"] = retries, countdown
    try:
        model_type: ModelType | None = ModelType(values.get("type"))
    except ValueError:
        model_type = None
    enforced = "qos_retries" not in draft.values or draft.values["qos_retries"] is not None
    providers = [_provider(item, draft, model_type, found, report, enforced) for item in draft.providers]
    values["providers"] = tuple(provider for provider in providers if provider is not None)
    values["dialect"] = draft.dialect
    paths = {**draft.paths, "retries": draft.at("qos_retries")}
    model = _validate(Model, values, draft.path, paths, report)
    if not isinstance(model, Model) or len(model.providers) < len(draft.providers) or not model.providers:
        return None
    _consistent(model, draft, report)
    return model


def _consistent(model: Model, draft: ModelDraft, report: Report) -> None:
    sizes = {provider.vector_size for provider in model.providers if provider.vector_size}
    if len(sizes) > 1:
        report.error(draft.path, "its providers have different vector sizes", "Put them behind models of their own.")
    if all(provider.closed for provider in model.providers):
        report.warn(draft.path, "every provider is closed (qos_limit 0): each request gets 503", "Open at least one.")


def _provider(
    draft: ProviderDraft,
    model: ModelDraft,
    model_type: ModelType | None,
    found: Interpolation,
    report: Report,
    enforced: bool,
) -> Provider | None:
    values = {name: value for name, value in draft.values.items() if value is not None}
    if model.dialect == "D0":
        tei = model_type in {ModelType.TEXT_EMBEDDINGS_INFERENCE, ModelType.TEXT_CLASSIFICATION}
        values["type"] = ProviderType.TEI if tei else ProviderType.VLLM
    elif "model_name" not in values:
        report.error(draft.path, "`model_name` is missing", _RIGHT["model_name"])
        values["model_name"] = "missing"
    before = len(report.problems)
    _key(values, draft, found, report)
    _auth(values, draft, report)
    if "basic_auth" in values and model_type is ModelType.AUTOMATIC_SPEECH_RECOGNITION:
        what = "LiteLLM sends no header of ours with transcriptions: there, basic_auth only works with ModelRouter"
        report.warn(draft.at("basic_auth"), what, "Give the server a key for LiteLLM.")
    _qos(values, draft, report)
    for one, other in (("total_params", "active_params"), ("active_params", "total_params")):
        if one not in values and other in values:
            values[one] = values[other]  # as the API: each fills in the other
            draft.paths[one] = draft.at(other)
    if isinstance(values.get("url"), str) and not str(values["url"]).strip():
        del values["url"]
    url = str(values.get("url", ""))
    if url.rstrip("/").endswith("/v1") and not draft.has("args.base_url", "base_url") and model.dialect != "D0":
        report.warn(draft.at("url"), "the URL ends with /v1, which is added anyway", "Leave /v1 out here.")
    values["qos_enforced"] = enforced and values.pop("qos_enforced", True)
    provider = _validate(Provider, values, draft.path, draft.paths, report)
    if not isinstance(provider, Provider):
        return None
    if not provider.url:
        known = " and ".join(sorted(kind.value for kind in DEFAULT_URLS))
        report.error(draft.path, f"`url` is missing; only {known} have a default", _RIGHT["url"])
    if model_type is not None and provider.type not in SERVING_PROVIDERS[model_type]:
        kinds = ", ".join(sorted(kind.value for kind in SERVING_PROVIDERS[model_type]))
        report.error(
            draft.at("type"),
            f"a provider of type '{provider.type.value}' cannot serve a model of type '{model_type.value}'",
            f"Use one of: {kinds}.",
        )
    return provider if len(report.problems) == before else None


def _key(values: dict[str, Any], draft: ProviderDraft, found: Interpolation, report: Report) -> None:
    key = values.pop("key", None)
    path = draft.at("key")
    default = found.defaulted.get(path)
    if key in (None, "", "EMPTY"):
        if key == "EMPTY" and default is not None:
            values["key"] = Secret(value=SecretStr("EMPTY"), variable=default, default=True)
        return
    if not isinstance(key, str):
        kind = "a number" if isinstance(key, (int, float)) else report.shown(key)
        report.error(path, f"{kind} where text is needed", "Put the key in quotes, or in a variable: ${NAME}.")
        return
    if any(ord(char) < 33 or ord(char) > 126 for char in key):
        right = "An HTTP header cannot carry it: use printable ASCII without blanks."
        report.error(path, "a key with blanks, line breaks or non-ASCII characters in it", right)
        return
    variable = found.names.get(path, default)
    values["key"] = Secret(
        value=SecretStr(key), variable=variable, default=default is not None, mixed=path in found.mixed
    )


def _auth(values: dict[str, Any], draft: ProviderDraft, report: Report) -> None:
    auth = values.pop("basic_auth", None)
    if auth is None:
        return
    path = draft.at("basic_auth")
    if not isinstance(auth, Mapping):
        report.error(path, f"{report.shown(auth)} is not a mapping", _RIGHT["basic_auth"])
        return
    paths = {name: (*path, name) for name in auth}
    known = {name: value for name, value in auth.items() if name in {"username", "password"}}
    for name in auth:
        if name not in known:
            report.unknown_key(path, name, ("username", "password"))
    checked = _validate(BasicAuth, known, path, paths, report)
    if checked is None:
        return
    values["basic_auth"] = checked
    if "key" in values:
        report.warn(path, "a key and basic_auth use the same header; basic_auth is sent", "Keep one of the two.")


def _qos(values: dict[str, Any], draft: ProviderDraft, report: Report) -> None:
    """Bring D4's policy words down to a metric and a limit."""
    policy = values.pop("qos_policy", None)
    parallel = values.pop("max_parallel_requests", None)
    threshold = values.pop("performance_threshold", None)
    if policy is not None and policy not in _POLICIES:
        report.error(
            draft.at("qos_policy"),
            f"{report.shown(policy)} is no policy{_guess(policy, _POLICIES)}",
            _one_of(_POLICIES),
        )
        return
    if "qos_limit" in values and "qos_metric" not in values and policy is None:
        report.warn(draft.at("qos_limit"), "a limit without `qos_metric` is read as inflight", "Add `qos_metric`.")
        values["qos_metric"] = Metric.INFLIGHT.value
    if "qos_metric" in values and ("qos_limit" in values or policy is None):
        if parallel is not None or threshold is not None:
            extra = "max_parallel_requests" if parallel is not None else "performance_threshold"
            report.warn(draft.at(extra), "`qos_metric` decides; this older key is not read", "Remove it.")
        _unit(values, draft, report)
        return
    if policy is None and parallel is not None:
        report.warn(
            draft.at("max_parallel_requests"),
            "no `qos_policy` says what to do with it; it is enforced",
            "Write `qos_metric: inflight` and `qos_limit` instead.",
        )
        policy = "parallel-requests-threshold"
    if policy == "warning-log" or policy is None:
        values["qos_enforced"] = False
        policy = "parallel-requests-threshold" if parallel is not None else "performance-threshold"
    name, limit = (
        ("max_parallel_requests", parallel)
        if policy == "parallel-requests-threshold"
        else ("performance_threshold", threshold)
    )
    if limit is not None:
        metric = Metric.INFLIGHT if name == "max_parallel_requests" else Metric.PERFORMANCE
        values["qos_metric"], values["qos_limit"] = metric.value, limit
        draft.paths["qos_limit"] = draft.at(name)
    elif "qos_policy" in draft.paths and values.get("qos_enforced", True):
        report.error(draft.at("qos_policy"), f"'{policy}' needs `{name}`", f"Add `{name}:` with a number.")


def _unit(values: dict[str, Any], draft: ProviderDraft, report: Report) -> None:
    limit = values.get("qos_limit")
    timed = values.get("qos_metric") in (Metric.TTFT.value, Metric.LATENCY.value)
    if timed and isinstance(limit, (int, float)) and 0 < limit < 10:
        report.warn(draft.at("qos_limit"), f"{limit} is read as milliseconds", "Multiply by 1000 if you meant seconds.")


def _waiting(report: Report) -> tuple[int, float]:
    """Retries and seconds between them when every provider is at its limit, from the file's `settings`."""
    data = report.document.data
    settings = data.get("settings") if isinstance(data.get("settings"), Mapping) else {}
    dependencies = data.get("dependencies") if isinstance(data.get("dependencies"), Mapping) else {}
    assert isinstance(settings, Mapping)
    assert isinstance(dependencies, Mapping)
    # What OpenGateLLM waits by default once a queue is configured: 120 x 1 s with D4's keys, 3 x 3 s later.
    defaults = (0, 0.0)
    if any(str(key).startswith("celery_") for key in settings):
        defaults = (120, 1.0)
    elif dependencies.get("celery") is not None or any(key in settings for key, *_ in spellings.SETTINGS.values()):
        defaults = (3, 3.0)
    values: list[float] = []
    for name, default in zip(("retries", "countdown"), defaults, strict=True):
        value: Any = default
        for key in spellings.SETTINGS[name]:
            if settings.get(key) is None:
                continue
            value = settings[key]
            try:
                value = None if isinstance(value, bool) else float(value)
            except (TypeError, ValueError):
                value = None
            if value is None or not 0 <= value < 1e6 or (name == "retries" and value != int(value)):
                right = "Write a whole number." if name == "retries" else "Write seconds, 0 or more."
                report.error(("settings", key), f"{report.shown(settings[key])} cannot be used here", right)
                value = default
            break
        values.append(value)
    return int(values[0]), float(values[1])


def _validate(
    kind: type[BaseModel],
    values: Mapping[str, Any],
    path: PathKey,
    paths: Mapping[str, PathKey],
    report: Report,
) -> BaseModel | None:
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False, include_context=True):
            _explain(kind, dict(item), values, path, paths, report)
    return None


def _explain(
    part: type[BaseModel],
    item: dict[str, Any],
    values: Mapping[str, Any],
    path: PathKey,
    paths: Mapping[str, PathKey],
    report: Report,
) -> None:
    """One pydantic finding in the words of the file."""
    loc = item["loc"]
    name, rest = str(loc[0]), tuple(loc[1:])
    at = (*paths.get(name, path), *(rest if name == "aliases" else ()))
    kind = item["type"]
    right = _RIGHT.get(name, "")
    value = values.get(name)
    if rest and isinstance(value, (list, tuple)) and isinstance(rest[0], int) and rest[0] < len(value):
        value = value[rest[0]]
    if kind == "missing":
        label = {"id": "name"}.get(name, name)
        report.error(path, f"`{label}` is missing", right or _one_of(_choices(part, name)))
    elif kind == "enum":
        choices = _choices(part, name)
        word = "metric" if name == "qos_metric" else ("model type" if part is Model else "provider type")
        report.error(at, f"{report.shown(value)} is no {word}{_guess(value, choices)}", _one_of(choices))
    elif kind == "strategy":
        from fast_router.engine.strategies import known_strategies  # noqa: PLC0415 - only for this message

        names = ["shuffle", *known_strategies()]
        report.error(at, f"{report.shown(value)} is no strategy{_guess(value, names)}", _one_of(names))
    elif kind == "string_type":
        word = "a number" if isinstance(value, (int, float)) and not isinstance(value, bool) else report.shown(value)
        report.error(at, f"{word} where text is needed", f"Put it in quotes. {right}".strip())
    elif kind in {"url", "url_secret", "finite_number", "number", "empty", "name"}:
        if kind == "url_secret":
            right = "Leave them out of the URL and write `basic_auth:` with `username` and `password`."
        report.error(at, str(item["msg"]), right)
    elif kind == "string_too_long":
        report.error(at, f"longer than {item['ctx']['max_length']} characters", right)
    elif kind == "string_too_short":
        report.error(at, "empty", right)
    elif kind in {"greater_than", "greater_than_equal"}:
        report.error(at, f"{report.shown(value)} is too small", right)
    else:
        report.error(at, f"{report.shown(value)} cannot be used here", right)


def _choices(part: type[BaseModel], name: str) -> list[str]:
    if name == "qos_metric":
        return [metric.value for metric in Metric]
    return [kind.value for kind in (ModelType if part is Model else ProviderType)]


def _guess(value: object, known: Iterable[str]) -> str:
    question = did_you_mean(value, sorted(known))
    return f"; {question}" if question else ""


def _one_of(known: Iterable[str]) -> str:
    return f"One of: {', '.join(known)}."
