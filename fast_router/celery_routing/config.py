"""Celery routing's settings and models out of the files that people have.

Three kinds of file are read: LiteLLM's config.yaml (its `model_list`, and `fast_router:` if there is one),
a file of our options alone, and an Albert API / OpenGateLLM file of any dialect. What the environment or the
command line says wins over a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from fast_router import settings as options
from fast_router.celery_routing.settings import CelerySettings
from fast_router.errors import ConfigurationError

__all__ = ["albert_options", "load_settings", "models_of", "settings_of"]

# Albert's names, oldest last: option → where it stands in `settings`.
_ALBERT = {
    "broker_url": ("celery_broker_url",),
    "queue_prefix": ("celery_default_queue_prefix",),
    "max_priority": ("routing_max_priority", "celery_task_max_priority"),
    "max_retries": ("routing_max_retries", "celery_task_max_retries"),
    "retry_countdown": ("routing_retry_countdown", "celery_task_retry_countdown"),
    "soft_time_limit": ("celery_task_soft_time_limit",),
}
# A variable that the file names is text.
_TRUE = (True, "true", "True", "1", "yes", "on")


def load_settings(path: str | None = None, **overrides: Any) -> CelerySettings:
    """The settings in force.

    Args:
        path: A configuration file of any of the three kinds, None for environment and `configure()` alone.
        overrides: Options given on the command line; None counts as not given.

    Raises:
        ConfigurationError: Something is wrong with the file or a value; the message names it.
    """
    if path is None:
        ours = options.current()
        chosen: dict[str, Any] = {}
    elif (albert := _albert(path)) is not None:
        ours = options.current()
        chosen = _from_albert(albert)
    else:
        ours, _ = options.load({"config": path})
        chosen = {}
    chosen |= _from_options(ours)
    chosen |= {name: value for name, value in overrides.items() if value is not None}
    return CelerySettings(**chosen)


def settings_of(config: Any) -> CelerySettings:
    """The settings that an Albert configuration and our own options make together; the options win.

    Args:
        config: An `AlbertConfig`.

    Raises:
        ConfigurationError: A value is wrong.
    """
    return CelerySettings(**_from_albert(config) | _from_options(options.current()))


def models_of(path: str) -> list[str]:
    """The ids of the models that a file defines.

    Raises:
        ConfigurationError: The file cannot be read or holds no models.
    """
    albert = _albert(path)
    if albert is not None:
        return [model.id for model in albert.models]
    document = _document(path)
    listed = document.get("model_list")
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise ConfigurationError(f"{path}: model_list must be a list of deployments, found {type(listed).__name__}")
    names = [entry.get("model_name") for entry in listed if isinstance(entry, Mapping)]
    return sorted({name for name in names if isinstance(name, str)})


def _from_options(ours: options.Settings) -> dict[str, Any]:
    """Only what somebody set: the rest keeps the defaults of `CelerySettings`, or what a file said."""
    given: dict[str, Any] = {}
    for field in fields(CelerySettings):
        name = "redis_url" if field.name == "redis_url" else f"celery_{field.name}"
        value = vars(ours).get(name)
        if value is not None:
            given[field.name] = value
    return given


def _document(path: str) -> Mapping[str, Any]:
    import yaml  # noqa: PLC0415 - only the worker's command reads files

    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror or error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise ConfigurationError(f"{path}: not valid YAML{where}") from None
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise ConfigurationError(f"{path}: expected a mapping, found {type(document).__name__}")
    return document


def _albert(path: str) -> Any:
    """The file as an Albert configuration, None if it is not one (those have `models`)."""
    if "models" not in _document(path):
        return None
    from fast_router_albert import load_config  # noqa: PLC0415 - an adapter, not a dependency

    return load_config(path, discover=False)


def _from_albert(config: Any) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for option, names in _ALBERT.items():
        for name in names:
            if config.settings.get(name) is not None:
                chosen[option] = config.settings[name]
                break
    celery = _arguments_of(config.dependencies.get("celery"))
    if celery.get("broker_url"):
        chosen["broker_url"] = celery["broker_url"]
    redis = _arguments_of(config.dependencies.get("redis"))
    # Without a Redis of its own the file means the one that Celery uses.
    for url in (
        redis.get("url") or _redis_url(redis),
        celery.get("result_backend"),
        config.settings.get("celery_result_backend"),
        chosen.get("broker_url"),
    ):
        if url and urlsplit(str(url)).scheme in ("redis", "rediss", "unix"):
            chosen["redis_url"] = url
            break
    return chosen


def _arguments_of(dependency: Any) -> Mapping[str, Any]:
    if not isinstance(dependency, Mapping):
        return {}
    arguments = dependency.get("args", dependency)
    return arguments if isinstance(arguments, Mapping) else {}


def albert_options(config: Any) -> dict[str, Any]:
    """The options of fast_router that an Albert configuration stands for, if it enables Celery; else none.

    It does with a broker (`settings.celery_broker_url` or `dependencies.celery`), unless it says
    `celery_task_always_eager`: tasks then run where they are made, which is what a local pick is.

    Args:
        config: An `AlbertConfig`.
    """
    chosen = _from_albert(config)
    if not chosen.get("broker_url") or config.settings.get("celery_task_always_eager") in _TRUE:
        return {}
    return {
        "routing": "celery",
        **{name if name == "redis_url" else f"celery_{name}": value for name, value in chosen.items()},
    }


def _redis_url(parts: Mapping[str, Any]) -> str | None:
    if not parts.get("host"):
        return None
    secret = ""
    if parts.get("password"):
        secret = f"{quote(str(parts.get('username') or ''), safe='')}:{quote(str(parts['password']), safe='')}@"
    return f"redis://{secret}{parts['host']}:{parts.get('port') or 6379}/{parts.get('db') or 0}"
