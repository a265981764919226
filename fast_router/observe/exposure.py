"""The option `metrics`: one process of this user answers Prometheus for all of them.

Whichever process gets the port does; the others try again every ten seconds, so that one takes over when it is gone.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from fast_router import settings
from fast_router.errors import ConfigurationError

__all__ = ["see_to_it"]

_log = logging.getLogger("fast_router")


class _State:
    server: Any = None
    pid = 0
    hopeless = False


def see_to_it() -> None:
    """Answer if the option says so and nobody else does."""
    options = settings.current()
    if not options.metrics or _State.hopeless or (_State.server is not None and _State.pid == os.getpid()):
        return
    from fast_router.observe.metrics import serve  # noqa: PLC0415 - it asks for prometheus_client

    try:
        _State.server, _ = serve(options.metrics_port, options.metrics_address)
    except OSError:
        return  # another worker has it
    except ConfigurationError as error:
        _State.hopeless = True
        _log.warning("the option metrics has no effect: %s", error)
        return
    _State.pid = os.getpid()
    _log.info("metrics of all workers at http://%s:%d/metrics", options.metrics_address, options.metrics_port)
