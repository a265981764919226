"""Other orders for some requests: a prompt that breaks a server, a key that is refused, one end user's quota."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fast_router.errors import ConfigurationError

__all__ = ["PER_REQUEST", "Rule"]

PER_REQUEST = frozenset(
    {
        "latency", "jitter", "first_token", "per_token", "tokens", "error_rate", "error_status", "error_message",
        "error_latency", "throttle_rate", "retry_after", "reset_rate", "hang_rate", "cut_rate", "cut_after",
        "garbage_rate", "stream_error_rate", "hold",
    }
)  # fmt: skip
"""Orders that may differ from request to request; the others (slots, health, gauges) belong to the server."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Orders for the requests that fulfil every condition given; one without a condition is for all.

    Attributes:
        orders: What is ordered for them, on top of the upstream's own orders.
        contains: Text that must be somewhere in the JSON body.
        key: Key that must be in the Authorization header. The control page shows orders: use no real one.
        other_key: Key that must not be in it; an upstream with a key of its own answers 401 by itself.
        header: Name of a header that must be there.
        user: The body's `user`.
    """

    orders: Mapping[str, Any] = field(hash=False)
    contains: str | None = None
    key: str | None = field(default=None, repr=False)
    other_key: str | None = field(default=None, repr=False)
    header: str | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.orders) - PER_REQUEST):
            raise ConfigurationError(
                f"a rule cannot order {unknown[0]!r}; it can order {', '.join(sorted(PER_REQUEST))}"
            )
        object.__setattr__(self, "orders", dict(self.orders))

    def covers(self, headers: Mapping[str, str], body: Mapping[str, Any]) -> bool:
        """Tell whether the rule is for a request.

        Args:
            headers: Its headers, names in lower case.
            body: Its JSON body.
        """
        given = headers.get("authorization", "").removeprefix("Bearer ")
        return (
            (self.key is None or given == self.key)
            and (self.other_key is None or given != self.other_key)
            and (self.header is None or self.header.lower() in headers)
            and (self.user is None or body.get("user") == self.user)
            and (self.contains is None or self.contains in json.dumps(body, ensure_ascii=False))
        )
