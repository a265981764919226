"""What stands around the requests, attempts and picks of a Router: one table, composed per Router.

In the manner of Finagle's `StackClient`: the order stands here and nowhere else, with the reason of each place. Each
seam of LiteLLM is patched once, with a function that hands the call to what was composed for its Router; a layer only
says for which Routers it is wanted, and what it does around what is inside. What was composed is made anew when a
Router is bound, when it changes, and when a setting does. A Router keeps no trace of a layer that it does not want.

The fast lane of a pick comes before every layer around picks but those that must see `each` one. It gives out only
what the engine has room for, so a limit or a queue has nothing to add to it; see `Binding.detour` for the time in
which somebody queues.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.litellm_plugin.patching import PatchSet
from fast_router.litellm_plugin.picks import binding as bindings
from fast_router.litellm_plugin.picks.binding import Binding, bind
from fast_router.litellm_plugin.router_state import KEY
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.litellm_plugin.bands.methods import Band

__all__ = [
    "LAYERS", "Arguments", "Around", "Call", "CallSync", "Installed", "Pick", "PickSync", "Place", "Request",
    "function_of", "is_asynchronous", "plug",
]  # fmt: skip

Arguments = tuple[Any, ...]
Request = dict[str, Any]

Call = Callable[[Any, Arguments, Request], Awaitable[Any]]
"""`await call(core, args, kwargs)`: the method behind a seam, with the arguments that LiteLLM has called it with.

They are handed on as they are: to take a request's keyword arguments apart and put them together again costs more than
anything else that a layer does."""
CallSync = Callable[[Any, Arguments, Request], Any]
"""The same for its synchronous twin."""
Pick = Callable[..., Awaitable[Any]]
"""`await pick(lane, core, model, request_kwargs, messages, input, specific_deployment)`: the picked deployment's dict.

`lane` is what is inside everything: the filtered and the delegated lane. A layer hands it on.
"""
PickSync = Callable[..., Any]
"""The same for synchronous picks: `pick(lane, core, model, messages, input, specific_deployment, request_kwargs)`."""


class Around(Enum):
    """What a layer stands around: a method of LiteLLM's, None where it is replaced elsewhere."""

    REQUEST = "async_function_with_fallbacks"
    """One request, with all its retries and fallbacks."""
    REQUEST_SYNC = "function_with_fallbacks"
    """The same of a synchronous call, which LiteLLM runs on a loop of its own."""
    RECOVERY = "async_function_with_fallbacks_common_utils"
    """What LiteLLM does after a request has failed, a stream that broke on its way included."""
    RETRIES = "async_function_with_retries"
    """What LiteLLM asks of one model: the first attempt and its retries."""
    ATTEMPT = "make_call"
    """One attempt: a pick, and the call of what was picked. Synchronous endpoints come by here, too."""
    PICK = None
    """LiteLLM's selection, which `picks.lanes` stands in for."""


@dataclass(frozen=True)
class Place:
    """A place in the stack.

    Attributes:
        around: What it stands around.
        name: The feature's or option's that it belongs to.
        each: True for a layer that must see every pick: the fast lane of its Routers is closed.
    """

    around: Around
    name: str
    each: bool = False


LAYERS = (
    # Whatever happens to a request is entered in its ledger, so nothing of a request is outside of it.
    Place(Around.REQUEST, "failover"),
    # Outlasting an outage repeats LiteLLM's whole walk through retries and fallbacks, with one ledger.
    Place(Around.REQUEST, "waiting"),
    # Once every fallback has failed, a request is made again as ever; each time that an outage is outlasted anew.
    Place(Around.REQUEST, "fallback_at_once"),
    # On the way to LiteLLM's own loop: the last place that sees whose thread a synchronous call blocks.
    Place(Around.REQUEST_SYNC, "waiting"),
    # A synchronous stream that breaks begins as a new request, up to 1.96 in its middle as well.
    Place(Around.REQUEST_SYNC, "attempts"),
    # A fallback that begins in the middle of a stream needs the ledger of who broke before anything is tried, …
    Place(Around.RECOVERY, "failover"),
    # … and the attempt that broke ends before the one that takes over is picked.
    Place(Around.RECOVERY, "attempts"),
    # A model that is known to be down is passed by before anything is tried at it.
    Place(Around.RETRIES, "fallback_at_once"),
    # A synchronous call waits for its turn as a whole, or again if another thread was quicker.
    Place(Around.ATTEMPT, "waiting"),
    # A hedge races two whole attempts, each with a lease, a first chunk and a failure of its own.
    Place(Around.ATTEMPT, "hedging"),
    # A synchronous call is raced in the same way, if its attempts may be made in threads.
    Place(Around.ATTEMPT, "threads"),
    # A stream is an attempt up to its first chunk, which is read when the attempt has been handed to the stream.
    Place(Around.ATTEMPT, "stream_failover"),
    # The attempt itself: whatever LiteLLM does with it, its pick finds it, and its end releases the lease.
    Place(Around.ATTEMPT, "attempts"),
    # The routing worker is asked first: whatever it chooses, all that this process knows of limits must allow.
    Place(Around.PICK, "celery_routing", each=True),
    # The whole fleet's limits are asked about the deployment that was chosen, so everything that chooses is inside.
    Place(Around.PICK, "strict limits", each=True),
    # A quality limit refuses at once or after its own retries: it is outside of waiting, which would hold it up.
    Place(Around.PICK, "admission"),
    # Whoever waits has passed everything else; when its turn comes, nothing but the pick is left.
    Place(Around.PICK, "waiting"),
)
"""The layers around each seam, the outermost first."""


