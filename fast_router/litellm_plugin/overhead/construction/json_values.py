"""LiteLLM 1.110: what JSON would make of a value, without JSON where that is plain.

While a Router is built, each of a deployment's three hundred parameters, nearly all of them None, is written as JSON
and read back to see whether it comes out the same; and whatever goes to the Rust core is copied in that way. Texts,
numbers, lists and dicts of those come out as they are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.bands.contract import Seam
from fast_router.litellm_plugin.bands.rust import registry as registries
from fast_router.litellm_plugin.overhead.feature import Feature

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_router.litellm_plugin.overhead.parts import Parts
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["FEATURE"]

_MOST = 2**63  # integers beyond are left to json, which has limits of its own
_DEEPEST = 20


class _NotPlain(Exception):  # noqa: N818 - not an error: json knows what to do
    """A value that JSON may change, or refuse."""


def _copied(value: Any, depth: int = 0) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        if -_MOST < value < _MOST:
            return value
    elif kind is float:
        return value
    elif depth < _DEEPEST:
        if kind is list or kind is tuple:
            return [_copied(inner, depth + 1) for inner in value]
        if kind is dict:
            made = {}
            for key, inner in value.items():
                if type(key) is not str:
                    raise _NotPlain
                made[key] = _copied(inner, depth + 1)
            return made
    raise _NotPlain


def _same(value: Any) -> bool | None:
    """Whether JSON reads a value back equal to itself; None where json has to be asked."""
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return True
    if kind is int:
        return True if -_MOST < value < _MOST else None
    if kind is float:
        return True if math.isfinite(value) else None
    if kind is list and all(_same(inner) for inner in value):
        return True
    return None


_SAMPLES: tuple[Any, ...] = (
    None,
    True,
    0,
    -7,
    1.5,
    -0.0,
    1e300,
    "",
    "ä\ud800\x00",
    [],
    [1, "a", None],
    {},
    {"a": [1, {"b": (2, 3)}]},
    (1, 2),
    {"n": float("inf")},
)


def _install(patches: PatchSet, parts: Parts) -> bool:
    """Replace both, if on a few values they do what is expected of them."""
    registry, core = registries.module(), parts.module
    round_trips, plain = vars(registry).get("_round_trips"), vars(core).get("_plain")
    if round_trips is None or plain is None:
        return False
    for sample in _SAMPLES:
        if plain(sample) != _copied(sample) or _same(sample) not in (None, round_trips(sample)):
            return False

    def make_round_trips(original: Callable[[Any], bool]) -> Callable[[Any], bool]:
        def _round_trips(value: Any) -> bool:
            return _same(value) or original(value)

        return _round_trips

    def make_plain(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def _plain(value: Any) -> Any:
            try:
                return _copied(value)
            except _NotPlain:
                return original(value)

        return _plain

    patches.replace(registry, "_round_trips", make_round_trips)
    patches.replace(core, "_plain", make_plain)
    return True


FEATURE = Feature(
    "json_values",
    "sends each of a deployment's three hundred parameters through JSON, to see whether it comes out the same",
    "plain values are told without (Router construction)",
    _install,
    seam=Seam.REGISTRY,
)
