"""What one feature is: its name, what it does, what it needs of LiteLLM, how it is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fast_router.litellm_plugin.bands.contract import Seam
from fast_router.litellm_plugin.overhead.parts import Parts
from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["Feature"]


@dataclass(frozen=True)
class Feature:
    """One way in which the Router's own cost is taken down.

    Attributes:
        name: As `disabled_features` has it.
        stock: What LiteLLM does, for the documentation.
        line: What is done instead, in one line.
        install: Replaces what it needs to; false if there was nothing to replace.
        needs: The functions of LiteLLM whose source it must know, each of them.
        any_of: Functions of which one that is known is enough.
        seam: Where in LiteLLM it stands, None for what every version has.
        remembers: True if it keeps something until LiteLLM announces a change of its deployments.
        waits: True if what it replaces is imported later, with LiteLLM's proxy.
    """

    name: str
    stock: str
    line: str
    install: Callable[[PatchSet, Parts], bool]
    needs: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()
    seam: Seam | None = Seam.MEMBERS
    remembers: bool = False
    waits: bool = False

    def missing(self, parts: Parts) -> str:
        """Why this LiteLLM is not one that it can stand in, empty if it is."""
        if self.seam is not None and self.seam not in parts.band.seams:
            return f"LiteLLM {parts.band.version} does not have {self.seam.value}"
        for name in self.needs:
            if problem := parts.problem(name):
                return problem
        if self.any_of and all(parts.problem(name) for name in self.any_of):
            return parts.problem(self.any_of[0])
        return ""
