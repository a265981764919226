"""What a request says that a strategy wants to know: its tokens, its session, its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fast_router.engine import Ask
from fast_router.engine.prefix_cache.fleet import on_members
from fast_router.litellm_plugin.picks.prompt_text import prompt_of, source_of
from fast_router.litellm_plugin.request import ledger

if TYPE_CHECKING:
    from fast_router.engine.group import ModelGroup

__all__ = ["ask_of", "asks", "count_tokens", "session_of"]


def count_tokens(messages: Any, text: Any) -> float:
    """The tokens of a prompt, as LiteLLM's strategies count them."""
    import litellm  # noqa: PLC0415 - it is imported: its Router asks

    try:
        return float(litellm.token_counter(messages=messages, text=text))
    except Exception:  # noqa: BLE001 - LiteLLM takes a prompt that cannot be counted for an empty one
        return 0.0


def asks(group: ModelGroup) -> bool:
    """Whether a pick from `group` wants to know anything about its request, its tokens left out."""
    return group.reads_streams or group.reads_sessions or group.reads_prompts


def ask_of(
    group: ModelGroup, request_kwargs: Mapping[str, Any], prompt: tuple[Any, Any], *, counts: bool
) -> Ask | None:
    """What a group's strategy needs to know about a request, None if there is nothing.

    Args:
        group: Where it picks.
        request_kwargs: The request as LiteLLM's selection gets it.
        prompt: Its messages and its input; one of them is None.
        counts: Whether its tokens matter, because a candidate has a tokens/minute limit.
    """
    tokens = count_tokens(*prompt) if counts else 0.0
    stream = request_kwargs.get("stream") is True
    if group.reads_prompts:
        found = prompt_of(request_kwargs, prompt, tokens)
        if found is not None and getattr(ledger.get(), "hedge", False):
            # The first attempt computes the same prompt: where the second one went says nothing about later ones.
            found.teaches = False
        if found is None and not tokens and not stream:
            return None
        # Only where servers' events are followed with a tokenizer does anybody ask for the text.
        source = source_of(request_kwargs, prompt) if on_members else None
        return Ask((), tokens, stream, None, None, None, found, source)
    key = session_of(request_kwargs) if group.reads_sessions else None
    return Ask((), tokens, stream, key) if tokens or stream or key is not None else None


def session_of(request_kwargs: Mapping[str, Any]) -> str | None:
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
