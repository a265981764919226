"""What LiteLLM would call its own function with, compiled once per deployment.

The template is made by LiteLLM itself: its driver shapes the smallest request for the deployment, and everything in
the outcome that is not the request's is kept. A request is then laid over a copy. Whether that is what LiteLLM would
have done is not taken on trust: `trust` builds both the first time a set of request keys comes by.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_router.litellm_plugin.rust_core.lane.endpoint import Endpoint
    from fast_router.litellm_plugin.rust_core.lane.parts import Parts

__all__ = ["Template", "compile_template", "copied", "shaped_by_litellm"]

_TAGS = "_routing_request_tags"
_TRACE = "litellm_trace_id"
_STATE = "_context_compaction_state"
_STALE = ("previous_models", "request_retry_count")
_CLIENT = "client"
_MOST_KEY_SETS = 64  # so many orders and sets of request keys are remembered per template


class Template:
    """The call of one deployment for one endpoint, streamed or not.

    Attributes:
        model: What LiteLLM's function is asked for.
        base: Its keyword arguments without the request's.
        info: The deployment's `model_info`, copied into each call.
        stamps: What goes into every request's metadata.
        params: The deployment's parameters as it has them.
        shaping: LiteLLM's defaults for timeouts.
        client_key: Under which LiteLLM's cache would keep a client made for the deployment.
        seen: Sets of request keys, in their order, for which LiteLLM's own shaping gave the same.
        surface: What LiteLLM's compaction calls the endpoint; None where no state goes along.
        slots: Whether LiteLLM limits the deployment's calls at a time.
        slots_key: Under which LiteLLM's cache keeps that limit.
        tracks: Whether LiteLLM counts the deployment's tokens and requests of the minute.
    """

    __slots__ = (
        "_nested", "base", "client_key", "info", "model", "params", "seen", "shaping",
        "slots", "slots_key", "stamps", "surface", "tracks",
    )  # fmt: skip

    def __init__(
        self,
        base: dict[str, Any],
        stamps: dict[str, Any],
        info: dict[str, Any],
        params: Mapping[str, Any],
        shaping: Any,
        client_key: str,
    ) -> None:
        self.model = base["model"]
        self.base = base
        self.info = info
        self.stamps = stamps
        self.params = params
        self.shaping = shaping
        self.client_key = client_key
        self.seen: set[tuple[str, ...]] = set()
        self.slots = False
        self.slots_key = ""
        self.surface: str | None = None
        self.tracks = False
        # LiteLLM reads the deployment anew for every call: what can be changed in place must not be shared.
        self._nested = tuple(key for key, value in base.items() if isinstance(value, (dict, list)))

    def remember(self, keys: tuple[str, ...]) -> None:
        """Note that requests with these keys are shaped right."""
        if len(self.seen) >= _MOST_KEY_SETS:
            self.seen.clear()
        self.seen.add(keys)

    def build(self, parts: Parts, endpoint: Endpoint, request: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments for `request`, and the stamps of LiteLLM's routing in its own metadata."""
        call = self.base.copy()
        call.update(request)
        call["model"] = self.model
        for key in self._nested:
            if key not in request:
                call[key] = copied(call[key])
        call["model_info"] = info = {key: copied(value) for key, value in self.info.items()}
        if _TRACE not in request:
            call[_TRACE] = str(uuid.uuid4())
        if self.surface is not None:
            call[_STATE] = parts.compaction_state(surface=self.surface)
        field = endpoint.field
        metadata = request.get(field)
        if metadata is None:
            metadata = {}
            call[field] = metadata
        else:
            for key in _STALE:
                metadata.pop(key, None)
        metadata.update(self.stamps)
        metadata["model_info"] = info
        if _TAGS not in metadata:
            metadata[_TAGS] = tuple(parts.tags(call, metadata_variable_name=field)) if "tags" in metadata else ()
        if request.get("tools"):
            call["tools"] = [*request["tools"]]
        if not parts.timeouts.isdisjoint(request):
            given = {key: request[key] for key in (*parts.timeouts, "stream") if key in request}
            plan = endpoint.plan
            parts.set_timeouts(self.shaping, self.params, given, plan.function_name, plan.splits_stream_timeout)
            call.update(given)
        return call


def copied(value: Any) -> Any:
    """A copy of what JSON can hold, down to the last list."""
    kind = type(value)
    if kind is dict:
        return {key: copied(inner) for key, inner in value.items()}
    return [copied(inner) for inner in value] if kind is list else value


def compile_template(parts: Parts, core: Any, endpoint: Endpoint, step: Mapping[str, Any], *, stream: bool) -> Template:
    """The template of the deployment that `step`, an attempt of LiteLLM's, names."""
    asked: dict[str, Any] = {"model": step["model"], **endpoint.asked, endpoint.field: {}}
    if stream:
        asked["stream"] = True
    call = shaped_by_litellm(parts, core, endpoint, step, asked)
    stamps = dict(call.pop(endpoint.field))
    info = stamps.pop("model_info")
    for key in (_TAGS, *_STALE):
        stamps.pop(key, None)
    state = call.pop(_STATE, None)
    for key in (*endpoint.asked, "model_info", _TRACE):
        call.pop(key, None)
    if not endpoint.says_stream:
        call.pop("stream", None)
    suffix = "client" if endpoint.sync else "async_client"
    client_key = f"{step['deployment_id']}_{'stream_' if stream else ''}{suffix}"
    params = step["deployment"]["litellm_params"]
    made = Template(call, stamps, dict(info), params, core._endpoints.shaping(core._resolved), client_key)
    made.slots_key = f"{step['deployment_id']}_max_parallel_requests_client"
    made.surface = getattr(state, "surface", None)
    return made


def shaped_by_litellm(
    parts: Parts, core: Any, endpoint: Endpoint, step: Mapping[str, Any], request: Mapping[str, Any]
) -> dict[str, Any]:
    """What LiteLLM's own driver makes of `request` for the deployment of `step`; nothing is called or counted."""
    given = dict(request)
    if isinstance(given.get(endpoint.field), dict):
        # LiteLLM writes into it.
        given[endpoint.field] = dict(given[endpoint.field])
    if endpoint.says_stream:
        given.setdefault("stream", False)

    def shape() -> Mapping[str, Any]:
        prepared = core._endpoints.prepare(endpoint.plan, given, given["model"])
        parts.arm_compaction(core._port, endpoint.plan, prepared)
        driver = parts.driver(parts.uncounted(core), endpoint.plan, prepared, sync=endpoint.sync, fresh=True)
        opened = {"kind": "retries_opened", "scope": step["scope"], "max_retries": step["max_retries"]}
        driver.take_events([{**opened, "model_group_size": step["model_group_size"]}])
        _, call = driver._call(step)
        kwargs: Mapping[str, Any] = call.kwargs
        return kwargs

    # LiteLLM's shaping sets a ContextVar, which must not reach the request that is running.
    return dict(copy_context().run(shape))
