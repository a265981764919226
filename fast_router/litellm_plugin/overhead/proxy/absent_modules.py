"""Packages that are not installed, which LiteLLM's proxy tries to import with every request.

Python does not remember that an import failed, and LiteLLM's own module that wants the package is executed again up to
that line each time: a quarter of a millisecond a request for OpenTelemetry and Prisma, where neither is there.
"""

from __future__ import annotations

import importlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.fingerprints import is_known
from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]

_NAME = "absent_modules"


class _Package:
    """Whether a module is absent, tried once. One that is there and broken is not: LiteLLM finds that out itself."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tried = False
        self._error: ImportError | None = None

    def error(self) -> ImportError | None:
        """What importing it raises, None if it is there; made anew, since a raised one collects tracebacks."""
        if not self._tried:
            try:
                importlib.import_module(self._name)
            except ImportError as error:
                self._error = error.with_traceback(None)
            except Exception:  # noqa: BLE001, S110, RUF100 - whatever its import does, it is not absent
                pass
            self._tried = True
        known = self._error
        return None if known is None else type(known)(*known.args, name=known.name, path=known.path)


def _install(patches: PatchSet, _parts: Parts) -> bool:
    """Remember what is not there, once the proxy is: what is patched later is told by `patches.late`."""
    patches.when_imported("litellm.proxy.auth.user_api_key_auth", partial(_destinations, patches))
    patches.when_imported("litellm.proxy.db.log_db_metrics", partial(_database_errors, patches))
    return False


def _destinations(patches: PatchSet, module: ModuleType) -> list[str]:
    """Where a tenant's traces go: nowhere without OpenTelemetry, which LiteLLM notes in its debug log."""
    name = "_seed_request_destinations"
    if not is_known(name, vars(module).get(name)):
        return []
    wanted = _Package("litellm.integrations.otel.logger")
    logger: logging.Logger = module.verbose_proxy_logger

    def make(original: Callable[..., None]) -> Callable[..., None]:
        def _seed_request_destinations(user_api_key_dict: Any, request: Any = None) -> None:
            if logger.isEnabledFor(logging.DEBUG) or not patches.open or wanted.error() is None:
                original(user_api_key_dict, request)

        return _seed_request_destinations

    patches.replace(module, name, make)
    return [_NAME]


def _database_errors(patches: PatchSet, module: ModuleType) -> list[str]:
    """Whether an error is the database's: LiteLLM raises the import's error where Prisma is not installed."""
    known = "is_exception_related_to_db"
    name = known if known in vars(module) else f"_{known}"
    if not is_known(known, vars(module).get(name)):
        return []
    wanted = _Package("prisma.errors")

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def is_exception_related_to_db(e: Any) -> Any:
            # Others have imported the name since and keep ours, also when we are gone.
            error = wanted.error() if patches.open else None
            if error is not None:
                raise error
            return original(e)

        return is_exception_related_to_db

    patches.replace(module, name, make)
    return [_NAME]


FEATURE = Feature(
    _NAME,
    "the proxy tries to import OpenTelemetry and Prisma, where they are not installed",
    "tried once",
    _install,
    waits=True,
)
