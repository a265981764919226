"""Every error that fast_router raises.

All derive from `FastRouterError`. An error that stands for an HTTP answer carries that answer's
`status_code`, so that a web framework (LiteLLM's proxy among them) reports it as such.
"""

from __future__ import annotations

__all__ = [
    "BUSY",
    "ConfigurationError",
    "FastRouterError",
    "ModelBusyError",
    "NoDeploymentError",
    "RoutingTimeoutError",
    "UnknownModelError",
    "UnknownStrategyError",
]


BUSY = "Model is too busy, please try again later."
"""What a caller reads when every deployment is at its limit, in the words of the Albert API."""


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
