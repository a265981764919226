"""What a served model reads: the prompt of a request as one text (ChatML), and its tokens."""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fast_router.errors import ConfigurationError

__all__ = ["Tokenize", "rendered", "tokenizer"]

Tokenize = Callable[[str], list[int]]
_PIECE = 4  # characters per token where no tokenizer is given


def rendered(body: Mapping[str, Any]) -> str | list[int]:
    """Render a request's prompt as ChatML, tools first; token ids that came as such are returned as they are."""
    if "prompt" in body:
        prompt = body["prompt"]
        if isinstance(prompt, list) and prompt and all(isinstance(one, int) for one in prompt):
            return list(prompt)
        return _text(prompt)
    messages = body.get("messages", body.get("input"))
    if not isinstance(messages, list):
        messages = [{"role": "user", "content": messages}]
    if body.get("instructions"):
        messages = [{"role": "system", "content": body["instructions"]}, *messages]
    said = [_said("tools", json.dumps(body["tools"]))] if body.get("tools") else []
    said += [
        _said(str(one.get("role", "user")), _text(one.get("content"))) for one in messages if isinstance(one, Mapping)
    ]
    return "".join(said) + "<|im_start|>assistant\n"


def _said(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(map(_text, content))
    if isinstance(content, Mapping):
        for name in ("text", "content"):
            if isinstance(content.get(name), (str, list)):
                return _text(content[name])
        # An image takes a place that depends on the image alone.
        return f"<|image {hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()}|>"
    return "" if content is None else str(content)


@functools.lru_cache(maxsize=8)
def tokenizer(name: str | None) -> Tokenize:
    """Make a tokenizer.

    Args:
        name: None for four characters per token, or the path of a `tokenizer.json` (or of the folder with it).

    Raises:
        ConfigurationError: There is no such file.
    """
    if name is None:
        return _pieces
    path = Path(name)
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        raise ConfigurationError(f"no tokenizer at {path}; give the path of a tokenizer.json")
    from tokenizers import Tokenizer  # noqa: PLC0415

    loaded = Tokenizer.from_file(str(path))

    def encode(text: str) -> list[int]:
        ids: list[int] = loaded.encode(text, add_special_tokens=False).ids
        return ids

    return encode


def _pieces(text: str) -> list[int]:
    return [zlib.crc32(text[at : at + _PIECE].encode("utf-8", "surrogatepass")) for at in range(0, len(text), _PIECE)]
