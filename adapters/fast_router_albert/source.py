"""Safe reading of a YAML file: bounded, without surprises, and every value knows its line.

PyYAML parses; this module adds what a configuration from elsewhere needs. Size, depth and the number of values
are bounded, and an alias counts as often as it is used, so an alias bomb is refused before it is expanded. Python
tags and every other unknown tag are refused, a key given twice is an error, and merge keys (``<<``) work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import AlbertConfigError, Problem

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "MAX_VALUES",
    "Document",
    "PathKey",
    "is_read",
    "join",
    "read_mapping",
    "read_text",
    "shown_key",
]

MAX_BYTES = 1_000_000
"""Largest accepted file, in bytes."""
MAX_DEPTH = 40
"""Deepest accepted nesting."""
MAX_VALUES = 50_000
"""Most values in a file, an alias counted as often as it is used."""

PathKey = tuple[str | int, ...]
"""Where a value is: ``("models", 2, "providers", 0, "url")``."""

# No digits and no two-letter prefix: keys read like this, credentials (sk-…, hf_…) do not.
_WORD = re.compile(r"(?=.{1,40}\Z)(?:id|x|[A-Za-z]{3,}(?:[_-][A-Za-z]+)*)\Z")
_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "timestamp", "value")}
# Sections some of whose parts are read.
_WITH_PARTS = {("settings",), ("dependencies",)}
_TAG_SEQ = "tag:yaml.org,2002:seq"
_TAG_MAP = "tag:yaml.org,2002:map"
_TAG_MERGE = "tag:yaml.org,2002:merge"


@dataclass
class Document:
    """A file's content and where each value stands.

    Attributes:
        source: The file's name as the user wrote it, for messages.
        data: The top-level mapping.
        lines: Line (from 1) by path; empty for a dict.
        plain: Paths whose text was written without quotes; only there may interpolation yield null.
        warnings: What is odd in parts that are not read.
    """

    source: str
    data: dict[str, Any]
    lines: dict[PathKey, int] = field(default_factory=dict)
    plain: set[PathKey] = field(default_factory=set)
    warnings: list[Problem] = field(default_factory=list)

    def line(self, path: PathKey) -> int | None:
        """The line of `path`, or of the nearest thing around it that has one."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return self.lines.get(())


def is_read(path: PathKey) -> bool:
    """Whether the adapter reads this value; other sections (databases, playground) belong to other programs."""
    if path[:1] == ("settings",) and len(path) > 1:
        return str(path[1]).startswith(("routing_", "celery_"))
    return path[:1] == ("models",) or path[:2] == ("dependencies", "celery")


def shown_key(key: object) -> str:
    """A mapping's key as it may appear in a message: words yes, anything that could be a secret no."""
    return key if isinstance(key, str) and _WORD.match(key) else "(key not shown)"


