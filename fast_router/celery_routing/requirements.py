"""The packages of Celery routing: one error that says what to install, for whoever imports it without them.

Imported before anything that needs them. Only the worker needs Celery itself.
"""

from __future__ import annotations

from importlib import import_module

__all__: list[str] = []

for _name in ("redis", "kombu", "amqp"):
    try:
        import_module(_name)
    except ModuleNotFoundError as error:
        msg = f"Celery routing needs {error.name}: pip install 'fast-router[celery]'"
        raise ModuleNotFoundError(msg, name=error.name) from None
