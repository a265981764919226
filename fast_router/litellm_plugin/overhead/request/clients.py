"""Clients and slots of a deployment that has neither.

LiteLLM asks its cache twice a request for something that it keeps with a deployment: an OpenAI client, which nobody
puts there any more, and the slots of `max_parallel_requests`. Where the cache has nothing under the key, and nothing
limits the deployment, the answer is None, as LiteLLM's own way over two caches and a calculation finds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]


def _install(patches: PatchSet, parts: Parts) -> bool:
    """Answer `_get_client` where there is nothing; a cache of another class is asked itself."""
    names, memory = parts.names, parts.memory
    cache_name = names.cache
    default = names.prefix + "default_max_parallel_requests"

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _get_client(self: Any, deployment: Any, kwargs: Any, client_type: Any = None) -> Any:
            try:
                kept = getattr(self, cache_name).in_memory_cache
                if type(kept) is memory:
                    if client_type == "async":
                        ending = "_stream_async_client" if kwargs.get("stream") is True else "_async_client"
                        if f"{deployment['model_info']['id']}{ending}" not in kept.cache_dict:
                            return None
                    elif client_type is None:
                        # LiteLLM would ask Redis as well, where no client can be.
                        ending = "_stream_client" if kwargs.get("stream") is True else "_client"
                        if f"{deployment['model_info']['id']}{ending}" not in kept.cache_dict:
                            return None
                    elif client_type == "max_parallel_requests":
                        params = deployment["litellm_params"]
                        if (
                            params.get("rpm") is None
                            and params.get("tpm") is None
                            and params.get("max_parallel_requests") is None
                            and getattr(self, default) is None
                            and f"{deployment['model_info']['id']}_max_parallel_requests_client" not in kept.cache_dict
                        ):
                            return None
            except Exception:  # noqa: BLE001  # LiteLLM's own method answers, or raises its own error
                pass
            return original(self, deployment, kwargs, client_type)

        return _get_client

    patches.replace(names.core, parts.at("_get_client").name, make)
    return True


FEATURE = Feature(
    "clients",
    "looks for a client and for parallel slots that nobody made",
    "not where nothing is there and nothing limits the deployment",
    _install,
    needs=("_get_client", "set_max_parallel_requests_client"),
)
