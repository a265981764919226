"""A second attempt beside a request in the lane: the lane once more, on another deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from fast_router import settings
from fast_router.litellm_plugin import request as running
from fast_router.litellm_plugin.layers.beside import Beside, beside, take_metadata
from fast_router.litellm_plugin.request import RequestLedger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fast_router.engine import Ask, Lease, ModelGroup
    from fast_router.engine.engine import Engine
    from fast_router.litellm_plugin.rust_core.lane.endpoint import Endpoint
    from fast_router.litellm_plugin.rust_core.lane.entered import Entered

__all__ = ["acquire_other", "instead", "rescuable"]


class Lane(Protocol):
    """The lane as a second attempt needs it; `lane.Lane` is it."""

    def enter_beside(
        self, core: Any, endpoint: Endpoint, request: dict[str, Any], ledger: RequestLedger
    ) -> Entered | str:
        """Enter with an attempt beside one that `ledger` knows; or why there is none."""

    async def run(self, original: Any, core: Any, endpoint: Endpoint, entered: Entered) -> Any:
        """Make the call."""

    async def gone(self, core: Any, endpoint: Endpoint, entered: Entered, routed: Any, error: BaseException) -> None:
        """Give back what the call still holds: the caller has gone away."""


class _Twice:
    """One request of the lane, which may be made once more."""

    __slots__ = ("_core", "_endpoint", "_entered", "_lane", "_seconds")

    def __init__(self, lane: Lane, core: Any, endpoint: Endpoint, entered: Entered) -> None:
        self._lane = lane
        self._core = core
        self._endpoint = endpoint
        self._entered = entered
        self._seconds: dict[str, Any] = {}

    @property
    def endpoint(self) -> str:
        return self._endpoint.op

    @property
    def request(self) -> Mapping[str, Any]:
        return self._entered.request

    async def second(self) -> Any:
        fork = running.ledger.get()
        assert isinstance(fork, RequestLedger)
        self._seconds = beside(self._entered.request)
        entered = self._lane.enter_beside(self._core, self._endpoint, self._seconds, fork)
        if isinstance(entered, str):
            raise LookupError(entered)  # noqa: TRY004 - it says why there is nobody
        return await self._lane.run(None, self._core, self._endpoint, entered)

    def second_won(self) -> None:
        take_metadata(self._entered.request, self._seconds)


def rescuable(lane: Lane, core: Any, endpoint: Endpoint, entered: Entered) -> Beside | None:
    """Let a second attempt be started beside a request's; None where nothing would start one."""
    ledger = entered.attempt.ledger
    if not settings.current().rescue or not isinstance(ledger, RequestLedger) or ledger.failover is None:
        return None
    pair = Beside(_Twice(lane, core, endpoint, entered), ledger, str(entered.request["model"]))
    pair.take(entered.attempt)
    return pair


async def instead(
    lane: Lane, core: Any, endpoint: Endpoint, entered: Entered, routed: Any, pair: Beside, error: BaseException | None
) -> Any:
    """The first call is over: give the second one's answer if it takes that one's place, else None."""
    if error is None or not pair.pending:
        pair.close()
        return None
    try:
        answer = await pair.settle(error)
    except Exception:  # noqa: BLE001 - it is the first one's, of which LiteLLM's walk makes what it would
        return None
    except BaseException as raised:
        await lane.gone(core, endpoint, entered, routed, raised)
        raise
    await lane.gone(core, endpoint, entered, routed, error)
    return answer


def acquire_other(engine: Engine, group: ModelGroup, ledger: RequestLedger, ask: Ask | None) -> Lease | None:
    """A lease on somebody whom a request has not tried."""
    likely = engine.peek(group, ask) if group.only is not None else None
    if likely is not None and ledger.welcomes(likely) and not likely.slow_until:
        # In a large group hardly anybody was tried: no need to look at them all.
        return engine.acquire_deployment(likely, ask)
    left = ledger.narrow([member for member in group.members if not member.held and not ledger.knows(member.id)])
    return engine.acquire_from(group, left, ask) if left else None
