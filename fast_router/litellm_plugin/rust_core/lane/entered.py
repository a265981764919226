"""What the lane knows of one request from its pick to its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_router.litellm_plugin.request import Attempt
    from fast_router.litellm_plugin.rust_core.lane.guard import Open
    from fast_router.litellm_plugin.rust_core.lane.template import Template

__all__ = ["EVENTS", "NOT_LOGGED", "Entered"]

EVENTS = ("async_failure", "sync_failure")
"""What a request's logging object may have logged before the call."""

NOT_LOGGED: Mapping[str, bool] = dict.fromkeys(EVENTS, False)


class Entered:
    """A request that is in the lane: everything before its call.

    Attributes:
        call: The arguments of LiteLLM's function.
        reading: True once it is its stream that may fail, not the call.
        slot: One of LiteLLM's slots for calls at a time, None where it has no limit.
        attempt: Holds the lease.
    """

    __slots__ = (
        "attempt",
        "call",
        "found",
        "id",
        "logged",
        "name",
        "reading",
        "request",
        "slot",
        "started",
        "template",
    )

    def __init__(self, found: Open, template: Template, attempt: Attempt, id_: str, request: dict[str, Any]) -> None:
        self.found = found
        self.template = template
        self.attempt = attempt
        self.id = id_
        self.request = request
        self.call: dict[str, Any] = {}
        self.name = template.model
        self.logged: Mapping[str, bool] = NOT_LOGGED
        self.reading = False
        self.slot: Any = None
        self.started: Any = None