@dataclass(frozen=True)
class Installed:
    """A layer that is switched on.

    Attributes:
        wanted: Whether a Router wants it, by its binding and its core; asked when the Router or a setting changes.
        around: Makes the layer around the one inside, None if it has nothing to do there.
        around_sync: The same for synchronous picks.
    """

    wanted: Callable[[Binding, Any], bool]
    around: Callable[[Call, Binding], Call] | None = None
    around_sync: Callable[[CallSync, Binding], CallSync] | None = None


_installed: dict[tuple[Around, str], Installed] = {}
# The seams that are patched, with what each of them was before: the innermost of every Router.
_patched: dict[Around, Call] = {}


def plug(patches: PatchSet, band: Band | None, seam: Around, name: str, layer: Installed) -> None:
    """Put a layer into its place for as long as `patches` are on.

    Args:
        patches: Those of this `enable()`.
        band: Where the seam lies, None for picks.
        seam: Which one.
        name: Of a `Place` there.
        layer: What stands there.
    """
    assert any(place.around is seam and place.name == name for place in LAYERS), name
    if not _installed:
        _begin()
    if band is not None and seam.value is not None and seam not in _patched:
        _patch(patches, band, seam)
    _installed[seam, name] = layer
    bindings.outdate()

    def undo() -> None:
        _installed.pop((seam, name), None)
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


def function_of(args: Arguments, kwargs: Request) -> Any:
    """Give what LiteLLM has an attempt call."""
    return args[0] if args else kwargs.get("original_function")


def is_asynchronous(args: Arguments, kwargs: Request) -> bool:
    """Tell whether an attempt runs on its caller's event loop, not on one that LiteLLM made for a synchronous call."""
    function = function_of(args, kwargs)
    return inspect.iscoroutinefunction(getattr(function, "__func__", function))


# -- seams -------------------------------------------------------------------------------------------------


def _patch(patches: PatchSet, band: Band, seam: Around) -> None:
    """Replace the method behind a seam, once for all layers around it."""
    name: str = seam.value

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def innermost(core: Any, args: Arguments, kwargs: Request) -> Any:
            return original(core, *args, **kwargs)

        _patched[seam] = innermost

        # No coroutine of its own: what it returns is what LiteLLM awaits.
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            state = self.__dict__.get(KEY)
            binding = None if state is None else state.binding
            if binding is None or binding.stacked != binding.version:
                return _composed(self, band, name, innermost)(self, args, kwargs)
            return binding.calls.get(name, innermost)(self, args, kwargs)

        call.__name__ = call.__qualname__ = getattr(original, "__name__", name)
        if inspect.iscoroutinefunction(original):
            _mark_as_coroutine_function(call)
        return call

    def undo() -> None:
        _patched.pop(seam, None)

    patches.replace(band.core, band.slot(name), make)
    patches.on_restore(undo)


def _mark_as_coroutine_function(function: Any) -> None:
    mark = getattr(inspect, "markcoroutinefunction", None)  # from Python 3.12 on
    if mark is not None:
        mark(function)
    else:
        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]


def _composed(core: Any, band: Band, name: str, innermost: Call) -> Call:
    """What a Router wants around a seam now; never raises."""
    try:
        binding = bind(core, band)
        binding.heed_changes(core)
        return binding.calls.get(name, innermost)
    except Exception as error:  # noqa: BLE001 - LiteLLM does it alone
        tally.failed(error, f"the layers around {name}")
        return innermost


# -- composing ---------------------------------------------------------------------------------------------


def _innermost(lane: Any, core: Any, *arguments: Any) -> Any:
    return lane(core, *arguments)


def _compose(binding: Binding, core: Any) -> None:
    """Stack the layers that this Router wants."""
    version = binding.version
    calls: dict[str, Call] = {seam.value: innermost for seam, innermost in _patched.items()}
    around: Pick | None = None
    around_sync: PickSync | None = None
    each = False
    for place in reversed(LAYERS):
        layer = _installed.get((place.around, place.name))
        if layer is None or not layer.wanted(binding, core):
            continue
        if place.around.value is not None:
            if layer.around is not None:
                calls[place.around.value] = layer.around(calls[place.around.value], binding)
            continue
        each = each or place.each
        if layer.around is not None:
            around = layer.around(around or _innermost, binding)
        if layer.around_sync is not None:
            around_sync = layer.around_sync(around_sync or _innermost, binding)
    binding.around, binding.around_sync, binding.calls = around, around_sync, calls
    binding.close_lane(closed=each)
    binding.stacked = version
