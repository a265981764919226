"""Celery routing's feature switch: nothing of Celery is imported before somebody asks for it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fast_router import extras, settings

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]

_log = logging.getLogger("fast_router.celery")


def install(patches: PatchSet, band: Band) -> list[str]:
    """Have routing workers choose, if the settings say `routing: celery` when LiteLLM is patched.

    Raises:
        ModuleNotFoundError: The `celery` extra is not installed.
        ConfigurationError: The settings of Celery routing are wrong.
    """
    if settings.current().routing != "celery":
        return []
    try:
        from fast_router.litellm_plugin.layers import routing_worker  # noqa: PLC0415
    except ModuleNotFoundError as error:
        _log.warning(
            "%s; until then it is off, and requests are picked locally",
            extras.needs("Celery routing", error.name, "celery"),
        )
        raise
    return routing_worker.install(patches, band)
