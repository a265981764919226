"""The Albert API's documented answers inside the LiteLLM proxy: 404 Model not found, 422 Wrong model type.

LiteLLM's proxy answers 400 for a model that it does not know. Its public pre-call hook runs before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger

from .endpoints import ENDPOINT_TYPES, Endpoint, ModelType

if TYPE_CHECKING:
    from .config import AlbertConfig

__all__ = ["AlbertAnswers"]

_ENDPOINTS = {
    "completion": Endpoint.CHAT_COMPLETIONS,
    "acompletion": Endpoint.CHAT_COMPLETIONS,
    "embeddings": Endpoint.EMBEDDINGS,
    "aembedding": Endpoint.EMBEDDINGS,
    "audio_transcription": Endpoint.AUDIO_TRANSCRIPTIONS,
    "atranscription": Endpoint.AUDIO_TRANSCRIPTIONS,
    "rerank": Endpoint.RERANK,
    "arerank": Endpoint.RERANK,
    "ocr": Endpoint.OCR,
    "aocr": Endpoint.OCR,
}


class AlbertAnswers(CustomLogger):  # type: ignore[misc]
    """Answers as the Albert API documents it before LiteLLM's proxy does otherwise.

    Args:
        config: The configuration in use, None if only LiteLLM's router knows the models.
    """

    def __init__(self, config: AlbertConfig | None) -> None:
        super().__init__()
        self.config = config

    async def async_pre_call_hook(
        self,
        user_api_key_dict: Any,  # noqa: ARG002 - LiteLLM's signature
        cache: Any,  # noqa: ARG002
        data: dict[str, Any],
        call_type: str,
    ) -> None:
        """Refuse unknown models and wrong types.

        Raises:
            HTTPException: 404 or 422 (400 where the model's dialect documents it).
        """
        name = data.get("model")
        if not isinstance(name, str) or not name:
            return
        kind, dialect = self._type_of(name)
        if kind is None:
            if not _known_to_litellm(name):
                raise HTTPException(status_code=404, detail="Model not found")
            return
        endpoint = _ENDPOINTS.get(str(call_type))
        if endpoint is not None and kind not in ENDPOINT_TYPES[endpoint]:
            status = 400 if dialect in {"D3b", "D6"} else 422
            raise HTTPException(status_code=status, detail=f"Wrong model type: {name} is {kind.value}")

    def _type_of(self, name: str) -> tuple[ModelType | None, str]:
        for model in self.config.models if self.config is not None else ():
            if name == model.id or name in model.aliases:
                return model.type, model.dialect
        return None, ""


def _known_to_litellm(name: str) -> bool:
    """Whether LiteLLM's router would find a deployment: by name, alias, id or pattern."""
    from litellm.proxy import proxy_server  # noqa: PLC0415

    router = proxy_server.llm_router
    if router is None:
        return True
    return bool(
        name in router.get_model_names()
        or name in (router.model_group_alias or {})
        or router.has_model_id(name)
        or router.pattern_router.patterns
    )
