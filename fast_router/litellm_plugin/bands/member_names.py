"""Where a version of LiteLLM keeps what the bookkeeping features read.

Up to 1.106 these are public members of `Router`; from 1.109 the same members of `PythonCore` carry
the prefix ``_core_``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Names"]


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
        prefix = "_core_" if "_core_get_model_list" in vars(core) else ""

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
