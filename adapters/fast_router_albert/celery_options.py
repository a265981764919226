"""Celery routing's options as an Albert file names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from fast_router import settings as options
from fast_router.celery_routing.config import from_options
from fast_router.celery_routing.settings import CelerySettings

__all__ = ["albert_options", "from_albert", "settings_of"]


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


def settings_of(config: Any) -> CelerySettings:
    """The settings that an Albert configuration and our own options make together; the options win.

    Args:
        config: An `AlbertConfig`.

    Raises:
        ConfigurationError: A value is wrong.
    """
    return CelerySettings(**from_albert(config) | from_options(options.current()))


def from_albert(config: Any) -> dict[str, Any]:
    """What an Albert configuration says about Celery and its Redis, as options of `CelerySettings`."""
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
    chosen = from_albert(config)
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
