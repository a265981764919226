"""What a request says that a strategy wants to know: its tokens, its session, its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fast_router.engine import Ask

__all__ = ["ask_of", "count_tokens"]


def count_tokens(messages: Any, text: Any) -> float:
    """The tokens of a prompt, as LiteLLM's strategies count them."""
    import litellm  # noqa: PLC0415 - it is imported: its Router asks

    try:
        return float(litellm.token_counter(messages=messages, text=text))
    except Exception:  # noqa: BLE001 - LiteLLM takes a prompt that cannot be counted for an empty one
        return 0.0


def ask_of(strategy: str, request_kwargs: Mapping[str, Any], prompt: tuple[Any, Any], *, counts: bool) -> Ask | None:
    """What a strategy needs to know about a request, None if there is nothing.

    Args:
        strategy: Its canonical name.
        request_kwargs: The request as LiteLLM's selection gets it.
        prompt: Its messages and its input; one of them is None.
        counts: Whether its tokens matter, because a candidate has a tokens/minute limit.
    """
    tokens = count_tokens(*prompt) if counts else 0.0
    stream = request_kwargs.get("stream") is True
    key = None
    if strategy.endswith("_affinity"):
        key = _text_of(prompt) if strategy.startswith("prefix") else _session_of(request_kwargs)
    return Ask((), tokens, stream, key) if tokens or stream or key is not None else None


def _session_of(request_kwargs: Mapping[str, Any]) -> str | None:
    """What names a session, the most particular first: LiteLLM's own words for it, then OpenAI's."""
    places: list[tuple[Any, str]] = [(request_kwargs, "litellm_session_id")]
    for bucket in (request_kwargs.get("litellm_metadata"), request_kwargs.get("metadata")):
        places += [(bucket, "session_id"), (bucket, "litellm_session_id")]
    places += [(request_kwargs, "prompt_cache_key"), (request_kwargs, "user"), (request_kwargs, "safety_identifier")]
    for place, word in places:
        value = place.get(word) if isinstance(place, Mapping) else None
        if isinstance(value, str) and value:
            return value
    return None


def _text_of(prompt: tuple[Any, Any]) -> str | None:
    """The prompt as one text, in the order in which a server's cache would see it."""
    messages, text = prompt
    if isinstance(text, str):
        return text or None
    parts: list[str] = []
    for message in messages if isinstance(messages, (list, tuple)) else text if isinstance(text, list) else ():
        content = message.get("content") if isinstance(message, Mapping) else message
        parts.append(str(message.get("role", "")) if isinstance(message, Mapping) else "")
        pieces = content if isinstance(content, list) else [content]
        parts += [piece.get("text", "") if isinstance(piece, Mapping) else str(piece or "") for piece in pieces]
    return "\n".join(part for part in parts if isinstance(part, str)) or None
