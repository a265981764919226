"""Celery routing's settings and models out of any file that people have: an Albert file, or one that is none."""

from __future__ import annotations

from typing import Any

from fast_router import settings as options
from fast_router.celery_routing import config
from fast_router.celery_routing.settings import CelerySettings
from fast_router_albert.celery_options import from_albert

__all__ = ["load_settings", "models_of"]


def _albert(path: str) -> Any:
    """The file as an Albert configuration, None if it is not one (those have `models`)."""
    if "models" not in config.document_of(path):
        return None
    from fast_router_albert.config import load_config  # noqa: PLC0415 - an adapter, not a dependency

    return load_config(path, discover=False)


def load_settings(path: str | None = None, **overrides: Any) -> CelerySettings:
    """As `celery_routing.config.load_settings`, for Albert API / OpenGateLLM files too.

    Raises:
        ConfigurationError: Something is wrong with the file or a value; the message names it.
    """
    albert = None if path is None else _albert(path)
    if albert is None:
        return config.load_settings(path, **overrides)
    chosen = from_albert(albert) | config.from_options(options.current())
    return CelerySettings(**chosen | {name: value for name, value in overrides.items() if value is not None})


def models_of(path: str) -> list[str]:
    """The ids of the models that a file defines.

    Raises:
        ConfigurationError: The file cannot be read or holds no models.
    """
    albert = _albert(path)
    return config.models_of(path) if albert is None else [model.id for model in albert.models]
