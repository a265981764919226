"""LiteLLM's endpoints as the lane serves them: what each asks for, where its metadata goes, what it counts."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from fast_router.litellm_plugin.rust_core.lane.ordinary import keys_of

__all__ = ["Endpoint"]

# What each endpoint is asked about: the smallest request that it takes.
_ASKED: dict[str, Mapping[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "?"}]},
    "text": {"prompt": "?"},
    "embedding": {"input": "?"},
    "aresponses": {"input": "?"},
    "aanthropic_messages": {"messages": [{"role": "user", "content": "?"}]},
    "anthropic_messages": {"messages": [{"role": "user", "content": "?"}]},
}


class Endpoint:
    """One of LiteLLM's endpoints.

    Attributes:
        op: The Router's method.
        plan: LiteLLM's own description of it.
        sync: Whether it is synchronous.
        field: The key of a request under which LiteLLM's routing keeps its metadata.
        keys: The keys that an ordinary request may carry.
        asked: The smallest request, without its model.
        says_stream: Whether LiteLLM names `stream` in the call although the request did not.
        streams: Whether a stream may go through the lane.
        sibling: Another key with metadata, which is the provider's; None where there is none.
    """

    __slots__ = ("asked", "field", "invoked", "keys", "op", "plan", "says_stream", "sibling", "streams", "sync")

    def __init__(self, op: str, endpoints: ModuleType) -> None:
        self.op = op
        self.plan = endpoints.plan_for(op)
        self.sync = bool(self.plan.sync)
        self.field = str(self.plan.metadata_field)
        self.invoked = str(self.plan.host_op)
        self.keys = keys_of(op)
        self.asked = _ASKED.get(op) or _ASKED[self.plan.kind]
        self.says_stream = op == "acompletion"
        self.streams = self.plan.kind in ("chat", "generic")
        # Where an endpoint's own metadata goes to the provider, what LiteLLM takes out of it.
        self.sibling = "metadata" if self.field == "litellm_metadata" else None
