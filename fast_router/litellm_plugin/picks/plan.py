"""A plan: how one model name of one Router is picked, until the Router changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from fast_router.engine import Engine, ModelGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fast_router.litellm_plugin.bands.methods import Band

__all__ = ["AUTH", "LEFT_BEHIND", "SPECIAL", "TEAM", "Picks", "Plan"]


# A request with one of these is not ordinary.
SPECIAL = frozenset(
    {
        "routing_strategy",
        "enable_tag_filtering",
        "_router_weights",
        "_target_order",
        "_excluded_deployment_ids",
        "_retry_skipped_deployment_ids",
    }
)


# Metadata that an earlier pass of the same request through LiteLLM's routing left behind: LiteLLM clears it.
LEFT_BEHIND = frozenset(
    {
        "routing_decision",
        "_autorouter_baseline_route",
        "_session_deployment_affinity_ttl",
        "_consumed_request_tags",
        "_auto_routed_request",
        "_client_output_ceiling",
    }
)


TEAM = frozenset({"user_api_key_team_id"})


AUTH = frozenset({"user_api_key_auth"})


class Picks(Protocol):
    """A Router's picks, as far as a plan that is compiled for them goes; `binding.Binding` is one.

    Attributes:
        band: How to read the Router's core.
        engine: Whom it picks with.
        version: Counted up by every change.
    """

    band: Band
    engine: Engine
    version: int

    def group(
        self, name: str, strategy: str, options: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
    ) -> ModelGroup:
        """Give the group of that name over exactly these entries."""
        ...


class Plan:
    """How one model name of one Router is picked, until the Router changes.

    Attributes:
        model: The name as requests say it.
        version: The binding's when this was compiled.
        listed: False for names that are not in the Router's lists: such a plan is made for one request.
        group: Who is picked from; None if the name stands for nothing that can be grouped.
        why: Why asynchronous picks cannot take the fast lane, None if they can.
        why_sync: The same for synchronous picks, for which LiteLLM runs fewer filters.
        short: `why` is None, and nothing but streaming matters about the request: the engine can be asked right away.
        short_sync: The same for synchronous picks.
        special: Request keys that send a request through LiteLLM's filters.
        gated: Metadata keys that do.
        asks: True if the pick needs to know about the request: streaming, or its tokens.
        streams: True if only whether it streams matters about the request.
        counts: True if a candidate has a tokens/minute limit that the strategy observes.
        services: True if LiteLLM reports these picks to `litellm.service_callback`.
        overlay: The name of our own strategy that takes the place of LiteLLM's simple-shuffle here.
    """

    __slots__ = (
        "acquire",
        "alias",
        "asks",
        "counts",
        "gated",
        "group",
        "listed",
        "model",
        "model_list",
        "options",
        "overlay",
        "peek",
        "services",
        "short",
        "short_sync",
        "size",
        "special",
        "strategy",
        "streams",
        "target",
        "version",
        "why",
        "why_sync",
    )

    def __init__(self, model: str, engine: Engine) -> None:
        self.model = model
        self.listed = True
        self.group: ModelGroup | None = None
        self.why: str | None = None
        self.why_sync: str | None = None
        self.short = False
        self.short_sync = False
        self.special = SPECIAL
        self.gated: frozenset[str] = frozenset()
        self.asks = False
        self.streams = False
        self.counts = False
        self.services = False
        self.overlay: str | None = None
        self.options: Mapping[str, Any] = {}
        # What every pick compares, see `selection`.
        self.version = -1
        self.model_list: Any = None
        self.size = -1
        self.strategy: Any = None
        self.alias: Any = None
        self.target: Any = None
        # The engine's, at hand.
        self.acquire = engine.acquire
        self.peek = engine.peek

    def holds(self, version: int) -> bool:
        """Whether it still describes its Router, whose binding is at `version`.

        Assignments and announcements count the version up; a list or an alias that is edited in place does not.
        """
        return (
            self.version == version
            and len(self.model_list) == self.size
            and (not self.alias or self.alias.get(self.model) is self.target)
        )
