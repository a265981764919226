"""From models to LiteLLM: `model_list`, Router arguments and a proxy's YAML.

One provider becomes one deployment. Which LiteLLM provider speaks a server's protocol depends on both ends: TEI
embeds through its OpenAI-compatible path and reranks in a shape of its own, which LiteLLM knows as Hugging Face's.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from fast_router.litellm_plugin.strategy_names import LITELLM

from .endpoints import LITELLM_MODES, ModelType, ProviderType
from .errors import AlbertConfigError, Problem
from .schema import Metric, Model, Provider

__all__ = ["litellm_params", "model_list", "proxy_config", "qos_limit", "router_kwargs"]

NO_KEY = "EMPTY"
"""What a server without a key is sent; LiteLLM and the openai client insist on a value."""


def model_list(models: Iterable[Model], *, references: bool = False, elsewhere: bool = False) -> list[dict[str, Any]]:
    """One LiteLLM deployment per provider.

    Args:
        models: Checked models.
        references: ``os.environ/NAME`` for keys that came from a variable, instead of the keys.
        elsewhere: The list is for a process with other variables: those that have only a default here stay, too.
    """
    entries: list[dict[str, Any]] = []
    for model in models:
        seen: dict[str, int] = {}
        for provider in model.providers:
            identity = _identity(model, provider)
            seen[identity] = seen.get(identity, 0) + 1
            entries.append(
                {
                    "model_name": model.id,
                    "litellm_params": litellm_params(model, provider, references=references, elsewhere=elsewhere),
                    "model_info": _model_info(model, provider, f"{identity}-{seen[identity]}"),
                }
            )
    return entries


def router_kwargs(models: Sequence[Model]) -> dict[str, Any]:
    """Keyword arguments for ``litellm.Router``.

    ``routing_strategy`` is LiteLLM's own name if all models share a strategy that LiteLLM has, else simple-shuffle;
    fast_router follows each model's own strategy, which stands in its ``model_info``.
    """
    kwargs: dict[str, Any] = {"model_list": model_list(models), "routing_strategy": _strategy(models)}
    aliases = _aliases(models)
    if aliases:
        kwargs["model_group_alias"] = aliases
    return kwargs


def proxy_config(
    models: Sequence[Model], *, references: bool, source: str, allow_mixed: bool = False
) -> dict[str, Any]:
    """The content of a LiteLLM proxy YAML.

    Args:
        models: Checked models.
        references: ``os.environ/NAME`` for keys that came from a variable.
        source: The file's name, for messages.
        allow_mixed: Write a key that only partly comes from a variable (for a private file).

    Raises:
        AlbertConfigError: With `references`, such a key, unless it is allowed.
    """
    if references and not allow_mixed:
        _refuse_mixed(models, source)
    router: dict[str, Any] = {"routing_strategy": _strategy(models)}
    aliases = _aliases(models)
    if aliases:
        router["model_group_alias"] = aliases
    # A private file is for this very process, and a published one for another.
    listed = model_list(models, references=references, elsewhere=not allow_mixed)
    return {"model_list": listed, "router_settings": router}


def _refuse_mixed(models: Iterable[Model], source: str) -> None:
    problems = [
        Problem(
            f"{model.id}, provider {index + 1}",
            "its key is made of text and variables, so it cannot be written without writing the secret",
            "Put the whole key into one variable: `key: ${NAME}`.",
        )
        for model in models
        for index, provider in enumerate(model.providers)
        if provider.key is not None and provider.key.mixed
    ]
    if problems:
        raise AlbertConfigError(source, problems)


def _aliases(models: Iterable[Model]) -> dict[str, str]:
    return {alias: model.id for model in models for alias in model.aliases}


def _strategy(models: Iterable[Model]) -> str:
    names = {model.strategy for model in models}
    return LITELLM.get(names.pop(), "simple-shuffle") if len(names) == 1 else "simple-shuffle"


def litellm_params(
    model: Model, provider: Provider, *, references: bool = False, elsewhere: bool = False
) -> dict[str, Any]:
    """How LiteLLM reaches `provider`: provider prefix, base, key, timeout, prices and limits."""
    prefix, base = _route(model.type, provider)
    params: dict[str, Any] = {
        "model": f"{prefix}/{provider.model_name}",
        "api_base": base,
        "api_key": _key(provider, references=references, elsewhere=elsewhere),
        "timeout": provider.timeout,
    }
    costs = model.costs(provider)
    if costs is not None:
        # Where the file says nothing, LiteLLM's own price list may.
        params["input_cost_per_token"], params["output_cost_per_token"] = (cost / 1_000_000 for cost in costs)
    if provider.basic_auth is not None:
        # LiteLLM's rerank reads `headers` alone, its other calls send both: whichever of them a caller has something
        # of their own for, and so puts in the place of ours, the other one still carries it.
        params["headers"] = {"Authorization": basic_header(provider)}
        if model.type is not ModelType.TEXT_CLASSIFICATION:
            params["extra_headers"] = {"Authorization": basic_header(provider)}
    parallel = provider.max_parallel_requests
    if parallel:
        params["max_parallel_requests"] = parallel
    return params


def basic_header(provider: Provider) -> str:
    """The Authorization header of a provider behind HTTP basic authentication."""
    auth = provider.basic_auth
    assert auth is not None
    pair = f"{auth.username}:{auth.password.get_secret_value()}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")


def _route(kind: ModelType, provider: Provider) -> tuple[str, str]:
    """LiteLLM's provider name and the api_base that it wants."""
    base = f"{provider.url}/v1"
    rerank = kind is ModelType.TEXT_CLASSIFICATION
    generates = kind not in {ModelType.TEXT_CLASSIFICATION, ModelType.IMAGE_TO_TEXT}
    if provider.basic_auth is not None and generates:
        return "openai", base  # the one provider of LiteLLM that lets a header of ours replace its own
    if provider.type is ProviderType.VLLM:
        return "hosted_vllm", base
    if provider.type is ProviderType.MISTRAL:
        return "mistral", base
    if provider.type is ProviderType.TEI and rerank:
        return "huggingface", provider.url  # {query, texts} in, [{index, score}] out, at /rerank
    if provider.type is ProviderType.ALBERT and rerank:
        return "hosted_vllm", base  # {query, documents} in, {results} out, at /v1/rerank
    return "openai", base


