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
        stand_in_told: Whether it was said by what LiteLLM's arm of a rollout picks instead.
    """

    __slots__ = ("allowed_fails", "groups", "options", "router", "stand_in_told")

    def __init__(self) -> None:
        self.router: str | None = None
        self.options: Mapping[str, Any] = {}
        self.groups: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self.allowed_fails = False
        self.stand_in_told = False
