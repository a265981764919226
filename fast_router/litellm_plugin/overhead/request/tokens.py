"""Token counting in LiteLLM's strategies, only where some candidate has a token limit.

The latency, cost and usage strategies count the tokens of the prompt on the event loop (10 ms for
50,000 words) to compare them with each candidate's ``tpm``. Where no candidate has one, the
comparison is with infinity whatever the count is, and nothing else uses it. So the strategy gets no
prompt there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE", "some_token_limit"]


def some_token_limit(candidates: Any) -> bool:
    """Whether any candidate has a ``tpm`` in one of the three places that the strategies read."""
    for candidate in candidates:
        if (
            candidate.get("tpm") is not None
            or candidate["litellm_params"].get("tpm") is not None
            or candidate["model_info"].get("tpm") is not None
        ):
            return True
    return False


def _spared(messages: Any, text: Any, candidates: Any) -> tuple[Any, Any]:
    try:
        if (messages is not None or text is not None) and not some_token_limit(candidates):
            # The counter refuses at once, and the strategy then counts zero.
            return None, None
    except Exception:  # noqa: BLE001  # an unusual candidate: count as LiteLLM does
        pass
    return messages, text


def _synchronous(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_available_deployments(
        self: Any,
        model_group: str,
        healthy_deployments: Any,
        messages: Any = None,
        input: Any = None,  # noqa: A002  # LiteLLM's name
        *more: Any,
        **kwargs: Any,
    ) -> Any:
        messages, input = _spared(messages, input, healthy_deployments)  # noqa: A001
        return original(self, model_group, healthy_deployments, messages, input, *more, **kwargs)

    return get_available_deployments


def _asynchronous(original: Callable[..., Any]) -> Callable[..., Any]:
    async def async_get_available_deployments(
        self: Any,
        model_group: str,
        healthy_deployments: Any,
        messages: Any = None,
        input: Any = None,  # noqa: A002  # LiteLLM's name
        *more: Any,
        **kwargs: Any,
    ) -> Any:
        messages, input = _spared(messages, input, healthy_deployments)  # noqa: A001
        return await original(self, model_group, healthy_deployments, messages, input, *more, **kwargs)

    return async_get_available_deployments


def _by_name(original: Callable[..., Any]) -> Callable[..., Any]:
    def _common_checks_available_deployment(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not args and "healthy_deployments" in kwargs:
            kwargs["messages"], kwargs["input"] = _spared(
                kwargs.get("messages"), kwargs.get("input"), kwargs["healthy_deployments"]
            )
        return original(self, *args, **kwargs)

    return _common_checks_available_deployment


_SITES = {
    "LowestLatency._get_available_deployments": _synchronous,
    "LowestCost.async_get_available_deployments": _asynchronous,
    "LowestTPM.get_available_deployments": _synchronous,
    "LowestTPM_v2._common_checks_available_deployment": _by_name,
}


def _install(patches: PatchSet, parts: Parts) -> bool:
    """Spare the counting in the handlers of LiteLLM's strategies."""
    for name, make in _SITES.items():
        if parts.knows(name):
            place = parts.at(name)
            patches.replace(place.owner, place.name, make)
    return True


FEATURE = Feature(
    "token_counting",
    "counts the prompt's tokens on the event loop for the latency, cost and usage strategies",
    "only where a candidate has a token limit",
    _install,
    any_of=tuple(_SITES),
)
