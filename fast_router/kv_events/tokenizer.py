"""A model's own tokenizer and chat template, from its folder: what a server will make of a request.

`tokenizer.json` is read by Hugging Face's `tokenizers`; the template (`chat_template` in `tokenizer_config.json`, or
`chat_template.jinja`) is rendered by Jinja in its sandbox, as servers do. LiteLLM brings both. Milliseconds for a long
prompt are slow by a router's measure, so all of it is called off the event loop.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fast_router.errors import ConfigurationError

__all__ = ["LocalTokenizer"]


class LocalTokenizer:
    """Tokens and templates of one model. Safe from several threads.

    Args:
        folder: The model's folder, or its `tokenizer.json`.

    Raises:
        ConfigurationError: There is no tokenizer, or it cannot be read; the message names the path.
    """

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder).expanduser()
        file = path if path.is_file() else path / "tokenizer.json"
        if not file.is_file():
            raise ConfigurationError(f"tokenizer: no {file}; give the folder with a model's tokenizer.json")
        from tokenizers import Tokenizer  # noqa: PLC0415

        try:
            self._tokenizer = Tokenizer.from_file(str(file))
            self._template, self._names = _template(file.parent)
        except Exception as error:
            raise ConfigurationError(f"tokenizer: {file.parent} cannot be read ({error})") from error

    @property
    def renders_chats(self) -> bool:
        """Whether it has a chat template."""
        return self._template is not None

    def render(self, messages: Sequence[Any], tools: Sequence[Any] | None = None) -> str | None:
        """Render a chat as the server will; None where it has no template, or the template refuses the messages."""
        if self._template is None:
            return None
        try:
            text: str = self._template.render(
                messages=messages, tools=tools or None, add_generation_prompt=True, **self._names
            )
        except Exception:  # noqa: BLE001 - templates raise what they like; the chat is then not matched
            return None
        return text

    def encode(self, text: str, *, special: bool) -> tuple[list[int], list[int]]:
        """Give the token ids of a text, and where each token ends, in characters.

        Args:
            text: What to encode.
            special: Whether to add what the tokenizer adds around a text; a rendered chat has it already.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=special)
        return encoding.ids, [end for _, end in encoding.offsets]


def _template(folder: Path) -> tuple[Any, Mapping[str, Any]]:
    """Read the chat template, and what a template may use beside the messages."""
    config: dict[str, Any] = {}
    if (folder / "tokenizer_config.json").is_file():
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    source = config.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = next((one["template"] for one in source if one.get("name") == "default"), None)
    if (folder / "chat_template.jinja").is_file():
        source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if not isinstance(source, str):
        return None, {}
    from jinja2.ext import loopcontrols  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    names = {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in config.items()
        if name.endswith("_token") and isinstance(value, (str, dict))
    }
    return environment.from_string(source), names


def _to_json(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise ValueError(message)
