"""Celery routing's settings and models out of the files that people have.

Two kinds of file are read: LiteLLM's config.yaml (its `model_list`, and `fast_router:` if there is one) and a file of
our options alone; `fast_router_albert.celery_files` reads Albert API / OpenGateLLM files as well. What the environment
or the command line says wins over a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fast_router import settings as options
from fast_router.celery_routing.settings import CelerySettings
from fast_router.errors import ConfigurationError
from fast_router.settings import yaml_file

__all__ = ["document_of", "from_options", "load_settings", "models_of"]


def load_settings(path: str | None = None, **overrides: Any) -> CelerySettings:
    """The settings in force.

    Args:
        path: A configuration file of either kind, None for environment and `configure()` alone.
        overrides: Options given on the command line; None counts as not given.

    Raises:
        ConfigurationError: Something is wrong with the file or a value; the message names it.
    """
    if path is None:
        ours = options.current()
        chosen: dict[str, Any] = {}
    else:
        ours, _ = options.load({"config": path})
        chosen = {}
    chosen |= from_options(ours)
    chosen |= {name: value for name, value in overrides.items() if value is not None}
    return CelerySettings(**chosen)


def models_of(path: str) -> list[str]:
    """The ids of the models that a file defines.

    Raises:
        ConfigurationError: The file cannot be read or holds no models.
    """
    document = document_of(path)
    listed = document.get("model_list")
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise ConfigurationError(f"{path}: model_list must be a list of deployments, found {type(listed).__name__}")
    names = [entry.get("model_name") for entry in listed if isinstance(entry, Mapping)]
    return sorted({name for name in names if isinstance(name, str)})


def from_options(ours: options.Settings) -> dict[str, Any]:
    """Only what somebody set: the rest keeps the defaults of `CelerySettings`, or what a file said."""
    given: dict[str, Any] = {}
    for field in fields(CelerySettings):
        name = "redis_url" if field.name == "redis_url" else f"celery_{field.name}"
        value = vars(ours).get(name)
        if value is not None:
            given[field.name] = value
    return given


def document_of(path: str) -> Mapping[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ConfigurationError: It cannot be read, or holds something else.
    """
    document = yaml_file.read(path)
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise ConfigurationError(f"{path}: expected a mapping, found {type(document).__name__}")
    return document
