"""Ready-made shapes: which paths an upstream of a kind serves, and in which wire format."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from fast_router.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SHAPES", "Answer", "Shape", "shape"]

Answer = Literal[
    "chat",
    "completion",
    "responses",
    "embeddings",
    "rerank",
    "rerank_tei",
    "rerank_albert",
    "transcription",
    "speech",
    "image",
    "moderation",
    "ocr",
]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a kind of server looks like from outside.

    Attributes:
        name: Its name.
        posts: Answer format by path, for POST.
        info: Whether GET /info answers like Text Embeddings Inference.
        models: Whether GET /v1/models is there.
        metrics: Prefix of the Prometheus gauges at /metrics ("vllm", "tei"), None if there is no such page.
        max_model_len: Context window that /v1/models reports, in tokens, None if the kind does not report it.
        busy_status: Status of "too busy" (queue full).
        busy_message: Its message.
        busy_retry_after: Its Retry-After in seconds unless ordered otherwise, None for none.
    """

    name: str
    posts: Mapping[str, Answer]
    info: bool = False
    models: bool = True
    metrics: str | None = None
    max_model_len: int | None = None
    busy_status: int = 503
    busy_message: str = "The server is overloaded, please try again later."
    busy_retry_after: int | None = None


_CHAT: dict[str, Answer] = {"/v1/chat/completions": "chat"}
_TEXT: dict[str, Answer] = {"/v1/completions": "completion"}
_EMBED: dict[str, Answer] = {"/v1/embeddings": "embeddings"}
_RESPONSES: dict[str, Answer] = {"/v1/responses": "responses"}
_LISTEN: dict[str, Answer] = {"/v1/audio/transcriptions": "transcription"}
_RERANK: dict[str, Answer] = {"/rerank": "rerank", "/v1/rerank": "rerank", "/v2/rerank": "rerank"}

SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        one.name: one
        for one in (
            Shape(
                "openai",
                _CHAT
                | _TEXT
                | _EMBED
                | _RESPONSES
                | _LISTEN
                | {
                    "/v1/audio/speech": "speech",
                    "/v1/images/generations": "image",
                    "/v1/images/edits": "image",
                    "/v1/moderations": "moderation",
                },
            ),
            Shape(
                "vllm",
                _CHAT | _TEXT | _EMBED | _RESPONSES | _LISTEN | _RERANK,
                metrics="vllm",
                max_model_len=32_768,
            ),
            Shape("tei", _EMBED | {"/rerank": "rerank_tei"}, info=True, models=False, metrics="tei"),
            Shape("mistral", _CHAT | _EMBED | _LISTEN | {"/v1/ocr": "ocr"}),
            Shape(
                "albert",
                _CHAT | _TEXT | _EMBED | _LISTEN | {"/v1/rerank": "rerank_albert", "/v1/ocr": "ocr"},
                max_model_len=32_768,
                busy_message="Model is too busy, please try again later.",
                busy_retry_after=10,
            ),
        )
    }
)


def shape(name: str) -> Shape:
    """Return the shape of this name.

    Raises:
        ConfigurationError: There is none; the message lists those there are.
    """
    try:
        return SHAPES[name]
    except KeyError:
        raise ConfigurationError(f"unknown upstream shape {name!r}; known: {', '.join(SHAPES)}") from None
