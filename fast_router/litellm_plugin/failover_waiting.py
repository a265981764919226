"""Waiting for a deployment to come back, at most `max_wait` seconds, instead of failing at once.

The engine's queue knows no event loop; here each waiter is a future of the loop that its request runs in. The engine
notices that a rest is over when somebody asks it, so a waiter asks again when the first deployment is due.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.engine.waiting import QueueFullError, Ticket, TicketState, WaitQueue
from fast_router.litellm_plugin.binding import Binding, existing
from fast_router.litellm_plugin.selection import seam
from fast_router.litellm_plugin.status import tally

if TYPE_CHECKING:
    from fast_router.engine import Deployment, ModelGroup
    from fast_router.litellm_plugin.bands import Band
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["Waiting", "install"]

_STATE = "_fast_router_waiting"
# Asked again at the latest after this many seconds: a limit that LiteLLM keeps by itself tells nobody when it is over.
_LONGEST_NAP = 1.0


def install(patches: PatchSet, band: Band) -> list[str]:
    """Let asynchronous picks wait where `max_wait` asks for it."""
    del band

    def adopt(changed: settings.Settings) -> None:
        # Picks pay for this only while it is wanted.
        seam.want("waiting", wanted=bool(changed.max_wait))

    seam.around = _pick
    stop = settings.on_change(adopt)
    adopt(settings.current())

    def undo() -> None:
        stop()
        seam.want("waiting", wanted=False)
        seam.around = None

    patches.on_restore(undo)
    return ["waiting"]


async def _pick(pick: Any, core: Any, *args: Any) -> Any:
    seconds = settings.current().max_wait
    if not seconds:
        return await pick(core, *args)
    ticket: Ticket | None = None
    queue: WaitQueue | None = None
    try:
        waiting = _of(core)
        group = waiting.group(args, {}) if waiting is not None else None
        if waiting is not None and group is not None:
            queue = waiting.queue(group)
            request = _request(args, {})
            ticket = await waiting.wait(group, queue, _patience(request, seconds), _priority(request))
    except Exception as error:  # noqa: BLE001 - LiteLLM's own answer follows
        tally.failed(error, "waiting for a deployment")
    try:
        return await pick(core, *args)
    finally:
        # Held until the pick is made: nobody may overtake a waiter on its last step.
        if ticket is not None and queue is not None:
            queue.done(ticket)


def _of(core: Any) -> Waiting | None:
    found: Waiting | None = vars(core).get(_STATE)
    if found is None:
        binding = existing(core)
        if binding is None:
            return None
        with binding.lock:
            found = vars(core).get(_STATE)
            if found is None:
                found = vars(core)[_STATE] = Waiting(binding)
    return found


def _request(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    request = kwargs.get("request_kwargs", args[1] if len(args) > 1 else None)
    return request if isinstance(request, dict) else {}


def _priority(request: dict[str, Any]) -> int:
    value = request.get("priority")
    return value if isinstance(value, int) else 0


def _patience(request: dict[str, Any], seconds: float) -> float:
    """Give how long a request waits: no longer than the timeout that its caller chose."""
    timeout = request.get("timeout")
    return min(seconds, float(timeout)) if isinstance(timeout, (int, float)) and timeout > 0 else seconds


class Waiting:
    """The waiters of one Router.

    Args:
        binding: The Router's picks.
    """

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._engine = binding.engine
        self._queues: dict[str, tuple[WaitQueue, ModelGroup]] = {}
        self._engine.on_available.append(self._available)

    def group(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelGroup | None:
        """Give the group that a pick is about, None if the engine does not know it."""
        model = kwargs.get("model", args[0] if args else None)
        return self._binding.router.groups.get(model) if isinstance(model, str) else None

    def queue(self, group: ModelGroup) -> WaitQueue:
        """Give a group's queue."""
        found = self._queues.get(group.name)
        if found is None:
            queue = WaitQueue(clock=self._engine.clock, max_length=settings.current().max_waiting)
            found = (queue, group)
        if found[1] is not group:
            found = (found[0], group)
        self._queues[group.name] = found
        return found[0]

    def _available(self, deployment: Deployment) -> None:
        for queue, group in list(self._queues.values()):
            if len(queue) and deployment in group.members:
                queue.notify()

    def _room(self, group: ModelGroup) -> bool:
        self._engine.settle()
        return any(not member.held for member in group.members)

    async def wait(self, group: ModelGroup, queue: WaitQueue, seconds: float, priority: int) -> Ticket | None:
        """Wait until somebody in `group` may take a call.

        Args:
            group: Whose deployments.
            queue: The group's queue.
            seconds: At most this long.
            priority: Lower goes first.

        Returns:
            The ticket of a waiter whose turn it is, to be given back after the pick; None if there was
            nothing to wait for, no place in the queue, or the time is over.
        """
        epoch = queue.epoch
        if not queue.busy and self._room(group):
            return None
        loop = asyncio.get_running_loop()
        deadline = self._engine.clock() + seconds
        turn: asyncio.Event = asyncio.Event()

        def tell(_ticket: Ticket) -> None:
            # From whichever thread frees a deployment.
            if not loop.is_closed():
                loop.call_soon_threadsafe(turn.set)

        try:
            ticket = queue.enter(tell, deadline=deadline, priority=priority, epoch=epoch)
        except QueueFullError:
            return None
        try:
            while True:
                if ticket.state is TicketState.WAITING:
                    await self._nap(group, turn, deadline)
                    queue.expire()
                    self._engine.settle()
                turn.clear()
                if ticket.state is TicketState.WAITING and self._room(group):
                    queue.notify()
                if ticket.state is TicketState.WOKEN:
                    epoch = queue.epoch
                    if self._room(group):
                        return ticket
                    queue.again(ticket, epoch=epoch)
                if ticket.state in (TicketState.EXPIRED, TicketState.LEFT):
                    return None
        except BaseException:
            queue.leave(ticket)
            raise

    async def _nap(self, group: ModelGroup, turn: asyncio.Event, deadline: float) -> None:
        soonest = self._engine.soonest(group.members)
        seconds = _LONGEST_NAP if soonest is None else min(soonest, _LONGEST_NAP)
        seconds = max(0.001, min(seconds, deadline - self._engine.clock()))
        waiter = asyncio.ensure_future(turn.wait())
        try:
            await asyncio.wait({waiter}, timeout=seconds)
        finally:
            waiter.cancel()
