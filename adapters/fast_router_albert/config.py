"""`load_config`: a file of any dialect in, a checked `AlbertConfig` out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from pydantic import BaseModel, ConfigDict, Field

from . import convert
from .checks import build_models
from .dialects import drafts
from .discover import discover_names
from .env import interpolate
from .errors import AlbertConfigError, Problem
from .report import Report, secrets_in
from .schema import Model
from .source import MAX_BYTES, MAX_DEPTH, MAX_VALUES, Document, decode, read_mapping, read_text

__all__ = ["AlbertConfig", "Source", "load_config"]

Source = str | os.PathLike[str] | TextIO | BinaryIO | Mapping[str, Any]
"""A path, an open file, YAML text (with a line break in it) or a dict that was read already."""


class AlbertConfig(BaseModel):
    """A configuration of the Albert API or OpenGateLLM that has passed every check.

    Attributes:
        models: The models, in the order of the file.
        warnings: What does not stop the file from working: unknown keys, older spellings, unset variables elsewhere.
        source: The file's name as it was given.
        dependencies: The file's `dependencies`, as they stand (databases and brokers of the API).
        settings: The file's `settings`, as they stand.
        extra: Every other section, as it stands.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    models: tuple[Model, ...]
    warnings: tuple[Problem, ...] = ()
    source: str = "configuration"
    # These hold passwords of databases: kept for whoever needs them, never printed.
    dependencies: dict[str, Any] = Field(default_factory=dict, repr=False)
    settings: dict[str, Any] = Field(default_factory=dict, repr=False)
    extra: dict[str, Any] = Field(default_factory=dict, repr=False)

    @property
    def model_list(self) -> list[dict[str, Any]]:
        """The deployments for ``litellm.model_list`` and ``litellm.Router(model_list=…)``; a new list each time."""
        return convert.model_list(self.models)

    def router_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for ``litellm.Router``: model list, aliases and strategy."""
        return convert.router_kwargs(self.models)

    def proxy_config(self, *, references: bool = True) -> dict[str, Any]:
        """The content of a LiteLLM proxy YAML.

        Args:
            references: Write ``os.environ/NAME`` where the file used a variable, instead of what it holds.

        Raises:
            AlbertConfigError: A key is made of text and variables, and `references` forbids writing it.
        """
        return convert.proxy_config(self.models, references=references, source=self.source)

    def routing_settings(self) -> dict[str, Any]:
        """What the file says about Celery, as options of fast_router; empty if it does not enable Celery.

        `fast-router run --albert` and `ModelRegistry` follow it by themselves. A program of its own says
        ``fast_router.configure(**config.routing_settings())`` before it imports LiteLLM. The addresses hold passwords.
        """
        from fast_router_albert.celery_options import albert_options  # noqa: PLC0415 - only for files that queue

        return albert_options(self)

    @property
    def dialects(self) -> tuple[str, ...]:
        """The dialects that the file's models are written in, D0 to D6."""
        return tuple(sorted({model.dialect for model in self.models}))

    def describe_warnings(self) -> list[str]:
        """The warnings as lines of text."""
        return [warning.render(self.source) for warning in self.warnings]


def load_config(
    source: Source,
    *,
    strict: bool = True,
    environ: Mapping[str, str] | None = None,
    discover: bool = True,
) -> AlbertConfig:
    """Read a configuration of the Albert API or OpenGateLLM, whatever its dialect.

    Args:
        source: A path, an open text file, YAML text (recognised by a line break) or a dict.
        strict: An unset environment variable without default is an error; False: a warning, and the text stays.
        environ: The variables; by default the process's own.
        discover: Ask the servers of a flat (D0) file for the names of their models, at most 5 seconds each.

    Raises:
        AlbertConfigError: Everything that is wrong with the file, in one report.
    """
    document = _read(source)
    secrets = secrets_in(document.data)
    found = interpolate(document, os.environ if environ is None else environ, strict=strict)
    report = Report(document, secrets | secrets_in(document.data) | found.values, silent=found.unset)
    report.problems += found.errors
    report.warnings += document.warnings + found.warnings
    models = drafts(report)
    # With an unset variable in it there is no address to ask.
    discover_names(models, report, ask=discover and not found.errors)
    checked = build_models(models, found, report)
    report.raise_if_wrong()
    data = document.data
    return AlbertConfig(
        models=tuple(checked),
        warnings=tuple(report.in_order(report.warnings)),
        source=document.source,
        dependencies=_section(data, "dependencies"),
        settings=_section(data, "settings"),
        extra={key: value for key, value in data.items() if key not in {"models", "dependencies", "settings"}},
    )


def _section(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name)
    return dict(value) if isinstance(value, Mapping) else {}


def _read(source: Source) -> Document:
    if isinstance(source, Mapping):
        return Document("configuration", _plain(source))
    if isinstance(source, str) and "\n" in source:
        return read_mapping(source, "configuration")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        return read_mapping(read_text(path), str(source))
    if hasattr(source, "read"):
        content: str | bytes = source.read(MAX_BYTES + 1)
        name = str(getattr(source, "name", "configuration"))
        return read_mapping(decode(content, name) if isinstance(content, bytes) else content, name)
    raise AlbertConfigError(
        "configuration",
        [Problem("", f"a {type(source).__name__} cannot be read", "Give a path, a file, YAML text or a dict.")],
    )


def _plain(source: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the caller's dict made of plain data, within the bounds that hold for files."""
    count = 0

    def copy(value: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if depth > MAX_DEPTH or count > MAX_VALUES:
            what = f"nested deeper than {MAX_DEPTH} levels or more than {MAX_VALUES} values"
            raise AlbertConfigError("configuration", [Problem("", what, "Flatten or split it.")])
        if isinstance(value, Mapping):
            return {str(key): copy(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [copy(item, depth + 1) for item in value]
        return value if value is None or isinstance(value, (str, int, float)) else str(value)

    data: dict[str, Any] = copy(source, 0)
    return data
