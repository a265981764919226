"""The Albert API and OpenGateLLM on LiteLLM: their configuration files, and their objects.

``load_config("config.yml").model_list`` is a LiteLLM model list, whatever dialect the file is written in.
`ModelRegistry` gives the Albert API's own objects on top of the same configuration.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .config import AlbertConfig, load_config
from .errors import (
    AlbertConfigError,
    EndpointNotServedError,
    ModelBusyError,
    ModelNotFoundError,
    Problem,
    ProviderAnswerError,
    ProviderNotReachableError,
    ProviderTimeoutError,
    RequestFormatError,
    ResponseFormatError,
    WrongModelTypeError,
)

if TYPE_CHECKING:
    from .clients import (
        AlbertModelClient,
        AlbertModelProvider,
        MistralModelClient,
        MistralModelProvider,
        ModelClient,
        ModelProvider,
        OpenAIModelClient,
        OpenAIModelProvider,
        TeiModelClient,
        TeiModelProvider,
        VllmModelClient,
        VllmModelProvider,
    )
    from .model_router import ModelRouter
    from .registry import ModelCard, ModelRegistry

__all__ = [
    "AlbertConfig",
    "AlbertConfigError",
    "AlbertModelClient",
    "AlbertModelProvider",
    "EndpointNotServedError",
    "MistralModelClient",
    "MistralModelProvider",
    "ModelBusyError",
    "ModelCard",
    "ModelClient",
    "ModelNotFoundError",
    "ModelProvider",
    "ModelRegistry",
    "ModelRouter",
    "OpenAIModelClient",
    "OpenAIModelProvider",
    "Problem",
    "ProviderAnswerError",
    "ProviderNotReachableError",
    "ProviderTimeoutError",
    "RequestFormatError",
    "ResponseFormatError",
    "TeiModelClient",
    "TeiModelProvider",
    "VllmModelClient",
    "VllmModelProvider",
    "WrongModelTypeError",
    "load_config",
]

# Whoever only reads a file does not wait for the openai package to be imported.
_LATE = {"ModelRouter": "model_router", "ModelCard": "registry", "ModelRegistry": "registry"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_LATE.get(name, 'clients')}", __name__), name)
    globals()[name] = value
    return value
