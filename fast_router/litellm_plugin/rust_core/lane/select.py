"""The pick lane: a deployment for whoever asks the Router for one, without a walk, and without a lease.

`Router.select` and the methods that it took the place of answer with a copy of the deployment as LiteLLM reads it;
who connects to it by himself tells nobody how that went.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.rust_core.lane.replay import replaying
from fast_router.litellm_plugin.rust_core.lane.template import copied
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.rust_core.lane.endpoint import Endpoint
    from fast_router.litellm_plugin.rust_core.lane.lane import Lane

__all__ = ["install"]


class _Picks:
    """Picks of one kind.

    Args:
        lane: Knows which groups are open.
        endpoint: Whose picks these are like.
    """

    def __init__(self, lane: Lane, endpoint: Endpoint) -> None:
        self.lane = lane
        self.endpoint = endpoint
        self.typed = import_module("litellm.router_rust.surface.model_list").typed_deployment
        self.endpoint_of_call = import_module("litellm.router_utils.endpoint_eligibility").selected_endpoint

    def pick(
        self, core: Any, model: Any, request: Mapping[str, Any] | None, messages: Any, text: Any, *, specific: Any
    ) -> dict[str, Any] | None:
        """A deployment, None if the pick is LiteLLM's."""
        if specific or self.endpoint_of_call() is not None or replaying() is not None:
            return None
        try:
            found = self._pick(core, model, request, messages, text)
        except Exception as error:  # noqa: BLE001 - LiteLLM's own pick answers
            tally.failed(error, "a pick")
            return None
        if isinstance(found, str):
            tally.count(tally.delegated, found)
            return None
        tally.fast += 1
        return found

    def _pick(
        self, core: Any, model: Any, request: Mapping[str, Any] | None, messages: Any, text: Any
    ) -> dict[str, Any] | str:
        asked = {**request, "model": model} if request else {"model": model}
        if messages is not None:
            asked["messages"] = messages
        lane, found = self.lane.open(core, self.endpoint, asked)
        if isinstance(found, str):
            return found
        if text is not None:
            asked["input"] = text
        ask = self.lane.asked(lane.binding, core, found, asked)
        deployment = None if found.group is None else lane.binding.engine.peek(found.group, ask)
        if deployment is None:
            return "nobody is eligible"
        record = found.records.get(deployment.id)
        if record is None:
            record = found.records[deployment.id] = dict(self.typed(found.handle.deployment(deployment.id)))
        picked: dict[str, Any] = copied(record)
        return picked


def _select(original: Any, picks: _Picks) -> Any:
    async def select(
        self: Any,
        model: Any,
        request_kwargs: Any = None,
        *,
        kind: str = "pick",
        specific_deployment: Any = None,
        messages: Any = None,
        input: Any = None,  # noqa: A002 - LiteLLM's own word
        health_check_probe: bool = False,
        **others: Any,
    ) -> Any:
        if kind == "pick" and not health_check_probe:
            found = picks.pick(self, model, request_kwargs, messages, input, specific=specific_deployment)
            if found is not None:
                return found
        return await original(
            self,
            model,
            request_kwargs,
            kind=kind,
            specific_deployment=specific_deployment,
            messages=messages,
            input=input,
            health_check_probe=health_check_probe,
            **others,
        )

    return select


def _get_available_deployment(original: Any, picks: _Picks) -> Any:
    def get_available_deployment(
        self: Any,
        model: Any,
        messages: Any = None,
        input: Any = None,  # noqa: A002 - LiteLLM's own word
        specific_deployment: Any = False,
        request_kwargs: Any = None,
    ) -> Any:
        found = picks.pick(self, model, request_kwargs, messages, input, specific=specific_deployment)
        if found is not None:
            return found
        return original(self, model, messages, input, specific_deployment, request_kwargs)

    return get_available_deployment


def install(patches: PatchSet, lane: Lane, asynchronous: Endpoint, synchronous: Endpoint) -> None:
    """Pick for whoever asks for a deployment alone."""
    core = lane.band.core
    patches.replace(core, "select", lambda original: _select(original, _Picks(lane, asynchronous)))
    patches.replace(
        core,
        "get_available_deployment",
        lambda original: _get_available_deployment(original, _Picks(lane, synchronous)),
    )
