"""What stands around the picks of a Router: one table, composed per Router, anew when it or a setting changes.

In the manner of Finagle's `StackClient`: the order stands here and nowhere else, with the reason of each place.
LiteLLM's selection is patched once, in `picks.lanes`; a layer only says for which Routers it is wanted and what it does
around the pick inside. A Router with no layer keeps no trace of those that others have.

The fast lane comes before every layer but those that must see `each` pick. It gives out only what the engine has room
for, so a limit or a queue has nothing to add to it; see `Binding.detour` for the time in which somebody queues.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fast_router import settings
from fast_router.litellm_plugin.patching import PatchSet
from fast_router.litellm_plugin.picks import binding as bindings
from fast_router.litellm_plugin.picks.binding import Binding

__all__ = ["PICK_LAYERS", "Installed", "Pick", "PickSync", "Place", "plug"]

Pick = Callable[..., Awaitable[Any]]
"""`await pick(lane, core, model, request_kwargs, messages, input, specific_deployment)`: the picked deployment's dict.

`lane` is what is inside everything: the filtered and the delegated lane. A layer hands it on.
"""
PickSync = Callable[..., Any]
"""The same for synchronous picks: `pick(lane, core, model, messages, input, specific_deployment, request_kwargs)`."""


@dataclass(frozen=True)
class Place:
    """A place in the stack.

    Attributes:
        name: The feature's, as `disabled_features` knows it.
        each: True for a layer that must see every pick: the fast lane of its Routers is closed.
    """

    name: str
    each: bool = False


PICK_LAYERS = (
    # The routing worker is asked first: whatever it chooses, all that this process knows of limits must allow.
    Place("celery_routing", each=True),
    # The whole fleet's limits are asked about the deployment that was chosen, so everything that chooses is inside.
    Place("strict limits", each=True),
    # A quality limit refuses at once or after its own retries: it is outside of waiting, which would hold it up.
    Place("admission"),
    # Whoever waits has passed everything else; when its turn comes, nothing but the pick is left.
    Place("waiting"),
)
"""The layers around a pick, the outermost first."""


@dataclass(frozen=True)
class Installed:
    """A layer that is switched on.

    Attributes:
        wanted: Whether a Router wants it, by its binding and its core; asked when the Router or a setting changes.
        around: Makes the asynchronous layer around the one inside, None if it has nothing to do there.
        around_sync: The same for synchronous picks.
    """

    wanted: Callable[[Binding, Any], bool]
    around: Callable[[Pick, Binding], Pick] | None = None
    around_sync: Callable[[PickSync, Binding], PickSync] | None = None


_installed: dict[str, Installed] = {}


def plug(patches: PatchSet, name: str, layer: Installed) -> None:
    """Put a layer into its place for as long as `patches` are on.

    Args:
        patches: Those of this `enable()`.
        name: Of a `Place`.
        layer: What stands there.
    """
    assert any(place.name == name for place in PICK_LAYERS), name
    if not _installed:
        _begin()
    _installed[name] = layer
    bindings.outdate()

    def undo() -> None:
        _installed.pop(name, None)
        bindings.outdate()
        if not _installed:
            _end()

    patches.on_restore(undo)


_stop: list[Callable[[], None]] = []


def _begin() -> None:
    bindings.on_change.append(_compose)
    _stop.append(settings.on_change(lambda _changed: bindings.outdate()))


def _end() -> None:
    bindings.on_change.remove(_compose)
    bindings.clear_layers()
    while _stop:
        _stop.pop()()


def _innermost(lane: Any, core: Any, *arguments: Any) -> Any:
    return lane(core, *arguments)


def _compose(binding: Binding, core: Any) -> None:
    """Stack the layers that this Router wants."""
    around: Pick | None = None
    around_sync: PickSync | None = None
    each = False
    for place in reversed(PICK_LAYERS):
        layer = _installed.get(place.name)
        if layer is None or not layer.wanted(binding, core):
            continue
        each = each or place.each
        if layer.around is not None:
            around = layer.around(around or _innermost, binding)
        if layer.around_sync is not None:
            around_sync = layer.around_sync(around_sync or _innermost, binding)
    binding.around, binding.around_sync = around, around_sync
    binding.close_lane(closed=each)
