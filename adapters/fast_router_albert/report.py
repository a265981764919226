"""The report of one reading: problems and warnings gathered on the way, and values made safe to show.

A message may quote what the file says, but never a key. So a value is quoted only if it reads like a word, is not a
known secret of this file, and is not what an environment variable held.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fast_router.errors import nearest

from .errors import AlbertConfigError, Problem
from .source import Document, PathKey, join, shown_key

__all__ = ["Report", "secrets_in"]

_WORDLIKE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _./:+-]{0,63}\Z")
_CREDENTIAL = re.compile(
    r"(?i)\b(sk|pk|rk|hf|gh[pousr]|xox[abp]|akia|bearer|basic|ey)[-_ ][A-Za-z0-9]|\beyJ"
    r"|(?=[A-Za-z0-9_-]*\d)(?=[A-Za-z0-9_-]*[A-Za-z])[A-Za-z0-9_]{20,}"
)
_SECRET_KEY = re.compile(r"(?i)(^|_|-)(key|token|secret|password|passwd|dsn|authorization)s?$")


def secrets_in(value: Any, *, inside: bool = False) -> set[str]:
    """Every text that stands under a key such as `key`, `api_key` or `password`."""
    if isinstance(value, Mapping):
        found: set[str] = set()
        for key, item in value.items():
            found |= secrets_in(item, inside=inside or bool(_SECRET_KEY.search(str(key))) or key == "basic_auth")
        return found
    if isinstance(value, (list, tuple)):
        return set().union(*(secrets_in(item, inside=inside) for item in value))
    return {str(value)} if inside and value not in {None, "", "EMPTY"} and not isinstance(value, bool) else set()


class Report:
    """Gathers what is wrong with one document.

    Args:
        document: What was read.
        secrets: Texts that no message may hold.
        silent: Paths whose problem is reported already, and explains every other problem there.
    """

    def __init__(self, document: Document, secrets: Iterable[str] = (), *, silent: Iterable[PathKey] = ()) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._silent = set(silent)
        self._secrets = {secret for secret in secrets if len(secret) >= 4}

    def error(self, path: PathKey, what: str, right: str = "") -> None:
        """Note a problem at `path`."""
        if path in self._silent:
            return
        self.problems.append(self._problem(path, what, right))

    def warn(self, path: PathKey, what: str, right: str = "") -> None:
        """Note something that does not stop the file from working."""
        self.warnings.append(self._problem(path, what, right))

    def shown(self, value: object) -> str:
        """`value` as a message may quote it."""
        if isinstance(value, bool) or value is None:
            return {None: "nothing", True: "yes/true", False: "no/false"}[value]
        if isinstance(value, dict):
            return "a mapping"
        if isinstance(value, (list, tuple)):
            return "a list"
        text = str(value)
        if _WORDLIKE.match(text) and not _CREDENTIAL.search(text) and not self._holds_secret(text):
            return f"'{text}'"
        return "the value (not shown)"

    def raise_if_wrong(self) -> None:
        """Raise everything at once.

        Raises:
            AlbertConfigError: There is at least one problem.
        """
        if self.problems:
            hints = [warning for warning in self.warnings if warning.right.startswith("Did you mean")]
            raise AlbertConfigError(self.document.source, self.in_order(self.problems), self.in_order(hints))

    @staticmethod
    def in_order(problems: Iterable[Problem]) -> list[Problem]:
        """`problems` in the order of the file, without repetitions."""
        return sorted(dict.fromkeys(problems), key=lambda problem: problem.line or 0)

    def _holds_secret(self, text: str) -> bool:
        return any(secret in text for secret in self._secrets)

    def _problem(self, path: PathKey, what: str, right: str) -> Problem:
        # A key of the file can itself be a secret, when a line lost its name.
        named = tuple("(key not shown)" if part in self._secrets else part for part in path)
        return Problem(join(named), what, right, self.document.line(path))

    def unknown_key(self, path: PathKey, key: str, known: Iterable[str]) -> None:
        """Warn about a key that means nothing in any dialect."""
        guess = nearest(key, sorted(known))
        name = "" if key in self._secrets else f" '{shown_key(key)}'"
        right = f"Did you mean '{guess}'?" if guess else "It is kept, and nothing reads it."
        self.warn((*path, key), f"unknown key{name}", right)
