"""What LiteLLM records of a success: its counts of the minute, and the headers on the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_router.litellm_plugin.rust_core.lane.endpoint import Endpoint
    from fast_router.litellm_plugin.rust_core.lane.guard import Open
    from fast_router.litellm_plugin.rust_core.lane.parts import Parts
    from fast_router.litellm_plugin.rust_core.lane.template import Template

__all__ = [
    "blocked",
    "headed",
    "headed_sync",
    "opened",
    "opened_sync",
    "picked",
    "succeeded",
    "succeeded_sync",
    "success_counted",
]

_SECONDS = 60


def blocked(parts: Parts, endpoint: Endpoint, response: Any) -> bool:
    """Whether a filter stopped the answer: a fallback may take its place."""
    if endpoint.plan.kind != "chat":
        return endpoint.invoked == "anthropic_messages" and parts.refusal(response) is not None
    if not isinstance(response, parts.model_response):
        return False
    choices = response.choices
    return not choices or choices[0].finish_reason == "content_filter"


def _raised(parts: Parts, memory: Any, key: str) -> bool:
    """Count one more under `key` where the count lies; False where LiteLLM has to begin it."""
    if type(memory) is not parts.memory or not memory.max_size_in_memory:
        return False
    with memory._increment_lock:
        value = memory.cache_dict.get(key)
        ends = memory.ttl_dict.get(key)
        if (
            type(value) is not int
            or ends is None
            or ends <= memory._clock() + 1  # so near that it could pass on the way
            or len(memory.cache_dict) >= memory.max_size_in_memory  # LiteLLM's own write would throw somebody out
        ):
            return False
        heap = memory.expiration_heap
        if heap and heap[0][0] <= memory._clock():
            return False  # LiteLLM's own write would throw out what has expired
        memory.cache_dict[key] = value + 1
    return True


def picked(parts: Parts, core: Any, id_: str, request: Any) -> None:
    """Count a pick, as LiteLLM does for chat."""
    cache = core._cache
    memory = cache.in_memory_cache
    if _raised(parts, memory, id_):
        return
    if type(memory) is not parts.memory or cache.default_in_memory_ttl is not None:
        core.track_deployment_pick(id_, request)
        return
    # In a fleet larger than its memory LiteLLM begins most counts anew.
    count = memory.get_cache(id_)
    if count is None:
        memory.set_cache(id_, 1, ttl=_SECONDS)
    else:
        memory.set_cache(id_, count + 1)


def success_counted(parts: Parts, core: Any, id_: str) -> bool:
    """Count a success in the minute where the count lies; False where LiteLLM's cache is another one."""
    memory = core._cache.in_memory_cache
    key = id_ + ":successes"
    if _raised(parts, memory, key):
        return True
    if type(memory) is not parts.memory:
        return False
    memory.increment_cache(key, 1, ttl=_SECONDS)
    return True


async def succeeded(parts: Parts, core: Any, template: Template, id_: str, response: Any) -> None:
    """Count a success and, where LiteLLM counts them, its tokens and requests of the minute."""
    if template.tracks:
        tokens = parts.core.total_tokens(response)
        if not parts.books.count(core, template.model, id_, tokens):
            await core._drive_cache_steps(core._handle.report_success(id_, tokens, 1, template.model, True))
            return
    if not success_counted(parts, core, id_):
        await core._cache.async_increment_cache(id_ + ":successes", 1, local_only=True, ttl=_SECONDS)


def succeeded_sync(parts: Parts, core: Any, template: Template, id_: str, response: Any) -> None:
    """The same for a synchronous call."""
    if template.tracks:
        tokens = parts.core.total_tokens(response)
        if not parts.books.count(core, template.model, id_, tokens):
            core._drive_sync_steps(core._handle.report_success(id_, tokens, 1, template.model, True))
            return
    cache = core._cache
    key = id_ + ":successes"
    if not _raised(parts, cache.in_memory_cache, key):
        cache.increment_cache(key, 1, local_only=True, ttl=_SECONDS)


def _keys(parts: Parts, core: Any, template: Template, id_: str) -> list[str]:
    minute = parts.minute()
    return [core._handle.usage_key(id_, template.model, metric, minute) for metric in ("tpm", "rpm")]


async def opened(parts: Parts, core: Any, template: Template, id_: str, tokens: int) -> None:
    """Count a stream that will tell its success when it ends: where LiteLLM counts requests, that it was one."""
    if template.tracks and not parts.books.count(core, template.model, id_, tokens):
        await core._increment_usage(_keys(parts, core, template, id_), [tokens, 1])


def opened_sync(parts: Parts, core: Any, template: Template, id_: str, tokens: int) -> None:
    """The same for a synchronous call."""
    if template.tracks and not parts.books.count(core, template.model, id_, tokens):
        core._stores.increment_usage_sync(_keys(parts, core, template, id_), [tokens, 1])


def _head(parts: Parts, found: Open, response: Any, id_: str) -> tuple[Any, dict[str, Any] | None]:
    """The answer with LiteLLM's headers but for those of limits and counts; None where it takes no headers."""
    hidden = getattr(response, "_hidden_params", None)
    if type(hidden) is not dict:
        tools = parts.headers
        response = tools.prepare_response_for_header_attachment(response)
        if response is None:
            return None, None
        additional: dict[str, Any] = tools.ensure_response_additional_headers(response)
        tools.apply_response_model_id(response, {"model_info": {"id": id_}})
        additional["x-litellm-model-group"] = found.name
        return response, additional
    headers = hidden.get("additional_headers")
    if type(headers) is not dict:
        headers = hidden["additional_headers"] = {}
    if not hidden.get("model_id"):
        hidden["model_id"] = id_
    headers["x-litellm-model-group"] = found.name
    return response, headers


def _counted(parts: Parts, response: Any, headers: dict[str, Any]) -> Any:
    if getattr(response, "_hidden_params", None) is not None:
        headers["x-litellm-attempted-retries"] = 0
        headers["x-litellm-attempted-fallbacks"] = 0
        return response
    tools = parts.headers
    response = tools.add_retry_headers_to_response(response=response, attempted_retries=0)
    return tools.add_fallback_headers_to_response(response=response, attempted_fallbacks=0)


def _remains(core: Any, found: Open) -> bool:
    """Whether LiteLLM would tell what remains of the group's limits."""
    if found.remaining is None:
        info = core._hosted._cached_get_model_group_info(found.name)
        found.remaining = info is not None and any(
            getattr(info, key, None) is not None for key in ("tpm", "rpm", "itpm", "otpm")
        )
    return found.remaining


async def headed(parts: Parts, core: Any, found: Open, response: Any, id_: str) -> Any:
    """The answer with LiteLLM's headers."""
    headed_, headers = _head(parts, found, response, id_)
    if headers is None:
        return response
    if _remains(core, found):
        remaining = parts.books.remaining(core, found)
        if remaining is None:
            remaining = await core.health().usage(found.name, kind="remaining")
        parts.headers.apply_remaining_usage_headers(headers, dict(remaining))
    return _counted(parts, headed_, headers)


def headed_sync(parts: Parts, core: Any, found: Open, response: Any, id_: str) -> Any:
    """The same for a synchronous call."""
    headed_, headers = _head(parts, found, response, id_)
    if headers is None:
        return response
    if _remains(core, found):
        remaining = parts.books.remaining(core, found)
        if remaining is None:
            remaining = core._hosted._core_get_remaining_model_group_usage_sync(found.name, core.io_token_usage_sync)
        parts.headers.apply_remaining_usage_headers(headers, remaining)
    return _counted(parts, headed_, headers)
