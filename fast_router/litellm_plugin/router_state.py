"""All that is kept about one `litellm.Router`: one attribute, in the `__dict__` of its core, with which it goes."""

from __future__ import annotations

from typing import Any

from fast_router.litellm_plugin.picks.given import Given

__all__ = ["KEY", "RouterState", "given_now", "given_to", "state_of"]

KEY = "_fast_router"
"""Where a Router's core keeps it."""


class RouterState:
    """What is kept about one Router. The types of what its owners keep here are known to them alone.

    Attributes:
        owner: `id` of the core that it was made for: a copy of a Router has this object, too.
        binding: Its picks, a `picks.binding.Binding`.
        given: What the user wrote that LiteLLM does not keep.
        books: What the overhead features remember, an `overhead.books.Books`.
        lane: 1.110's lane, a `rust_core.lane.guard.CoreLane`.
    """

    __slots__ = ("binding", "books", "given", "lane", "owner")

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.binding: Any = None
        self.given: Given | None = None
        self.books: Any = None
        self.lane: Any = None


def state_of(core: Any) -> RouterState:
    """Give the state of a core, made now if there is none.

    A copy of a Router gets its own: with the same picks, and what that Router was given.
    """
    attributes = vars(core)
    found: RouterState | None = attributes.get(KEY)
    if found is None:
        found = attributes.setdefault(KEY, RouterState(id(core)))
    if found.owner != id(core):
        shared, found = found, RouterState(id(core))
        found.binding, found.given, found.lane = shared.binding, shared.given, shared.lane
        attributes[KEY] = found
    return found


def given_now(core: Any) -> Given | None:
    """What the Router with this core was given, None if that is nothing which LiteLLM does not keep."""
    state: RouterState | None = vars(core).get(KEY)
    return None if state is None else state.given


def given_to(core: Any) -> Given:
    """The same, made now if there is none."""
    state = state_of(core)
    if state.given is None:
        state.given = Given()
    return state.given
