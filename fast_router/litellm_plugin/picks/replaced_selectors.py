"""Which of LiteLLM's strategy objects choose nothing any more, because we choose in their place.

LiteLLM's strategies are callbacks, too: each keeps figures of its own from what it is told about every request, for
its own choices. Whoever compiles a plan notes here whose choices the plan takes over; the bookkeeping asks.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.picks.plan import Picks

__all__ = ["Replaced", "all_replaced", "before_choice", "replaced", "replaces"]

before_choice: list[Callable[[Any], None]] = []
"""Called with a strategy object of LiteLLM's that is going to choose by itself after all; must not raise."""


class Replaced:
    """One strategy object in whose place we choose.

    Attributes:
        binding: Weakly, the picks of its Router.
        calls: (model group, deployment id) → calls that LiteLLM has said to have begun and not to have ended.
        lock: Guards `calls`: LiteLLM tells about some from threads.
    """

    __slots__ = ("binding", "calls", "lock")

    def __init__(self, binding: Picks) -> None:
        self.binding: weakref.ref[Any] = weakref.ref(binding)
        self.calls: dict[tuple[str, str], int] = {}
        self.lock = threading.Lock()

    def count(self, key: tuple[str, str], by: int) -> None:
        """Note that a call has begun (1) or ended (-1); one that nobody saw begin is not counted."""
        with self.lock:
            now = self.calls.get(key, 0) + by
            if now > 0:
                self.calls[key] = now
            else:
                self.calls.pop(key, None)


_replaced: weakref.WeakKeyDictionary[Any, Replaced] = weakref.WeakKeyDictionary()


def replaces(selector: Any, binding: Picks) -> None:
    """Note that the picks of `binding` take the place of a strategy object's."""
    known = _replaced.get(selector)
    if known is None or known.binding() is not binding:
        _replaced[selector] = Replaced(binding)


def replaced(selector: Any) -> Replaced | None:
    """The note about a strategy object, None if it chooses itself."""
    return _replaced.get(selector)


def all_replaced() -> list[Any]:
    """Every strategy object in whose place we choose."""
    return list(_replaced)
