"""Every error that fast_router raises.

All derive from `FastRouterError`. An error that stands for an HTTP answer carries that answer's
`status_code`, so that a web framework (LiteLLM's proxy among them) reports it as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = [
    "BUSY",
    "ConfigurationError",
    "FastRouterError",
    "ModelBusyError",
    "NoDeploymentError",
    "RoutingTimeoutError",
    "UnknownModelError",
    "UnknownStrategyError",
    "did_you_mean",
    "in_words",
    "nearest",
    "without_quotes",
]


BUSY = "Model is too busy, please try again later."
"""What a caller reads when every deployment is at its limit, in the words of the Albert API."""


# Words without digits, or short: credentials (sk-…, hf_…) are neither.
_HARMLESS = re.compile(r"[^\W\d_]+(?:[ ,._:/-]+[^\W\d_]+)*|.{0,12}", re.DOTALL)


_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


def in_words(value: object) -> str:
    """Show a wrong value in a message: a text that could be a key or a password, pasted one line too high, is not."""
    if isinstance(value, str) and (len(value) > 60 or not _HARMLESS.fullmatch(value)):
        return f"a text of {len(value)} characters (kept out of this message)"
    return repr(value) if isinstance(value, (str, bool, int, float)) or value is None else f"a {type(value).__name__}"


def without_quotes(said: str) -> str:
    """Give another's message without what it quotes, where that could be a key or a password."""
    return _QUOTED.sub(lambda found: found[0] if _HARMLESS.fullmatch(found[1] or found[2] or "") else "'…'", said)


def nearest(word: object, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known word that `word` most likely means, None if none is near; case, hyphen and underscore do not matter.

    Args:
        word: What was written.
        known: The words that mean something.
        cutoff: How much alike they must be, 0 to 1.
    """
    if not isinstance(word, str):
        return None
    from difflib import get_close_matches  # noqa: PLC0415 - wanted only for a mistake

    plain = {each.lower().replace("-", "_"): each for each in known}
    found = get_close_matches(word.strip().lower().replace("-", "_"), plain, n=1, cutoff=cutoff)
    return plain[found[0]] if found else None


def did_you_mean(word: object, known: Iterable[str], otherwise: str = "", *, cutoff: float = 0.6) -> str:
    """The question that every message about a wrong word ends with, `otherwise` where nothing known is near."""
    found = nearest(word, known, cutoff=cutoff)
    return otherwise if found is None else f"did you mean {found!r}?"


class FastRouterError(Exception):
    """The base of every error that fast_router raises."""


class ConfigurationError(FastRouterError, ValueError):
    """A setting, model list or file is wrong; the message names the entry and the remedy."""


class UnknownStrategyError(ConfigurationError):
    """A strategy name that nobody registered; the message lists the known ones."""


class NoDeploymentError(FastRouterError):
    """No deployment of the group can take the call now.

    Args:
        message: What was asked for and why nothing fits.
        retry_after: Seconds until the first deployment may be back, None if unknown.
    """

    status_code = 429

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnknownModelError(NoDeploymentError):
    """The model name belongs to no group of this router."""

    status_code = 404


class ModelBusyError(NoDeploymentError):
    """Every deployment of the model is at its limit (HTTP 503 with Retry-After)."""

    status_code = 503


class RoutingTimeoutError(NoDeploymentError):
    """Every deployment stayed at its limit until the time to wait was over (HTTP 504)."""

    status_code = 504
