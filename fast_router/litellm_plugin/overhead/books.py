"""What we remember about one Router, and when to forget it.

The books of a Router live in what is kept about it (`router_state`). The two methods through which every
structural change of its deployments passes (`_invalidate_access_groups_cache` and
`_invalidate_model_group_info_cache`) make them forget what they know of groups; what they know of single
deployments is checked against the live entry at every use and may stay. They are filled lazily by the next
request: LiteLLM announces some changes before it makes them, so nothing is computed at the announcement.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.fingerprints import member
from fast_router.litellm_plugin.router_state import KEY, state_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.bands.member_names import Names
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["Books", "books_of", "forget_on_change", "new_epoch", "remember", "remember_name", "same_members"]

FEATURE = "books"
#: Entries a memo may hold before it starts over; far above any fleet, below any memory worry.
MEMO_LIMIT = 20_000
#: The same for names under a wildcard, which callers invent.
PASSING_LIMIT = 32

_epoch = 0


class Books:
    """The memos of one Router. Every entry carries what it must be checked against."""

    __slots__ = (
        "deployments",
        "epoch",
        "facts",
        "groups",
        "infos",
        "limits",
        "lists",
        "objects",
        "owner",
        "passing",
        "structure",
        "verdicts",
    )

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.epoch = _epoch
        #: Deployment id → (entry copy, pydantic deployment)
        self.deployments: dict[Any, Any] = {}
        #: Deployment id → (entry copy, pydantic deployment to be copied, or None)
        self.objects: dict[Any, Any] = {}
        #: (deployment id, model group, kind) → model info record
        self.infos: dict[Any, Any] = {}
        #: (deployment id, model group) → record of a deployment that nothing limits
        self.verdicts: dict[Any, Any] = {}
        #: (memo, key) of what is remembered of names that are not the model list's, the oldest first.
        self.passing: deque[tuple[dict[Any, Any], Any]] = deque()
        #: Counts the structural changes that were announced.
        self.structure = 0
        #: Model name → list record
        self.lists: dict[str, Any] = {}
        #: Question about the whole fleet → (entries, how many, answer)
        self.facts: dict[str, Any] = {}
        #: Model group → usage key record
        self.groups: dict[str, Any] = {}
        #: Model group → remaining-usage limits record
        self.limits: dict[str, Any] = {}

    def forget(self) -> None:
        """Forget the groups. New dicts: a request that is filling the old ones fills nothing that is read."""
        self.structure += 1
        self.lists = {}
        self.facts = {}
        self.groups = {}
        self.limits = {}
        # So that those that are gone go from here, too, with their keys.
        self.objects = {}
        self.passing = deque()


def new_epoch() -> None:
    """Have every book forget its groups: nothing watched the Routers since the last install."""
    global _epoch  # noqa: PLW0603  # one number for the process, written at install only
    _epoch += 1


def books_of(router: Any) -> Books:
    """The books of ``router``, new ones if a change dropped them or if the Router is a copy."""
    state = router.__dict__.get(KEY)
    books: Books | None = None if state is None else state.books
    if books is None or books.owner != id(router):
        books = state_of(router).books = Books(id(router))
    elif books.epoch != _epoch:
        books.forget()
        books.epoch = _epoch
    return books


def remember(memo: dict[Any, Any], key: Any, record: Any) -> None:
    """Store ``record``; a memo at its limit starts over, so that it cannot grow without end."""
    if len(memo) >= MEMO_LIMIT:
        memo.clear()
    memo[key] = record


def remember_name(router: Any, names: Names, memo: dict[Any, Any], key: Any, record: Any, name: str) -> None:
    """Store what is known of model ``name``; of names that nobody configured (under a `*`) the last few alone."""
    if name not in getattr(router, names.by_name) and name not in (getattr(router, names.alias) or ()):
        passing = books_of(router).passing
        if key not in memo:
            passing.append((memo, key))
        while len(passing) > PASSING_LIMIT:
            with contextlib.suppress(IndexError):  # another thread was quicker
                oldest, its_key = passing.popleft()
                oldest.pop(its_key, None)
    remember(memo, key, record)


def forget_on_change(patches: PatchSet, band: Band) -> bool:
    """Have a Router's books forget the groups whenever LiteLLM announces a change of its deployments.

    Returns:
        False where a version has neither announcement; nothing may be remembered there.
    """
    core = band.core
    found = [
        known
        for known in (
            member(core, "_invalidate_access_groups_cache"),
            member(core, "_invalidate_model_group_info_cache"),
        )
        if known is not None
    ]
    if len(found) != 2:
        return False

    def make(original: Callable[[Any], None]) -> Callable[[Any], None]:
        def invalidate(self: Any) -> None:
            _forget(self)
            try:
                original(self)
            finally:
                # A request on another thread may have filled them in the meantime.
                _forget(self)

        return invalidate

    for name, _ in found:
        patches.replace(core, name, make)
    return True


def _forget(router: Any) -> None:
    state = router.__dict__.get(KEY)
    if state is not None and state.books is not None:
        state.books.forget()


_plain: dict[tuple[type, frozenset[str]], bool] = {}


def same_members(router: Any, core: type, names: frozenset[str]) -> bool:
    """Whether the Router's class uses LiteLLM's own ``names`` (a subclass may override them)."""
    kind = type(router)
    if kind is core:
        return True
    answer = _plain.get((kind, names))
    if answer is None:
        answer = all(not any(name in vars(base) for base in kind.__mro__[: kind.__mro__.index(core)]) for name in names)
        _plain[kind, names] = answer
    return answer
