"""Clients and slots of a deployment that has neither.

LiteLLM asks its cache twice a request for something that it keeps with a deployment: an OpenAI client, which nobody
puts there any more, and the slots of `max_parallel_requests`. Where the cache has nothing under the key, and nothing
limits the deployment, the answer is None, as LiteLLM's own way over two caches and a calculation finds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.fingerprints import is_known, member

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.bands.member_names import Names
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE", "install"]

FEATURE = "clients"


def install(patches: PatchSet, names: Names, memory: type[Any], initialiser: Any) -> list[str]:
    """Answer `_get_client` where there is nothing.

    Args:
        patches: Where to register the replacement.
        names: Where this version keeps what.
        memory: `InMemoryCache`; another class of cache is asked itself.
        initialiser: The class that makes the slots.
    """
    found = member(names.core, "_get_client")
    slots = "set_max_parallel_requests_client"
    made = None if initialiser is None else member(initialiser, slots)
    if found is None or not is_known(*found) or made is None or not is_known(*made):
        return []
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

    patches.replace(names.core, found[0], make)
    return [FEATURE]
