"""LiteLLM's proxy as an ASGI application with fast_router in it.

For servers that take an application's name:

    CONFIG_FILE_PATH=config.yaml uvicorn fast_router.asgi:app --workers 4
    CONFIG_FILE_PATH=config.yaml gunicorn fast_router.asgi:app -k uvicorn.workers.UvicornWorker -w 4

It is LiteLLM's own application, unchanged: `litellm.proxy.proxy_server:app`, which reads CONFIG_FILE_PATH.
"""

from __future__ import annotations

from typing import Any

import fast_router.auto  # noqa: F401 - first of all: what LiteLLM loads from here on is covered
from fast_router.errors import ConfigurationError

__all__ = ["app"]

try:
    from litellm.proxy.proxy_server import app as _app
except ImportError as error:
    msg = f"LiteLLM's proxy cannot be imported ({error}); install it with: pip install 'litellm[proxy]'"
    raise ConfigurationError(msg) from error

app: Any = _app
