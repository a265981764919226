"""Decisions in the worker's own event loop, without a pool in between.

A pool is for tasks that take long. A routing decision is one round trip to Redis, and handing it to a pool's process
and back costs several times as much. Celery lets a task say how its messages are handled (`Task.Strategy`): this one
decides at once and acknowledges then and there, so nothing waits for a timer either, and a worker that dies in the
middle has acknowledged nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

__all__ = ["strategy"]

logger = logging.getLogger("fast_router.celery.worker")


def strategy(_task: Any, app: Any, consumer: Any, **_options: Any) -> Callable[..., None]:
    """The `Task.Strategy` of the routing task: what becomes of one message.

    Raises (in the handler):
        kombu.exceptions.DecodeError, ContentDisallowed: It is not JSON; Celery rejects it.
    """
    decide = app.fast_router_decide
    connection_errors = consumer.connection_errors

    def handle(message: Any, _body: Any, _ack: Any, _reject: Any, _callbacks: Any, **_kwargs: Any) -> None:
        # Decoded by kombu, which refuses everything but JSON.
        arguments = message.decode()
        try:
            decide(arguments[0][0])
        except (LookupError, TypeError) as error:
            logger.warning("a task is not one of ours (%s)", type(error).__name__)
        message.ack_log_error(logger, connection_errors)

    return handle
