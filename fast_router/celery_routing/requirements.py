"""The packages of Celery routing: one error that says what to install, for whoever imports it without them.

Imported before anything that needs them. Only the worker needs Celery itself.
"""

from __future__ import annotations

from importlib import import_module

from fast_router import extras

__all__: list[str] = []

for _name in ("redis", "kombu", "amqp"):
    try:
        import_module(_name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(extras.needs("Celery routing", error.name, "celery"), name=error.name) from None
