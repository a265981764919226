"""The packages that extras bring, and what to say where one is missing."""

from __future__ import annotations

__all__ = ["is_extra", "needs", "remedy"]

# By module: the extra, and the package's name on the index.
_PACKAGES = {
    "rich": ("cli", "rich"),
    "prometheus_client": ("metrics", "prometheus-client"),
    "starlette": ("dashboard", "starlette"),
    "uvicorn": ("dashboard", "uvicorn"),
    "redis": ("redis", "redis"),
    "celery": ("celery", "celery"),
    "kombu": ("celery", "kombu"),
    "amqp": ("celery", "amqp"),
    "matplotlib": ("plots", "matplotlib"),
    "zmq": ("kv-events", "pyzmq"),
    "msgspec": ("kv-events", "msgspec"),
}


def is_extra(module: str | None) -> bool:
    """Whether a module, or one inside it, belongs to an extra of ours."""
    return _top(module) in _PACKAGES


def needs(what: str, module: str | None, extra: str = "") -> str:
    """Say in one sentence that a package is missing, and how to install it.

    Args:
        what: What cannot do without it.
        module: The module that was not found.
        extra: The extra that brings it, where `module` is not one of those known here.
    """
    package = _PACKAGES.get(_top(module), ("", _top(module) or "a package"))[1]
    return f"{what} needs {package}, which is not installed: {remedy(module, extra)}"


def remedy(module: str | None, extra: str = "") -> str:
    """How to install what brings a module: by the checkout's extra, as fast-router is not on the index."""
    extra, package = _PACKAGES.get(_top(module), (extra, _top(module)))
    return f"pip install {package}, or pip install '.[{extra}]' in the checkout of fast_router"


def _top(module: str | None) -> str:
    return (module or "").partition(".")[0]
