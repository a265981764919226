"""The headers of an answer, written without asking pydantic where its private values are.

LiteLLM keeps its headers in `_hidden_params`, a private value of its answers, and reads or writes that about ten
times a request. pydantic finds a private value last of all, by an exception of its own; it lies in a plain dict all
the time. Answers of any class that finds its values in another way are left to LiteLLM.
"""

from __future__ import annotations

import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.fingerprints import is_known
from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]

_HIDDEN = "_hidden_params"
_NONE: Mapping[str, str] = MappingProxyType({})


class _Kinds(dict[type, bool]):
    """Class → whether its hidden parameters lie where pydantic keeps private values."""

    def __missing__(self, kind: type) -> bool:
        from pydantic import BaseModel  # noqa: PLC0415 - LiteLLM has it loaded

        answer = (
            issubclass(kind, BaseModel)
            and _HIDDEN in kind.__private_attributes__
            and not hasattr(kind.__private_attributes__[_HIDDEN].default, "__get__")
            and not hasattr(kind.__private_attributes__[_HIDDEN].default, "__set__")
            and kind.__getattr__ is BaseModel.__getattr__  # type: ignore[attr-defined]  # hidden from type checkers
            and kind.__setattr__ is BaseModel.__setattr__
            and kind.__getattribute__ is object.__getattribute__
        )
        if "<locals>" not in kind.__qualname__:  # such a class may be one of very many
            self[kind] = answer
        return answer


def _install(patches: PatchSet, parts: Parts) -> bool:
    module = parts.module
    # The module has moved between versions: it is where the Router's module has this function from.
    headers = sys.modules.get(getattr(vars(module).get("prepare_response_for_header_attachment"), "__module__", ""))
    if headers is None:
        return False
    space = vars(headers)
    kinds = _Kinds()

    def make_read(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_hidden_params_dict(response: Any, *, create: bool = False) -> Any:
            if kinds[type(response)]:
                private = response.__pydantic_private__
                if private is not None:
                    found = private.get(_HIDDEN)
                    if type(found) is dict:
                        return found
            return original(response, create=create)

        return get_hidden_params_dict

    def make_write(original: Callable[..., Any]) -> Callable[..., Any]:
        def _write_hidden_params(response: Any, hidden_params: Any) -> None:
            if kinds[type(response)]:
                private = response.__pydantic_private__
                if private is not None and private.get(_HIDDEN) is hidden_params:
                    return  # it is there already
            original(response, hidden_params)

        return _write_hidden_params

    def make_prepare(original: Callable[..., Any]) -> Callable[..., Any]:
        def prepare_response_for_header_attachment(response: Any) -> Any:
            if kinds[type(response)]:
                private = response.__pydantic_private__
                if private is not None and _HIDDEN in private:
                    return response
            return original(response)

        return prepare_response_for_header_attachment

    def make_model_id(original: Callable[..., Any]) -> Callable[..., Any]:
        def apply_response_model_id(response: Any, request_metadata: Any) -> None:
            if kinds[type(response)]:
                private = response.__pydantic_private__
                found = None if private is None else private.get(_HIDDEN)
                if type(found) is dict and found.get("model_id"):
                    return  # it names its deployment already, which LiteLLM leaves as it is
            original(response, request_metadata)

        return apply_response_model_id

    def make_decision(original: Callable[..., Any]) -> Callable[..., Any]:
        def complexity_router_decision_headers(request_kwargs: Any) -> Any:
            if type(request_kwargs) is dict:
                name = "litellm_metadata" if "litellm_metadata" in request_kwargs else "metadata"
                found = request_kwargs.get(name)
                # What pydantic would refuse to take for a mapping has no decision in it either.
                if type(found) is dict and "routing_decision" not in found:
                    return _NONE
            return original(request_kwargs)

        return complexity_router_decision_headers

    done = False
    for owner, name, make in (
        (headers, "get_hidden_params_dict", make_read),
        (headers, "_write_hidden_params", make_write),
        (module, "prepare_response_for_header_attachment", make_prepare),
        (module, "apply_response_model_id", make_model_id),
        (module, "complexity_router_decision_headers", make_decision),
    ):
        if is_known(name, space.get(name)) and vars(owner).get(name) is space[name]:
            patches.replace(owner, name, make)
            done = True
    return done


FEATURE = Feature(
    "answer_headers",
    "asks pydantic about ten times where an answer keeps its headers",
    "looks where pydantic keeps them",
    _install,
    any_of=(
        "prepare_response_for_header_attachment",
        "apply_response_model_id",
        "complexity_router_decision_headers",
        "get_hidden_params_dict",
        "_write_hidden_params",
    ),
)