def join(path: PathKey) -> str:
    """``("models", 2, "url")`` → ``models[2].url``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{shown_key(part)}" if text else shown_key(part)
    return text


class _RefusedError(Exception):
    def __init__(self, path: PathKey, what: str, right: str, line: int | None) -> None:
        super().__init__(what)
        self.problem = Problem(join(path), what, right, line)


class _BoundedLoader(yaml.SafeLoader):
    """Composes nodes with a bound on depth; it never constructs anything."""

    depth = 0
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        if self.depth > MAX_DEPTH:
            raise _RefusedError((), f"nested deeper than {MAX_DEPTH} levels", "Flatten this part of the file.", line)
        if self.nodes > MAX_VALUES:
            raise _RefusedError((), f"more than {MAX_VALUES} values", "Split the file.", line)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Builder:
    """Turns composed nodes into plain data, collecting problems instead of stopping at the first."""

    def __init__(self) -> None:
        self.lines: dict[PathKey, int] = {}
        self.plain: set[PathKey] = set()
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._count = 0
        self._active: set[int] = set()
        self._constructor = yaml.SafeLoader("")

    def build(self, node: yaml.Node, path: PathKey) -> Any:
        line = node.start_mark.line + 1
        self._count += 1
        if self._count > MAX_VALUES:
            raise _RefusedError(
                path,
                f"aliases expand this file to more than {MAX_VALUES} values",
                "Write the values out, or use fewer aliases inside aliases.",
                line,
            )
        self.lines.setdefault(path, line)
        if id(node) in self._active:
            raise _RefusedError(path, "an alias contains itself", "Remove the alias.", line)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path, line)
        self._active.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG_SEQ:
                return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG_MAP:
                return self._mapping(node, path)
        finally:
            self._active.discard(id(node))
        self._tag(path, line)
        return None

    def _tag(self, path: PathKey, line: int) -> None:
        self.problems.append(
            Problem(
                join(path), "a YAML tag that is not accepted here", "Remove the !tag; plain values are enough.", line
            )
        )

    def _scalar(self, node: yaml.ScalarNode, path: PathKey, line: int) -> Any:
        if node.tag not in _SCALARS:
            self._tag(path, line)
            return None
        if node.style is None:
            self.plain.add(path)
        kind = node.tag.rpartition(":")[2]
        if kind in {"str", "timestamp", "value"}:
            return node.value
        try:
            return getattr(self._constructor, f"construct_yaml_{kind}")(node)
        except (ValueError, OverflowError, KeyError):
            # For example !!int on a word, or an integer of thousands of digits.
            self.problems.append(
                Problem(join(path), f"not a valid {kind}", "Put quotes around it if it is text.", line)
            )
            return None

    def _mapping(self, node: yaml.MappingNode, path: PathKey) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _TAG_MERGE:
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            line = key_node.start_mark.line + 1
            child = (*path, key)
            if key in result:
                what = f"given twice (first on line {self.lines[child]})"
                if is_read(child) or child in _WITH_PARTS:
                    self.problems.append(Problem(join(child), what, "Keep one of the two.", line))
                    continue
                # OpenGateLLM takes the last one; what is in it is nothing to us.
                self.warnings.append(Problem(join(child), f"{what}; the last one counts", "Keep one.", line))
            self.lines[child] = line
            result[key] = self.build(value_node, child)
        for source in merged:
            self._merge(source, path, result)
        return result

    def _key(self, node: yaml.Node, path: PathKey) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return str(node.value)
        line = node.start_mark.line + 1
        self.problems.append(Problem(join(path), "a key that is not plain text", "Use a word as the key.", line))
        return None

    def _merge(self, source: yaml.Node, path: PathKey, result: dict[str, Any]) -> None:
        """Take over what `<<` names; keys of the mapping itself win, and each keeps the line where it was written."""
        line = source.start_mark.line + 1
        if not isinstance(source, yaml.MappingNode):
            self.problems.append(Problem(join(path), "<<: needs a mapping", "Point it at a mapping's anchor.", line))
            return
        if id(source) in self._active:
            raise _RefusedError(path, "an alias contains itself", "Remove the alias.", line)
        self._active.add(id(source))
        try:
            deeper: list[yaml.Node] = []
            for key_node, value_node in source.value:
                self._count += 1
                if key_node.tag == _TAG_MERGE:
                    deeper += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                    continue
                key = self._key(key_node, path)
                if key is not None and key not in result:
                    child = (*path, key)
                    self.lines[child] = key_node.start_mark.line + 1
                    result[key] = self.build(value_node, child)
            for node in deeper:
                self._merge(node, path, result)
        finally:
            self._active.discard(id(source))


def read_text(path: Path) -> str:
    """The text of `path`.

    Raises:
        AlbertConfigError: The file is missing, unreadable, too large or not UTF-8.
    """
    source = str(path)
    try:
        if not path.is_file():
            what = "this is a directory" if path.is_dir() else "there is no such file"
            raise AlbertConfigError(source, [Problem("", what, "Name the YAML file of your Albert API.")])
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise AlbertConfigError(source, [Problem("", f"cannot be read: {reason}", "Check the permissions.")]) from None
    return decode(raw, source)


def decode(raw: bytes, source: str) -> str:
    """`raw` as text, within the size limit."""
    if len(raw) > MAX_BYTES:
        raise AlbertConfigError(source, [Problem("", f"larger than {MAX_BYTES} bytes", "Is this the right file?")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise AlbertConfigError(source, [Problem("", "not UTF-8 text", "Save the file as UTF-8.", line)]) from None


def read_mapping(text: str, source: str) -> Document:
    """Parse `text` as one YAML mapping.

    Args:
        text: YAML, at most `MAX_BYTES` bytes.
        source: Its name, for messages.

    Raises:
        AlbertConfigError: Not YAML, not a mapping, or over a bound; all findings of this step at once.
    """
    if len(text) > MAX_BYTES:
        raise AlbertConfigError(source, [Problem("", f"larger than {MAX_BYTES} bytes", "Is this the right file?")])
    builder = _Builder()
    try:
        node = _compose(text)
        data = builder.build(_mapping_at_top(node), ())
    except _RefusedError as refused:
        problems = [*builder.problems, refused.problem]
        raise AlbertConfigError(source, problems) from None
    except yaml.YAMLError as error:
        raise AlbertConfigError(source, [_syntax(error)]) from None
    except (RecursionError, ValueError, OverflowError):
        raise AlbertConfigError(source, [Problem("", "not valid YAML", "Check the syntax.")]) from None
    if builder.problems:
        raise AlbertConfigError(source, builder.problems)
    return Document(source, data, builder.lines, builder.plain, builder.warnings)


def _mapping_at_top(node: yaml.Node | None) -> yaml.MappingNode:
    if node is None:
        raise _RefusedError((), "the file is empty", "It needs a `models:` list.", None)
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1
        raise _RefusedError((), "the file is not a mapping", "Start it with `models:` and a list below.", line)
    return node


def _compose(text: str) -> yaml.Node | None:
    loader = _BoundedLoader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _syntax(error: yaml.YAMLError) -> Problem:
    """A YAML error in our words: PyYAML's own text may quote the file, and with it a key."""
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark is not None else None
    text = str(getattr(error, "problem", "") or "").lower()
    for needle, what, right in _SYNTAX:
        if needle in text:
            return Problem("", what, right, line)
    return Problem("", "not valid YAML", "Check indentation, colons and quotes on this line and the one above.", line)


_SYNTAX = (
    ("'\\t'", "a tab character", "YAML wants spaces: replace the tab by spaces."),
    ("undefined alias", "an alias (*name) without its anchor (&name)", "Quote the value if it starts with *."),
    (
        "mapping values are not allowed",
        "a colon where none may be",
        "Check the indentation, or quote a value that has ': ' in it.",
    ),
    ("expected <block end>", "indentation that does not fit", "Put the keys of one block in one column."),
    ("could not find expected ':'", "a key without its colon", "Write `key: value`."),
    ("unexpected end of stream", "a quote that never closes", "Close the quote."),
    ("expected ',' or", "a [list] or {mapping} that never closes", "Close the bracket."),
    ("single document", "more than one document (---) in the file", "Keep one document."),
    ("another document", "more than one document (---) in the file", "Keep one document."),
)
