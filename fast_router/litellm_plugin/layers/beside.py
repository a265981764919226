"""A second attempt beside a first one that takes too long: whoever answers first wins.

The first attempt is made by the request's own task, as it would be without us, and costs nothing more. A second one may
be started at any time until the first is over; a stream counts as answered with its first chunk. If the second answers
first, the first is cancelled where it waits, and the request goes on with the answer of the second.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol

from fast_router.engine.failover.failures import FailureKind
from fast_router.litellm_plugin import request as running
from fast_router.litellm_plugin.layers.stack import function_of
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from fast_router.engine import Deployment, Lease
    from fast_router.litellm_plugin.layers.stack import Arguments, Call, Request
    from fast_router.litellm_plugin.request import Attempt, RequestLedger

__all__ = ["Attempts", "Beside", "Pair", "beside", "paired", "take_metadata"]

_METADATA = ("metadata", "litellm_metadata")


class Pair(Protocol):
    """A request, and how a second attempt of it is made."""

    @property
    def endpoint(self) -> str:
        """LiteLLM's name of what is called."""

    @property
    def request(self) -> Mapping[str, Any]:
        """The request's keyword arguments."""

    async def second(self) -> Any:
        """Make the second one; called with a ledger of its own that knows the first one's deployment.

        Raises:
            Exception: It failed, or there is nobody to make it.
        """

    def second_won(self) -> None:
        """Take over what the second attempt has left."""


class Beside:
    """One attempt of a request, and perhaps a second one beside it.

    Args:
        pair: How the second one is made.
        ledger: What the request has tried; it knows its Router's failover.
        model: The model name as the request has it.

    Attributes:
        loop: Where the request runs.
        over: Whether the first attempt is over.
        why: What has started the second one, for the counters; None without one.
        won: Whether the second one has answered first.
    """

    __slots__ = (
        "_called_off", "_cancelling", "_context", "_first", "_fork", "_second", "_task", "ledger", "loop", "model",
        "over", "pair", "why", "won",
    )  # fmt: skip

    def __init__(self, pair: Pair, ledger: RequestLedger, model: str) -> None:
        self.pair = pair
        self.ledger = ledger
        self.model = model
        self.over = False
        self.why: str | None = None
        self.won = False
        self._first: Attempt | None = None
        self._second: asyncio.Future[Any] | None = None
        self._fork: RequestLedger | None = None
        self._called_off = False
        self._context = copy_context()
        self.loop = asyncio.get_running_loop()
        task: Any = asyncio.current_task()
        self._task = task
        # Python 3.10 does not count who has cancelled a task.
        self._cancelling = task.cancelling() if hasattr(task, "cancelling") else 0

    # -- the first attempt -----------------------------------------------------------------------

    def take(self, attempt: Attempt) -> None:
        """Let `attempt` be the first one."""
        self._first = attempt
        attempt.beside = self

    @property
    def lease(self) -> Lease | None:
        """The first attempt's, None before its pick."""
        return None if self._first is None else self._first.lease

    async def run(self, first: Awaitable[Any]) -> Any:
        """Make the first attempt, and give the first answer.

        Args:
            first: The first attempt.

        Raises:
            Exception: What the first attempt raised, if nobody answered.
        """
        try:
            answer = await first
        except BaseException as error:
            if self.failed():
                return await self.settle(error)
            raise
        self.close()
        return answer

    @property
    def pending(self) -> bool:
        """Whether a second attempt has been started: the first one's end is not the last word then."""
        return self._second is not None

    def _end(self) -> None:
        self.over = True
        if self._first is not None:
            # The attempt of a stream goes on, and what is held here leads to what has the stream.
            self._first.beside = None

    def failed(self) -> bool:
        """The first attempt has failed or was called off; tell whether a second one is left to `settle`."""
        self._end()
        return self._second is not None

    def close(self) -> None:
        """The first attempt has answered."""
        self._end()
        if self._second is not None:
            if self._called_off:
                # Its answer and its cancellation have met.
                self._alone()
            _drop(self._second)

    async def settle(self, error: BaseException) -> Any:
        """The first attempt has failed or was called off: give the answer of the second.

        Args:
            error: What the first one raised.

        Raises:
            BaseException: `error`, if the second one does not answer either, or the caller has gone away.
        """
        second = self._second
        assert second is not None
        self._end()
        ours = self._called_off and self._alone()
        if not isinstance(error, Exception) and not ours:
            _drop(second)
            raise error
        if not second.done():
            try:
                await asyncio.wait({second})
            except BaseException:
                _drop(second)
                raise
        if second.cancelled() or second.exception() is not None:
            self._merge()
            raise error
        self.won = True
        self.pair.second_won()
        if self.why is not None:
            tally.event(f"{self.why}_won", self.model)
        return second.result()

    def _alone(self) -> bool:
        """Take our cancellation back; tell whether it was the only one."""
        self._called_off = False
        uncancel = getattr(self._task, "uncancel", None)
        return uncancel is None or uncancel() <= self._cancelling

    # -- the second one --------------------------------------------------------------------------

    def start(self, why: str) -> bool:
        """Start the second attempt, from within the request's loop; never raises.

        Args:
            why: A word for the counters.

        Returns:
            Whether it was started: not if there is one, the first is over, or nobody else is there.
        """
        try:
            lease, failover = self.lease, self.ledger.failover
            if self.over or self._second is not None or lease is None or failover is None:
                return False
            if not self.has_others(lease.deployment):
                return False
            fork = self.ledger.fork()
            fork.failed(lease.id, FailureKind.TIMEOUT, failover.policy.engine.clock())
            self._fork = fork
            self._second = second = self._context.copy().run(self._begin, fork)
        except Exception as error:  # noqa: BLE001 - the first attempt is still running
            tally.failed(error, "a second attempt")
            return False
        self.why = why
        tally.event(why, self.model)
        second.add_done_callback(self._ended)
        return True

    def has_others(self, deployment: Deployment) -> bool:
        """Tell whether anybody else of the group may take a call."""
        failover = self.ledger.failover
        return failover is not None and any(not m.held for m in failover.members(deployment) if m is not deployment)

    def _begin(self, fork: RequestLedger) -> asyncio.Future[Any]:
        running.ledger.set(fork)
        return self.loop.create_task(self.pair.second())

    def _ended(self, second: asyncio.Future[Any]) -> None:
        if self.over:
            return
        if second.cancelled() or second.exception() is not None:
            self._merge()
            return
        self._overtaken()
        self._called_off = True
        self._task.cancel()

    def _merge(self) -> None:
        """Enter what the second attempt has met into the request's ledger, once."""
        fork, self._fork = self._fork, None
        for attempt in () if fork is None else fork.attempts[1:]:
            self.ledger.failed(*attempt)

    def _overtaken(self) -> None:
        """Hold the first attempt's silence against its deployment, before its cancellation blames nobody."""
        lease, failover = self.lease, self.ledger.failover
        if lease is None or not lease.open or failover is None:
            return
        try:
            failover.policy.overtaken(lease)
        except Exception as error:  # noqa: BLE001 - the answer is there: it must reach the caller
            tally.failed(error, "a second attempt")


