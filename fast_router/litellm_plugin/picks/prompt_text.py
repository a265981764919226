"""A request's whole prompt, in the order in which a server renders it: tools, what the system says, then the turns.

Only the order and the text matter, not the template: two requests must share as much here as their prompts share on a
server. Nothing is kept of it but hashes (`Prompt`). A malformed request is LiteLLM's to refuse: here it has no text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any

from fast_router.engine.prefix_cache.prompt import Prompt

__all__ = ["prompt_of", "source_of"]

_LONG = 512
"""Characters from which an image's or a recording's data are hashed before they become part of the text."""
_BEFORE = ("tools", "functions", "system", "instructions")
# What servers mix into their blocks' keys. Of `prompt_cache_key` and session ids they take no notice: two agents with
# keys of their own have their tools and system prompt in common there.
_NAMESPACES = ("cache_salt", "extra_key")
# How to tell what a part of a message is, and its text; any other part is written out as JSON.
_TEXTS = ("text", "input_text", "output_text")


def prompt_of(request: Mapping[str, Any], prompt: tuple[Any, Any], tokens: float = 0) -> Prompt | None:
    """The prompt as numbers, None for a request without any text or with contents that nobody understands.

    Args:
        request: The request's keyword arguments.
        prompt: Its messages and its input; one of them is None.
        tokens: Of the prompt, 0 if nobody counted.
    """
    try:
        text = _text_of(request, prompt)
        return Prompt(text, tokens, _namespace(request)) if text else None
    except Exception:  # noqa: BLE001 - whatever it is, it is not ours to refuse
        return None


def source_of(
    request: Mapping[str, Any], prompt: tuple[Any, Any]
) -> Callable[[], tuple[str, Mapping[str, Any] | None] | None]:
    """What a tokenizer elsewhere needs: a function that gives the text, and the chat that it comes from.

    The function answers None for what a server does not make of the text alone: a salted prompt.
    """

    def source() -> tuple[str, Mapping[str, Any] | None] | None:
        if _namespace(request):
            return None
        messages, _ = prompt
        chat = {"messages": messages, "tools": request.get("tools")} if messages else None
        return _text_of(request, prompt), chat

    return source


def _text_of(request: Mapping[str, Any], prompt: tuple[Any, Any]) -> str:
    parts: list[str] = []
    for word in _BEFORE:
        if request.get(word):
            _write(request[word], parts)
    messages, text = prompt
    _write(messages or (text if text is not None else request.get("prompt")), parts)
    return "\n".join(parts)


def _namespace(request: Mapping[str, Any]) -> str:
    """What keeps caches of equal prompts apart."""
    extra = request.get("extra_body")
    found = []
    for word in _NAMESPACES:
        value = request.get(word) or (extra.get(word) if isinstance(extra, Mapping) else None)
        if isinstance(value, str) and value:
            found.append(f"{word}={value}")
    return "\n".join(found)


def _write(value: Any, parts: list[str]) -> None:
    if value is None:
        return
    if isinstance(value, str):
        parts.append(value)
    elif isinstance(value, Mapping):
        _message(value, parts)
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        items = list(value)
        if items and isinstance(items[0], (int, float)):
            # A prompt of token ids.
            parts.append(" ".join(map(str, items)))
        else:
            for item in items:
                _write(item, parts)
    else:
        # A pydantic model of LiteLLM's or OpenAI's.
        dump = getattr(value, "model_dump", None)
        if dump is not None:
            _message(dump(exclude_none=True), parts)


def _message(message: Mapping[str, Any], parts: list[str]) -> None:
    """A message, a part of one, a tool, or an item of the Responses API."""
    kind = message.get("type")
    if kind in _TEXTS and isinstance(message.get("text"), str):
        parts.append(message["text"])
        return
    if "role" in message:
        parts.append(str(message["role"]))
        _write(message.get("content"), parts)
        if message.get("tool_calls"):
            parts.append(_json(message["tool_calls"]))
        return
    parts.append(_json(message))


def _json(value: Any) -> str:
    """As JSON, with long data (images, recordings) in the form of a digest."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    if len(text) > _LONG and ("base64" in text or '"data"' in text or ";base64," in text):
        return json.dumps(_short(value), default=str, ensure_ascii=False)
    return text


def _short(value: Any) -> Any:
    if isinstance(value, str):
        if len(value) <= _LONG:
            return value
        return blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    if isinstance(value, Mapping):
        return {str(key): _short(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_short(inner) for inner in value]
    return value
