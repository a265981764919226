"""Every error of the Albert adapter: a file's problems in one report, and the API's documented answers.

`Problem` is one finding in a configuration file: where it is, what is wrong and what would be right.
`AlbertConfigError` carries all of them at once, so that a file is mended in one go. The other classes stand for
answers that the Albert API documents; each has that answer's ``status_code`` and the documented text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fast_router.errors import BUSY, ConfigurationError, FastRouterError, ModelBusyError, UnknownModelError

__all__ = [
    "BUSY_RETRY_AFTER",
    "AlbertConfigError",
    "EndpointNotServedError",
    "ModelBusyError",
    "ModelNotFoundError",
    "Problem",
    "ProviderAnswerError",
    "ProviderNotReachableError",
    "ProviderTimeoutError",
    "RequestFormatError",
    "ResponseFormatError",
    "WrongModelTypeError",
    "busy",
]

BUSY_RETRY_AFTER = 10.0
"""Seconds that the Albert API names in Retry-After when a model is too busy."""


@dataclass(frozen=True)
class Problem:
    """One finding in a configuration file.

    Attributes:
        path: Where it is, in the file's own words: ``models[2].providers[0].url``; empty for the whole file.
        what: What is wrong. Never holds a key, a password or the value of an environment variable.
        right: What would be right.
        line: Line number in the file, counted from 1; None if the configuration is no file.
    """

    path: str
    what: str
    right: str = ""
    line: int | None = None

    def render(self, source: str) -> str:
        """The finding as one line of text: ``config.yml:12: models[2].type: what. right``."""
        where = source if self.line is None else f"{source}:{self.line}"
        path = f" {self.path}:" if self.path else ""
        right = f" {self.right}" if self.right else ""
        stop = "" if self.what.endswith(("?", ".")) else "."
        return f"{where}:{path} {self.what}{stop}{right}"


class AlbertConfigError(ConfigurationError):
    """A configuration file of the Albert API cannot be used; holds every problem found in it.

    Args:
        source: The file's name as the user wrote it.
        problems: Everything that is wrong, in the order of the file.
        hints: Unknown keys that look like misspelt ones; often the reason why another key is missing.

    Attributes:
        status_code: 500: a server that cannot read its configuration.
    """

    status_code = 500

    def __init__(self, source: str, problems: Iterable[Problem], hints: Iterable[Problem] = ()) -> None:
        self.source = source
        self.problems = tuple(problems)
        self.hints = tuple(hints)
        count = len(self.problems)
        head = f"{source}: {count} problem{'s' if count != 1 else ''}; nothing was loaded"
        lines = [f"  {problem.render(source)}" for problem in self.problems]
        lines += [f"  hint: {hint.render(source)}" for hint in self.hints]
        super().__init__("\n".join([head, *lines]))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.problems, self.hints)


class ModelNotFoundError(UnknownModelError):
    """No model has this id or alias (HTTP 404, as the Albert API answers)."""

    status_code = 404

    def __init__(self, message: str = "Model not found") -> None:
        super().__init__(message)


class WrongModelTypeError(FastRouterError):
    """The model's type cannot serve this endpoint.

    HTTP 422 in the API's source; its later documentation says 400, and a model from such a file answers so.

    Args:
        message: Which model, which endpoint, and what the model serves instead.
        status_code: 422 or 400.
    """

    def __init__(self, message: str = "Wrong model type", *, status_code: int = 422) -> None:
        super().__init__(message)
        self.status_code = status_code


class EndpointNotServedError(FastRouterError):
    """The provider's server has no such endpoint (HTTP 400): its ENDPOINT_TABLE says None."""

    status_code = 400


class ProviderNotReachableError(FastRouterError):
    """The provider's server cannot be reached (HTTP 424)."""

    status_code = 424


class ProviderTimeoutError(FastRouterError):
    """The provider did not answer within its timeout (HTTP 504)."""

    status_code = 504


class RequestFormatError(FastRouterError):
    """The request cannot be put into the provider's own shape (HTTP 500, "Request formatting failed.")."""

    status_code = 500


class ResponseFormatError(FastRouterError):
    """The provider's answer has an unknown shape (HTTP 500, "Response formatting failed.")."""

    status_code = 500


class ProviderAnswerError(FastRouterError):
    """The provider answered with an error status; it is passed on as it came.

    Args:
        message: The provider's own words, at most a few hundred characters.
        status_code: The provider's HTTP status.
        retry_after: Seconds that its Retry-After header names, None without one.
    """

    def __init__(self, message: str, *, status_code: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.retry_after = retry_after


def busy(retry_after: float | None = None) -> ModelBusyError:
    """The documented answer when every provider is at its limit: 503 with Retry-After (seconds)."""
    return ModelBusyError(
        BUSY,
        retry_after=BUSY_RETRY_AFTER if retry_after is None else retry_after,
    )
