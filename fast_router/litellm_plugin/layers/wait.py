"""Waiting for a deployment to come back, at most `max_wait` seconds, instead of failing at once.

The engine's queue knows no event loop; here each waiter is a future of the loop that its request runs in. The engine
notices that a rest is over when somebody asks it, so a waiter asks again when the first deployment is due.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.engine.failover.waiting import QueueFullError, Ticket, TicketState, WaitQueue
from fast_router.litellm_plugin import request as running
from fast_router.litellm_plugin.layers.outage import Outage, outlast
from fast_router.litellm_plugin.layers.stack import Around, Call, CallSync, Installed, Pick, is_asynchronous, plug
from fast_router.litellm_plugin.picks.binding import Binding, existing
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from fast_router.engine import Deployment, Lease, ModelGroup
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.layers.stack import Arguments, Request
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.request import RequestLedger

__all__ = ["ON_A_LOOP", "Turns", "Waiting", "install", "outlasting", "priority_of", "waiting_of"]

ON_A_LOOP = "_fast_router_on_a_loop"
"""A keyword argument on its way from a synchronous call to the loop that LiteLLM runs it on; it goes no further."""
# Asked again at the latest after this many seconds: a limit that LiteLLM keeps by itself tells nobody when it is over.
_LONGEST_NAP = 1.0


def install(patches: PatchSet, band: Band) -> list[str]:
    """Let requests, synchronous attempts and picks wait where `max_wait` asks for it."""
    plug(patches, band, Around.REQUEST, "waiting", Installed(_wanted, _around_request))
    plug(patches, band, Around.REQUEST_SYNC, "waiting", Installed(_wanted, _around_sync_request))
    plug(patches, band, Around.ATTEMPT, "waiting", Installed(_wanted, _around_attempt))
    plug(patches, band, Around.PICK, "waiting", Installed(_wanted, _around))
    return ["waiting"]


def _wanted(_binding: Binding, _core: Any) -> bool:
    return settings.current().max_wait > 0


def _around(inner: Pick, binding: Binding) -> Pick:  # noqa: ARG001 - what waits is kept at the Router's core
    async def waited(lane: Any, core: Any, *args: Any) -> Any:
        seconds = settings.current().max_wait
        if not seconds:
            return await inner(lane, core, *args)
        ticket: Ticket | None = None
        queue: WaitQueue | None = None
        waiting: Waiting | None = None
        try:
            waiting = waiting_of(core)
            group = waiting.group(args, {}) if waiting is not None else None
            if waiting is not None and group is not None:
                queue = waiting.queue(group)
                request = _request(args, {})
                ticket = await waiting.wait(group, queue, waiting.left(request, seconds), request)
        except Exception as error:  # noqa: BLE001 - LiteLLM's own answer follows
            tally.failed(error, "waiting for a deployment")
        try:
            return await inner(lane, core, *args)
        finally:
            # Held until the pick is made: nobody may overtake a waiter on its last step.
            if ticket is not None and queue is not None and waiting is not None:
                waiting.done(queue, ticket)

    return waited


def _around_request(inner: Call, _binding: Binding) -> Call:
    def async_function_with_fallbacks(core: Any, args: Arguments, kwargs: Request) -> Awaitable[Any]:
        ledger = running.ledger.get()
        if ledger is None or ledger.hop or not ledger.may_wait:
            return inner(core, args, kwargs)

        async def call(again: dict[str, Any]) -> Any:
            ledger.raised, ledger.hop = None, False
            return await inner(core, args, again)

        return outlasting(core, call, kwargs, ledger)

    return async_function_with_fallbacks


def _around_sync_request(inner: CallSync, _binding: Binding) -> CallSync:
    """Tell a synchronous call that blocks somebody's event loop from one that only blocks its own thread."""

    def function_with_fallbacks(core: Any, args: Arguments, kwargs: Request) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            # LiteLLM runs it on a loop in a thread of its own, from where this one cannot be seen.
            kwargs[ON_A_LOOP] = True
        return inner(core, args, kwargs)

    return function_with_fallbacks


async def outlasting(
    core: Any, call: Any, request: dict[str, Any], ledger: RequestLedger, turn: Any = Outage.turn
) -> Any:
    """Make a request, with LiteLLM's retries and fallbacks, and again while its whole group is down.

    Args:
        core: The Router's core.
        call: Makes it once.
        request: Its keyword arguments.
        ledger: What it has tried.
        turn: How it waits for its turn, see `outage.outlast`.

    Raises:
        Exception: LiteLLM's error.
    """
    began = ledger.failover.policy.engine.clock() if ledger.failover is not None else 0.0
    ledger.wait_until = began + _patience(request, settings.current().max_wait)
    found = _outage(core, request)
    if found is not None and found[1].agreed:
        return await outlast(None, call, request, ledger, *found, ledger.wait_until, began, turn)
    try:
        # While others wait already, one attempt is enough to see that it goes on.
        return await call({**request, "num_retries": 0} if found is not None and found[1].active else request)
    except Exception as error:
        # Before a Router's first pick, nothing was known of its groups.
        found = found or _outage(core, request)
        if found is None or ledger.failover is None:
            raise
        return await outlast(error, call, request, ledger, *found, ledger.wait_until, began, turn)


def _outage(core: Any, request: Mapping[str, Any]) -> tuple[ModelGroup, Outage] | None:
    try:
        waiting = waiting_of(core)
        group = None if waiting is None else waiting.group((), request)
        return None if waiting is None or group is None else (group, waiting.outage(group))
    except Exception as error:  # noqa: BLE001 - LiteLLM's own answer follows
        tally.failed(error, "waiting for a deployment")
        return None


