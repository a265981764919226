"""What a layer, a pick or a feature may know of LiteLLM: the seams that a band has."""

from __future__ import annotations

from enum import Enum

__all__ = ["Seam"]


class Seam(Enum):
    """A place in LiteLLM where something of ours can stand. A band says which it has, a feature which it needs."""

    MEMBERS = "the Router's own members, written in Python"
    REGISTRY = "the registry of a core that is not written in Python"
