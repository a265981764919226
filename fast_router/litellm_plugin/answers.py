"""What LiteLLM's answers say of themselves: their tokens, and whether they come from its cache."""

from __future__ import annotations

from typing import Any

from fast_router.engine.token_counts import counted

__all__ = ["cached_of", "is_cache_hit", "says_usage", "usage_of"]


def usage_of(response: Any) -> tuple[float, float]:
    """(completion tokens, total tokens) of an answer, 0 where it does not say.

    Chat, text and embedding answers count prompt and completion tokens; Responses and Anthropic messages
    input and output tokens, the latter in plain dicts.
    """
    usage = _usage(response)
    if usage is None:
        return 0.0, 0.0
    completion = _number(usage, "completion_tokens") or _number(usage, "output_tokens")
    prompt = _number(usage, "prompt_tokens") or _number(usage, "input_tokens")
    return completion, _number(usage, "total_tokens") or completion + prompt


def cached_of(response: Any) -> tuple[float, float | None]:
    """(prompt tokens, those of them that the server had cached) of an answer; 0 and None where it does not say.

    Chat answers say so in `prompt_tokens_details`, Responses in `input_tokens_details`.
    """
    usage = _usage(response)
    if usage is None:
        return 0.0, None
    prompt = _number(usage, "prompt_tokens") or _number(usage, "input_tokens")
    for word in ("prompt_tokens_details", "input_tokens_details"):
        details = usage.get(word) if isinstance(usage, dict) else getattr(usage, word, None)
        value = details.get("cached_tokens") if isinstance(details, dict) else getattr(details, "cached_tokens", None)
        if isinstance(value, (int, float)):
            return prompt, counted(value)
    return prompt, None


def says_usage(chunk: Any) -> bool:
    """Tell whether a chunk of a stream may say its usage: by itself, or in the response that it carries."""
    extra = getattr(chunk, "__pydantic_extra__", chunk)
    if extra is chunk:
        return getattr(chunk, "usage", None) is not None or getattr(chunk, "response", None) is not None
    # A pydantic model looks long for what it lacks, and most chunks lack both.
    state = chunk.__dict__
    if state.get("usage") is not None or state.get("response") is not None:
        return True
    return bool(extra) and (extra.get("usage") is not None or extra.get("response") is not None)


def _usage(response: Any) -> Any:
    if isinstance(response, dict):
        return response.get("usage")
    # LiteLLM keeps it among a model's extra values, where pydantic's own look-up comes last.
    extra = getattr(response, "__pydantic_extra__", None)
    usage = extra.get("usage") if extra else None
    return getattr(response, "usage", None) if usage is None else usage


def _number(usage: Any, key: str) -> float:
    return counted(usage.get(key) if isinstance(usage, dict) else getattr(usage, key, None))


def is_cache_hit(response: Any) -> bool:
    """Tell whether an answer comes from LiteLLM's own cache."""
    private = getattr(response, "__pydantic_private__", None)
    hidden = private.get("_hidden_params") if private else getattr(response, "_hidden_params", None)
    return isinstance(hidden, dict) and hidden.get("cache_hit") is True