def _key(provider: Provider, *, references: bool, elsewhere: bool) -> str:
    if provider.key is None:
        return NO_KEY
    if references and provider.key.variable and (elsewhere or not provider.key.default):
        return f"os.environ/{provider.key.variable}"
    return provider.key.value.get_secret_value()


def _identity(model: Model, provider: Provider) -> str:
    """A name for a deployment that stays the same when other entries come and go."""
    said = "\n".join((model.id, provider.type.value, provider.url, provider.model_name or ""))
    return f"albert-{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def qos_limit(provider: Provider) -> tuple[str, float] | None:
    """Metric and limit as the engine enforces them: requests for inflight, else seconds; None for no limit."""
    if provider.closed:
        return Metric.INFLIGHT.value, 0.0
    if provider.qos_metric is None or provider.qos_limit is None or not provider.qos_enforced:
        return None
    if provider.qos_metric is Metric.INFLIGHT:
        return Metric.INFLIGHT.value, float(int(provider.qos_limit))
    return provider.qos_metric.value, provider.qos_limit / 1000.0


def _model_info(model: Model, provider: Provider, identity: str) -> dict[str, Any]:
    info: dict[str, Any] = {
        "id": identity,
        "mode": LITELLM_MODES[model.type],
        "fast_router": _for_engine(model, provider),
        "albert": {
            "type": model.type.value,
            "owned_by": model.owned_by,
            "aliases": list(model.aliases),
            "provider_type": provider.type.value,
            "hosting_zone": provider.hosting_zone,
            "total_params": provider.total_params,
            "active_params": provider.active_params,
        },
    }
    length = model.context_length
    if length is not None:
        info["max_input_tokens"] = length
        info["albert"]["max_context_length"] = length
    if model.vector_size or provider.vector_size:
        info["output_vector_size"] = model.vector_size or provider.vector_size
    if provider.closed:
        info["blocked"] = True  # LiteLLM's own word for a deployment that takes no requests
    return info


def _for_engine(model: Model, provider: Provider) -> dict[str, Any]:
    said: dict[str, Any] = {"strategy": model.strategy}
    if model.aliases:
        said["aliases"] = list(model.aliases)
    limit = qos_limit(provider)
    if limit is not None:
        said["qos_metric"], said["qos_limit"] = limit
        said["retries"] = model.retries
        said["retry_countdown"] = model.retry_countdown
    return said