class Attempts:
    """The attempts of `Router.make_call`.

    Args:
        call: Makes one.
        core: The Router's core.
        args: Positional arguments of the attempt.
        request: Its keyword arguments.
    """

    __slots__ = ("_args", "_call", "_core", "_seconds", "request")

    def __init__(self, call: Call, core: Any, args: Arguments, request: Request) -> None:
        self._call = call
        self._core = core
        self._args = args
        self._seconds: Request = {}
        self.request = request

    @property
    def endpoint(self) -> str:
        """As of any pair."""
        function = self.request.get("original_generic_function") or function_of(self._args, self.request)
        return str(getattr(function, "__name__", ""))

    async def second(self) -> Any:
        """As of any pair."""
        self._seconds = beside(self.request)
        return await self._call(self._core, self._args, self._seconds)

    def second_won(self) -> None:
        """As of any pair."""
        take_metadata(self.request, self._seconds)


def paired(ledger: RequestLedger, call: Call, core: Any, args: Arguments, request: Request) -> Beside | None:
    """Let a second attempt be started beside the one that begins now; None where nobody may.

    Args:
        ledger: The request's.
        call: Makes the second one, as the first is made.
        core: The Router's core.
        args: Positional arguments of the attempt.
        request: Its keyword arguments.
    """
    if ledger.failover is None or ledger.hedge:
        return None
    return Beside(Attempts(call, core, args, request), ledger, str(request.get("model")))


def beside(request: Mapping[str, Any]) -> dict[str, Any]:
    """Give a request for an attempt beside another one, with metadata of its own."""
    copied = dict(request)
    for name in _METADATA:
        if isinstance(copied.get(name), dict):
            copied[name] = dict(copied[name])
    # The logging object of the first attempt would be told two stories.
    copied.pop("litellm_logging_obj", None)
    return copied


def take_metadata(request: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Put the metadata of the attempt that answered into the request's own."""
    for name in _METADATA:
        if isinstance(request.get(name), dict):
            request[name].update(other.get(name) or {})


def _drop(task: asyncio.Future[Any]) -> None:
    """Cancel the loser; one that had answered all the same is closed."""

    def closing(done: asyncio.Future[Any]) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        close = getattr(done.result(), "aclose", None)
        if close is not None:
            closed = asyncio.ensure_future(close())
            _closing.add(closed)
            closed.add_done_callback(_closed)

    task.cancel()
    task.add_done_callback(closing)


def _closed(task: asyncio.Future[Any]) -> None:
    _closing.discard(task)
    if not task.cancelled():
        task.exception()


# A task that nobody holds may be collected before it has run.
_closing: set[asyncio.Future[Any]] = set()
