"""The Lua scripts, and one call for each: sent by their hash, in full only where the server does not know them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1
from importlib import resources
from typing import Any

__all__ = ["Caps", "Script", "admit_call", "release_call", "script", "spend_call"]


@dataclass(frozen=True)
class Caps:
    """A deployment's limits; None for none.

    Attributes:
        rpm: Requests/minute.
        tpm: Tokens/minute.
        parallel: Requests at a time.
    """

    rpm: float | None = None
    tpm: float | None = None
    parallel: int | None = None

    @property
    def any(self) -> bool:
        """True if there is a limit at all."""
        return self.rpm is not None or self.tpm is not None or self.parallel is not None

    def args(self) -> tuple[str, str, str]:
        """As the script reads them."""
        return tuple("-1" if n is None else f"{n:.17g}" for n in (self.rpm, self.tpm, self.parallel))  # type: ignore[return-value]


@dataclass(frozen=True)
class Script:
    """A script.

    Attributes:
        text: Its source.
        sha: What the server calls it.
    """

    text: str
    sha: str

    def call(self, keys: Sequence[str], args: Sequence[Any], *, whole: bool = False) -> tuple[Any, ...]:
        """The command; `whole` sends the source instead of the hash."""
        if whole:
            return ("EVAL", self.text, len(keys), *keys, *args)
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


@lru_cache(maxsize=8)
def script(name: str) -> Script:
    """The script `name` (`admit`, `release`, `spend`)."""
    text = (
        resources.files("fast_router.cluster.strict_limits")
        .joinpath("lua")
        .joinpath(f"{name}.lua")
        .read_text(encoding="utf-8")
    )
    return Script(text, sha1(text.encode()).hexdigest())


def _keys(base: str, shorts: Sequence[str]) -> list[str]:
    return [f"{base}:usage:{short}" for short in shorts] + [f"{base}:slots:{short}" for short in shorts]


def admit_call(
    base: str,
    candidates: Sequence[tuple[str, Caps]],
    reservation: str,
    *,
    tokens: float,
    lifetime: float,
    now: float | None = None,
    whole: bool = False,
) -> tuple[Any, ...]:
    """The command that admits a request to the first of `candidates` with room.

    Args:
        base: First part of the keys.
        candidates: Short id and limits, in the order of preference.
        reservation: Name of the request.
        tokens: Tokens to reserve.
        lifetime: Seconds after which the slot is free again unless renewed.
        now: Seconds since the epoch; None for the server's own clock.
        whole: Send the source.
    """
    args: list[Any] = [reservation, int(lifetime * 1000), f"{tokens:.17g}", "" if now is None else int(now * 1000)]
    for _, caps in candidates:
        args += caps.args()
    return script("admit").call(_keys(base, [short for short, _ in candidates]), args, whole=whole)


def release_call(
    base: str,
    short: str,
    reservation: str,
    *,
    minute: int,
    reserved: float,
    now: float | None = None,
    whole: bool = False,
) -> tuple[Any, ...]:
    """The command that gives a slot back.

    Args:
        base: First part of the keys.
        short: The deployment's short id.
        reservation: As given to `admit_call`.
        minute: As the admission answered.
        reserved: Tokens that were reserved.
        now: Seconds since the epoch; None for the server's own clock.
        whole: Send the source.
    """
    args = [reservation, minute, f"{reserved:.17g}", "" if now is None else int(now * 1000)]
    return script("release").call(_keys(base, [short]), args, whole=whole)


def spend_call(
    base: str, short: str, tokens: float, *, now: float | None = None, whole: bool = False
) -> tuple[Any, ...]:
    """The command that counts `tokens` that were used without being reserved; arguments as above."""
    args = [f"{tokens:.17g}", "" if now is None else int(now * 1000)]
    return script("spend").call([f"{base}:usage:{short}"], args, whole=whole)
