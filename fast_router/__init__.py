"""fast_router: exact, constant-time picks and real failover for LiteLLM.

`import fast_router`, before or after litellm, and `litellm.Router` picks through it. Importing does not import
LiteLLM and costs a few milliseconds. `FAST_ROUTER_ENABLED=0` turns it off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.hook import advanced_router, disable, enable, install_hook, invalidate
from fast_router.litellm_plugin.report import status
from fast_router.version import __version__ as __version__

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from fast_router.engine import Lease, Strategy, known_strategies, register_strategy
    from fast_router.errors import (
        ConfigurationError,
        FastRouterError,
        ModelBusyError,
        NoDeploymentError,
        UnknownModelError,
        UnknownStrategyError,
    )
    from fast_router.router import AdvancedRouter
    from fast_router.settings import configure

__all__ = [
    "AdvancedRouter",
    "ConfigurationError",
    "FastRouterError",
    "Lease",
    "ModelBusyError",
    "NoDeploymentError",
    "Strategy",
    "UnknownModelError",
    "UnknownStrategyError",
    "advanced_router",
    "configure",
    "disable",
    "enable",
    "get_available_deployment",
    "invalidate",
    "known_strategies",
    "load_albert",
    "register_strategy",
    "status",
]

_routers: dict[str, AdvancedRouter] = {}


def get_available_deployment(
    model_list: Sequence[Mapping[str, Any]],
    model: str,
    blocked_models: Collection[str] | None = None,
    context: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Pick a deployment of `model` from the caller's list, as the method of `AdvancedRouter` does.

    Args:
        model_list: LiteLLM deployments or plain dicts with `model_name`.
        model: The model name.
        blocked_models: Words that rule a deployment out (model_name, litellm_params.model, id or name).
        context: About the request: `region` keeps to deployments whose `metadata.region` is it, if there are any.
        settings: `strategy` (or `routing_strategy`): a strategy's name, default simple_shuffle.

    Returns:
        The caller's own dict, None when nothing fits.

    Raises:
        UnknownStrategyError: The strategy's name is unknown.
        ConfigurationError: The list is malformed; the message names the entry.
    """
    from fast_router.router import AdvancedRouter  # noqa: PLC0415 - most programs that import us never call this

    strategy = "simple_shuffle"
    if settings:
        strategy = settings.get("strategy") or settings.get("routing_strategy") or strategy
    router = _routers.get(strategy)
    if router is None:
        router = _routers.setdefault(strategy, AdvancedRouter(strategy))
    if context and context.get("region"):
        region = context["region"]
        near = [entry for entry in model_list if (entry.get("metadata") or {}).get("region") == region]
        found = router.get_available_deployment(near, model, blocked_models) if near else None
        if found is not None:
            return found
    return router.get_available_deployment(model_list, model, blocked_models)


def load_albert(path: Any, **options: Any) -> Any:
    """Read an Albert API / OpenGateLLM file.

    `litellm.model_list = fast_router.load_albert("config.yml").model_list` routes by it.

    Raises:
        fast_router_albert.AlbertConfigError: The file is wrong; all its problems in one report.
    """
    from fast_router_albert import load_config  # noqa: PLC0415

    return load_config(path, **options)


# Imported when first asked for: `import fast_router` alone should cost a program next to nothing.
_LAZY = {
    "AdvancedRouter": "fast_router.router",
    "ConfigurationError": "fast_router.errors",
    "FastRouterError": "fast_router.errors",
    "Lease": "fast_router.engine",
    "ModelBusyError": "fast_router.errors",
    "NoDeploymentError": "fast_router.errors",
    "Strategy": "fast_router.engine",
    "UnknownModelError": "fast_router.errors",
    "UnknownStrategyError": "fast_router.errors",
    "configure": "fast_router.settings",
    "handler": "fast_router.handler",
    "known_strategies": "fast_router.engine",
    "register_strategy": "fast_router.engine",
}


# Packages that documentation names through this one, as in `fast_router.observe.metrics.register()`.
_PACKAGES = frozenset({"cluster", "observe"})


def __getattr__(name: str) -> Any:
    from importlib import import_module  # noqa: PLC0415

    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    module = _LAZY.get(name)
    if module is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    found = globals()[name] = getattr(import_module(module), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)


install_hook()
