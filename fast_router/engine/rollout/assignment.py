"""Which arm a request is in.

What is known by a name (a session, an end user) always falls into the same arm: its name is hashed to a point between 0
and 1, and all points below the share are in the new arm. So whoever was in it at 10 % is in it at 20 %, and every
process agrees without a word. This is the bucketing of feature-flag services (Unleash's gradual rollout, for example).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_router.engine.ask import Rng

__all__ = ["Assignment", "point"]

_WHOLE = float(2**64)


def point(salt: str, name: str) -> float:
    """Where a name lies between 0 (included) and 1 (excluded); the same in every process.

    Args:
        salt: Of the rollout or experiment: the first of one are not the first of the next.
        name: Of a session or an end user; it cannot be read from what is returned.
    """
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(digest, "big") / _WHOLE


class Assignment:
    """Who is in the new arm.

    Args:
        share: Of the new arm, 0 to 1.
        salt: See `point`.
        rng: Decides where no name is known.
    """

    __slots__ = ("_random", "_salt", "share")

    def __init__(self, share: float, salt: str, rng: Rng) -> None:
        self.share = share
        self._salt = salt
        self._random = rng.random

    def is_new(self, name: str | None) -> bool:
        """Tell whether a request is in the new arm.

        Args:
            name: Of its session or end user, None if it has none.
        """
        share = self.share
        if share <= 0.0 or share >= 1.0:
            return share >= 1.0
        return (self._random() if name is None else point(self._salt, name)) < share
