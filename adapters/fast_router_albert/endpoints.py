"""Endpoints, model types and provider types: who serves what, and under which path.

The tables carry over facts of the Albert API and OpenGateLLM: which endpoint needs which type of model, which
kind of server may stand behind a type, and each kind's path for an endpoint (None: it has no such endpoint).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

__all__ = [
    "DEFAULT_URLS",
    "ENDPOINT_TABLES",
    "ENDPOINT_TYPES",
    "LITELLM_MODES",
    "SERVING_PROVIDERS",
    "Endpoint",
    "ModelType",
    "ProviderType",
    "endpoint_of",
]


class ModelType(str, Enum):
    """What a model does, in the API's words (Hugging Face task names)."""

    TEXT_GENERATION = "text-generation"
    IMAGE_TEXT_TO_TEXT = "image-text-to-text"
    TEXT_EMBEDDINGS_INFERENCE = "text-embeddings-inference"
    TEXT_CLASSIFICATION = "text-classification"
    AUTOMATIC_SPEECH_RECOGNITION = "automatic-speech-recognition"
    IMAGE_TO_TEXT = "image-to-text"


class ProviderType(str, Enum):
    """What kind of server stands behind a provider."""

    ALBERT = "albert"
    MISTRAL = "mistral"
    OPENAI = "openai"
    TEI = "tei"
    VLLM = "vllm"


class Endpoint(str, Enum):
    """An endpoint of the API, spelled without /v1."""

    AUDIO_TRANSCRIPTIONS = "audio/transcriptions"
    CHAT_COMPLETIONS = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    MODELS = "models"
    OCR = "ocr"
    RERANK = "rerank"


_SHORT = MappingProxyType(
    {
        "audio": Endpoint.AUDIO_TRANSCRIPTIONS,
        "transcriptions": Endpoint.AUDIO_TRANSCRIPTIONS,
        "chat": Endpoint.CHAT_COMPLETIONS,
        "embedding": Endpoint.EMBEDDINGS,
        "ocr-beta": Endpoint.OCR,
        "reranks": Endpoint.RERANK,
    }
)


def endpoint_of(text: str | Endpoint) -> Endpoint:
    """The endpoint that `text` names: ``chat/completions``, ``/chat/completions`` and ``/v1/chat/completions`` alike.

    Raises:
        ValueError: No endpoint has this name; the message lists those there are.
    """
    if isinstance(text, Endpoint):
        return text
    name = text.strip().strip("/").lower()
    if name == "v1" or name.startswith(("v1/", "v2/")):
        name = name[3:]
    name = name.replace("_", "/") if "/" not in name else name
    try:
        return _SHORT.get(name) or Endpoint(name)
    except ValueError:
        known = ", ".join(f"/v1/{endpoint.value}" for endpoint in Endpoint)
        raise ValueError(f"unknown endpoint {text[:64]!r}; known: {known}") from None


ENDPOINT_TYPES: Mapping[Endpoint, frozenset[ModelType]] = MappingProxyType(
    {
        Endpoint.AUDIO_TRANSCRIPTIONS: frozenset({ModelType.AUTOMATIC_SPEECH_RECOGNITION}),
        Endpoint.CHAT_COMPLETIONS: frozenset({ModelType.TEXT_GENERATION, ModelType.IMAGE_TEXT_TO_TEXT}),
        Endpoint.COMPLETIONS: frozenset({ModelType.TEXT_GENERATION, ModelType.IMAGE_TEXT_TO_TEXT}),
        Endpoint.EMBEDDINGS: frozenset({ModelType.TEXT_EMBEDDINGS_INFERENCE}),
        Endpoint.MODELS: frozenset(ModelType),
        # image-to-text is the newer dialects' type for it; before, OCR was asked of multimodal models.
        Endpoint.OCR: frozenset({ModelType.IMAGE_TO_TEXT, ModelType.IMAGE_TEXT_TO_TEXT}),
        Endpoint.RERANK: frozenset({ModelType.TEXT_CLASSIFICATION}),
    }
)
"""Endpoint → model types that may serve it."""