def _around_attempt(inner: Call, _binding: Binding) -> Call:
    """Let synchronous calls wait before their pick: LiteLLM runs each on an event loop of its own."""

    async def in_turn(core: Any, args: Arguments, kwargs: Request) -> Any:
        from litellm.types.router import RouterRateLimitError  # noqa: PLC0415

        seconds = settings.current().max_wait
        while True:
            left = await _room(core, kwargs, seconds)
            try:
                return await inner(core, args, kwargs)
            except RouterRateLimitError:
                # Another thread was quicker: its turn is over, not its time.
                if left <= 0:
                    raise

    def make_call(core: Any, args: Arguments, kwargs: Request) -> Awaitable[Any]:
        ledger = running.ledger.get()
        patient = ledger is not None and ledger.may_wait
        return (in_turn if patient and not is_asynchronous(args, kwargs) else inner)(core, args, kwargs)

    return make_call


async def _room(core: Any, request: dict[str, Any], seconds: float) -> float:
    """Wait until somebody may take a synchronous call; give the seconds for which it may wait once more."""
    try:
        waiting = waiting_of(core)
        group = None if waiting is None else waiting.group((), request)
        if waiting is None or group is None:
            return 0.0
        queue = waiting.queue(group)
        ticket = await waiting.wait(group, queue, waiting.left(request, seconds), request)
        if ticket is not None:
            waiting.done(queue, ticket)
        return waiting.left(request, seconds)
    except Exception as error:  # noqa: BLE001 - LiteLLM's own answer follows
        tally.failed(error, "waiting for a deployment")
        return 0.0


def waiting_of(core: Any) -> Waiting | None:
    """Give the waiters of a Router, None before its first pick."""
    binding = existing(core)
    if binding is None:
        return None
    found: Waiting | None = binding.waiting
    if found is None:
        with binding.lock:
            found = binding.waiting
            if found is None:
                found = binding.waiting = Waiting(binding)
    return found


def _request(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    request = kwargs.get("request_kwargs", args[1] if len(args) > 1 else None)
    return request if isinstance(request, dict) else {}


def priority_of(request: Mapping[str, Any]) -> int:
    """Give a request's place in the queue: lower goes first."""
    value = request.get("priority")
    return value if isinstance(value, int) else 0


def _patience(request: Mapping[str, Any], seconds: float) -> float:
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
        self._outages: dict[str, Outage] = {}
        self._engine.on_available.append(self._available)
        self._engine.on_release.append(self._released)

    @property
    def clock(self) -> Callable[[], float]:
        """Monotonic seconds."""
        return self._engine.clock

    def outage(self, group: ModelGroup) -> Outage:
        """Give a group's outage, which may be over."""
        found = self._outages.get(group.name)
        return self._outages.setdefault(group.name, Outage(self.clock)) if found is None else found

    def left(self, request: Mapping[str, Any], seconds: float) -> float:
        """Give how long a request may still wait, over all its attempts."""
        now = self.clock()
        ledger = running.ledger.get()
        until = None if ledger is None else ledger.wait_until
        if until is None:
            until = now + _patience(request, seconds)
            if ledger is not None:
                ledger.wait_until = until
        return max(0.0, until - now)

    def _released(self, lease: Lease, error: BaseException | None, cancelled: bool) -> None:
        if error is None and not cancelled:
            for name, outage in self._outages.items():
                if outage.active and lease.deployment in self._members(name):
                    outage.succeeded(lease.started)

    def _members(self, name: str) -> Sequence[Deployment]:
        group = self._binding.router.groups.get(name)
        return () if group is None else group.members

    def group(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ModelGroup | None:
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

    async def wait(
        self, group: ModelGroup, queue: WaitQueue, seconds: float, request: Mapping[str, Any]
    ) -> Ticket | None:
        """Wait until somebody in `group` may take a call.

        Args:
            group: Whose deployments.
            queue: The group's queue.
            seconds: At most this long.
            request: Its keyword arguments: who asks, and how urgently.

        Returns:
            The ticket of a waiter whose turn it is, to be given back after the pick; None if there was
            nothing to wait for, no place in the queue, or the time is over.
        """
        epoch = queue.epoch
        if not queue.busy and self._room(group):
            return None
        self._binding.queued(1)
        ticket, began = None, self._engine.clock()
        try:
            ticket = await self._turn(group, queue, seconds, request, epoch)
            tally.waited(group.name, self._engine.clock() - began, served=ticket is not None)
            return ticket
        finally:
            if ticket is None:
                self._binding.queued(-1)

    def done(self, queue: WaitQueue, ticket: Ticket) -> None:
        """Take back the ticket of a waiter whose pick is made."""
        self._binding.queued(-1)
        queue.done(ticket)

    async def _turn(
        self, group: ModelGroup, queue: WaitQueue, seconds: float, request: Mapping[str, Any], epoch: int
    ) -> Ticket | None:
        loop = asyncio.get_running_loop()
        deadline = self._engine.clock() + seconds
        turn: asyncio.Event = asyncio.Event()

        def tell(_ticket: Ticket) -> None:
            # From whichever thread frees a deployment.
            if not loop.is_closed():
                loop.call_soon_threadsafe(turn.set)

        try:
            ticket = queue.enter(
                tell, deadline=deadline, priority=priority_of(request), caller=running.caller_here(request), epoch=epoch
            )
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


class Turns:
    """A group's queue to whoever has a ticket of it, which is given back after the pick."""

    __slots__ = ("_queue", "_waiting")

    def __init__(self, waiting: Waiting, queue: WaitQueue) -> None:
        self._waiting = waiting
        self._queue = queue

    def done(self, ticket: Ticket) -> None:
        """Take back the ticket."""
        self._waiting.done(self._queue, ticket)
