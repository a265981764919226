"""Environment variables in a file: ``${NAME}`` and ``${NAME:-default}``, on values and never on structure.

OpenGateLLM replaces them in the raw text, so a value could bring a colon, a line break or a whole mapping with it.
Here they are replaced in values that YAML has already parsed: what a variable holds stays one value. As there, an
empty variable counts as unset. A variable that is unset and has no default is an error (`strict`), or is left as it
stands with a warning, which is what OpenGateLLM does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import Problem
from .source import Document, PathKey, is_read, join

__all__ = ["Interpolation", "interpolate"]

_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)(:-[^}]*)?\}")
_UNCLOSED = re.compile(r"\$\{[A-Z0-9_]+(?::-[^}]*)?\Z")
_LOOKS_LIKE = re.compile(r"\$\{[^}\s]*\}?|\$[A-Z][A-Z0-9_]{2,}")


@dataclass
class Interpolation:
    """What interpolation found.

    Attributes:
        names: Path → the variable's name, where the whole value came from one variable that is set.
        defaulted: Path → the variable's name, where the whole value is the default of one that is not set.
        mixed: Paths whose value is made of text and at least one variable that is set.
        values: What variables held (secrets, most of them): to be kept out of messages.
        unset: Paths whose value has an unset variable in it that is an error.
        errors: Unset variables in parts that are read.
        warnings: Unset variables elsewhere, and text that only looks like a variable.
    """

    names: dict[PathKey, str] = field(default_factory=dict)
    defaulted: dict[PathKey, str] = field(default_factory=dict)
    mixed: set[PathKey] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    unset: set[PathKey] = field(default_factory=set)
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def interpolate(document: Document, environ: Mapping[str, str], *, strict: bool = True) -> Interpolation:
    """Replace the variables in every value of `document`, in place.

    Args:
        document: A file that was read.
        environ: The variables, normally ``os.environ``.
        strict: An unset variable without default is an error where the value is used (``models``, the settings
            ``routing_*`` and ``celery_*``, and ``dependencies.celery``). False: a warning, and the text stays.

    Returns:
        Which values came from which variable, and what was wrong.
    """
    found = Interpolation()
    document.data = _walk(document.data, (), document, environ, found, strict=strict)
    return found


def _walk(
    value: Any, path: PathKey, document: Document, environ: Mapping[str, str], found: Interpolation, *, strict: bool
) -> Any:
    if isinstance(value, dict):
        return {key: _walk(item, (*path, key), document, environ, found, strict=strict) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [
            _walk(item, (*path, index), document, environ, found, strict=strict) for index, item in enumerate(value)
        ]
    if not isinstance(value, str) or "$" not in value:
        return value
    return _replace(value, path, document, environ, found, strict=strict)


def _replace(
    text: str, path: PathKey, document: Document, environ: Mapping[str, str], found: Interpolation, *, strict: bool
) -> str | None:
    line = document.line(path)
    used: list[str] = []

    def one(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        value = environ.get(name)
        if value:
            used.append(name)
            found.values.add(value)
            return value
        if default is not None:
            return default[2:]
        fatal = strict and is_read(path)
        if fatal:
            found.unset.add(path)
        (found.errors if fatal else found.warnings).append(
            Problem(
                join(path),
                f"the environment variable {name} is not set" + ("" if fatal else "; the text is left as it stands"),
                f"Set {name}, or give a default: ${{{name}:-default}}.",
                line,
            )
        )
        return match.group(0)

    result = _VARIABLE.sub(one, text)
    if _UNCLOSED.search(text) and is_read(path):
        found.unset.add(path)
        what = "a variable whose } is missing"
        found.errors.append(Problem(join(path), what, "Close it: ${NAME} or ${NAME:-default}.", line))
    elif _LOOKS_LIKE.search(_VARIABLE.sub("", text)):
        found.warnings.append(
            Problem(
                join(path),
                "looks like an environment variable but is not one",
                "Write ${NAME} or ${NAME:-default}, with capitals, digits and underscores.",
                line,
            )
        )
    whole = _VARIABLE.fullmatch(text)
    if not used and whole is not None and whole.group(2) is not None:
        found.defaulted[path] = whole.group(1)
    if used:
        if whole is not None:
            found.names[path] = whole.group(1)
        else:
            found.mixed.add(path)
    if not result and path in document.plain:
        return None  # `limit: ${LIMIT:-}` says nothing, as `limit:` does
    return result
