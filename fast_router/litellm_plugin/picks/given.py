"""What a Router was given that LiteLLM does not keep: names of ours, and that a value was written at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Given"]


class Given:
    """What the user wrote for one Router.

    Attributes:
        router: Our strategy for all its models, None if it was given none.
        options: That strategy's options.
        groups: Our strategies and their options, by routing group.
        allowed_fails: Whether `allowed_fails` was set, be it to LiteLLM's default value.
    """

    __slots__ = ("allowed_fails", "groups", "options", "router")

    def __init__(self) -> None:
        self.router: str | None = None
        self.options: Mapping[str, Any] = {}
        self.groups: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self.allowed_fails = False