_GENERATION = frozenset({ProviderType.ALBERT, ProviderType.MISTRAL, ProviderType.OPENAI, ProviderType.VLLM})

SERVING_PROVIDERS: Mapping[ModelType, frozenset[ProviderType]] = MappingProxyType(
    {
        ModelType.TEXT_GENERATION: _GENERATION,
        ModelType.IMAGE_TEXT_TO_TEXT: _GENERATION,
        ModelType.AUTOMATIC_SPEECH_RECOGNITION: _GENERATION,
        ModelType.TEXT_EMBEDDINGS_INFERENCE: frozenset(ProviderType),
        ModelType.TEXT_CLASSIFICATION: frozenset({ProviderType.ALBERT, ProviderType.TEI, ProviderType.VLLM}),
        ModelType.IMAGE_TO_TEXT: frozenset({ProviderType.MISTRAL}),
    }
)
"""Model type → provider types that may serve it (the newest dialects' table, which contains the older ones')."""

_OPENAI_PATHS: dict[Endpoint, str | None] = {
    Endpoint.AUDIO_TRANSCRIPTIONS: "/v1/audio/transcriptions",
    Endpoint.CHAT_COMPLETIONS: "/v1/chat/completions",
    Endpoint.COMPLETIONS: "/v1/completions",
    Endpoint.EMBEDDINGS: "/v1/embeddings",
    Endpoint.MODELS: "/v1/models",
    Endpoint.OCR: "/v1/chat/completions",
    Endpoint.RERANK: None,
}

ENDPOINT_TABLES: Mapping[ProviderType, Mapping[Endpoint, str | None]] = MappingProxyType(
    {
        ProviderType.OPENAI: MappingProxyType(_OPENAI_PATHS),
        ProviderType.ALBERT: MappingProxyType({**_OPENAI_PATHS, Endpoint.RERANK: "/v1/rerank"}),
        # OpenGateLLM has "/v2/reranks", a path that vLLM does not serve.
        ProviderType.VLLM: MappingProxyType(
            {**_OPENAI_PATHS, Endpoint.COMPLETIONS: None, Endpoint.RERANK: "/v1/rerank"}
        ),
        ProviderType.TEI: MappingProxyType(
            {
                **dict.fromkeys(Endpoint),
                Endpoint.EMBEDDINGS: "/v1/embeddings",
                Endpoint.MODELS: "/info",
                Endpoint.RERANK: "/rerank",
            }
        ),
        ProviderType.MISTRAL: MappingProxyType({**_OPENAI_PATHS, Endpoint.COMPLETIONS: None, Endpoint.OCR: "/v1/ocr"}),
    }
)
"""Provider type → endpoint → path after the provider's URL; None: refused."""

DEFAULT_URLS: Mapping[ProviderType, str] = MappingProxyType(
    {
        ProviderType.ALBERT: "https://albert.api.etalab.gouv.fr",
        ProviderType.OPENAI: "https://api.openai.com",
        # OpenGateLLM sends mistral providers without a URL to the albert address; that is a defect of it.
        ProviderType.MISTRAL: "https://api.mistral.ai",
    }
)
"""The URL of a provider that gives none; tei and vllm have no default."""

LITELLM_MODES: Mapping[ModelType, str] = MappingProxyType(
    {
        ModelType.TEXT_GENERATION: "chat",
        ModelType.IMAGE_TEXT_TO_TEXT: "chat",
        ModelType.TEXT_EMBEDDINGS_INFERENCE: "embedding",
        ModelType.TEXT_CLASSIFICATION: "rerank",
        ModelType.AUTOMATIC_SPEECH_RECOGNITION: "audio_transcription",
        ModelType.IMAGE_TO_TEXT: "ocr",
    }
)
"""Model type → LiteLLM's ``model_info.mode``."""
