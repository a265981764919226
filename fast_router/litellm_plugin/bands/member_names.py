"""Where a version of LiteLLM keeps what the bookkeeping features read.

Up to 1.106 these are public members of `Router`; from 1.109 the same members of `PythonCore` carry
the prefix ``_core_``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

__all__ = ["PREFIX", "Names", "method_of", "model_id_maker", "offers"]

PREFIX = "_core_"
"""What stands before the members of a core that outside code used to reach, from 1.109 on."""


def method_of(router: Any, name: str) -> Callable[..., Any] | None:
    """A method of whatever routes for `router`, by its plain name; None if it has none.

    For callers that must also do with a LiteLLM that nobody has looked at; where there is a band, ask it.
    """
    core = vars(router).get("_core", router)
    found: Callable[..., Any] | None = getattr(core, PREFIX + name, None) or getattr(core, name, None)
    return found


def offers(router: Any, name: str) -> bool:
    """Whether a Router has a method that callers may use."""
    return hasattr(router, name)


def model_id_maker() -> Callable[..., Any]:
    """LiteLLM's way to an id for a deployment that names none: takes the model's name and its `litellm_params`."""
    module = import_module("litellm.router")
    core = getattr(module, "PythonCore", module.Router)
    names = (f"{PREFIX}generate_model_id", "generate_model_id", "_generate_model_id")
    make: Callable[..., Any] = next(found for name in names if (found := getattr(core, name, None)) is not None)
    # An instance method up to 1.99 that does not use its instance; a static method since.
    return partial(make, None) if make.__code__.co_varnames[0] == "self" else make


@dataclass(frozen=True)
class Names:
    """Member names of the class that routes.

    Attributes:
        core: The class: `litellm.Router`, or `PythonCore` from 1.109 on.
        prefix: ``_core_`` from 1.109 on, else empty.
        discoveries: The cache of limits learned from servers, None where there is none.
    """

    core: type
    prefix: str
    model_list: str
    alias: str
    by_name: str
    cache: str
    get_deployment: str
    get_router_model_info: str
    get_model_list: str
    discoveries: str | None

    @classmethod
    def of(cls, core: type) -> Names:
        """Look the names up in ``core``."""
        prefix = PREFIX if f"{PREFIX}get_model_list" in vars(core) else ""

        def of(name: str) -> str:
            return prefix + name

        def method(name: str) -> str:
            return prefix + name if prefix + name in vars(core) else name

        learns: Any = "get_discovered_model_info"
        return cls(
            core=core,
            prefix=prefix,
            model_list=of("model_list"),
            alias=of("model_group_alias"),
            by_name=of("model_name_to_deployment_indices"),
            cache=of("cache"),
            get_deployment=method("get_deployment"),
            get_router_model_info=method("get_router_model_info"),
            get_model_list=method("get_model_list"),
            discoveries="_discovered_model_info_cache"
            if learns in vars(core) or prefix + learns in vars(core)
            else None,
        )

    def method(self, name: str) -> str:
        """The name under which the class itself defines method ``name``."""
        return self.prefix + name if self.prefix + name in vars(self.core) else name
