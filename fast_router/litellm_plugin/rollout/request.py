"""One request of a rollout, in its arm: what it asks, what it holds, how it ends.

The context holds it while it runs, and while its stream is read. Where none is set nothing is known of an arm, and
everything is as without a rollout.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from fast_router.litellm_plugin.picks.request_facts import session_of
from fast_router.litellm_plugin.request import aside, set_aside
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine import Lease
    from fast_router.engine.rollout.arms import Arm, Arms
    from fast_router.litellm_plugin.rollout.observer import Observer

__all__ = ["Request", "alone", "name_of", "run", "running", "tried"]

_END_USER = "user_api_key_end_user_id"


class Request:
    """One request, over its retries and fallbacks.

    Args:
        arms: Where it is counted.
        arm: Its own.
        alone: Whether LiteLLM's own code handles it.
        observer: Who watches LiteLLM's picks, None for nobody.
        tried: Whether the strategy of an experiment picks for it.

    Attributes:
        observer: As given.
    """

    __slots__ = (
        "__weakref__", "_arm", "_arms", "_attempts", "_first", "_lease", "_lock", "_open", "_started", "alone",
        "observer", "tried",
    )  # fmt: skip

    def __init__(self, arms: Arms, arm: Arm, observer: Observer | None, *, alone: bool, tried: bool = False) -> None:
        self._arms = arms
        self._arm = arm
        self.alone = alone
        self.tried = tried
        self.observer = observer
        self._attempts: Counter[str] = Counter()
        self._lease: Lease | None = None
        self._lock = threading.Lock()
        self._started = time.perf_counter()
        self._first: float | None = None
        self._open = True

    def attempted(self, deployment_id: str) -> None:
        """One more attempt, at that deployment."""
        self._attempts[deployment_id] += 1

    def hold(self, lease: Lease) -> None:
        """Count a call of LiteLLM's own as in flight, in the place of the one before."""
        self.attempted(lease.id)
        with self._lock:
            before, self._lease = self._lease, lease if self._open else None
            late = not self._open
        for ended in (before, lease if late else None):
            if ended is not None:
                self._release(ended, cancelled=True)

    def failed(self, error: BaseException) -> None:
        """The call that it holds has failed, or its caller went away."""
        gone = not isinstance(error, Exception)
        self._let_go(None if gone else error, cancelled=gone)

    def _let_go(self, error: BaseException | None = None, *, cancelled: bool = False) -> None:
        with self._lock:
            lease, self._lease = self._lease, None
        if lease is not None:
            self._release(lease, error, cancelled=cancelled)

    def _release(self, lease: Lease, error: BaseException | None = None, *, cancelled: bool = False) -> None:
        outer = running()
        run(None)  # what our breaker makes of it concerns our rests, not LiteLLM's
        try:
            if self.observer is None:
                lease.release(cancelled=True, observe=False)
            else:
                self.observer.ended(lease, error, cancelled=cancelled)
        except Exception as ours:  # noqa: BLE001 - the answer must reach the caller
            tally.failed(ours, "a call of LiteLLM's own")
        finally:
            run(outer)

    # -- how it ends, as its caller sees it; only the first of these counts ---------------------------

    def item(self, _chunk: object) -> None:
        """A chunk of its stream has arrived."""
        if self._first is None:
            self._first = time.perf_counter() - self._started

    def finished(self) -> None:
        """It has its answer, whole."""
        self._ended()

    def broken(self, error: BaseException) -> None:
        """It failed, or its caller went away."""
        if isinstance(error, Exception):
            self._ended(error)
        else:
            self._ended(cancelled=True)

    def closed(self) -> None:
        """Its caller closed its stream before the end."""
        self._ended(cancelled=True)

    def abandon(self) -> None:
        """Its stream was dropped unread; called from a finaliser, where no lock may be taken."""
        if not self._open:
            return
        self._open = False
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.abandon()
        self._arms.abandon(self._arm, self._attempts)

    def _ended(self, error: BaseException | None = None, *, cancelled: bool = False) -> None:
        with self._lock:
            if not self._open:
                return
            self._open = False
        self._let_go(error, cancelled=cancelled)
        self._arms.ended(
            self._arm,
            time.perf_counter() - self._started,
            failed=error is not None,
            cancelled=cancelled,
            first_token=self._first,
            attempts=self._attempts,
        )


def running() -> Request | None:
    """Give the request that is running in this context, or whose stream is being read."""
    return cast("Request | None", aside().rollout)


def run(request: Request | None) -> None:
    """Let `request` be the one that is running in this context."""
    set_aside(aside()._replace(rollout=request))


def alone() -> bool:
    """Whether LiteLLM's own code handles what is running in this context."""
    request = running()
    return request is not None and request.alone


def tried() -> bool:
    """Whether the strategy of an experiment picks for what is running in this context."""
    request = running()
    return request is not None and request.tried


def name_of(request: Mapping[str, Any]) -> str | None:
    """The session or end user that a request belongs to, None if it names none.

    A key is none: it is an application's, and most proxies have so few that a tenth of them is none or all.
    """
    session = session_of(request)
    if session is not None:
        return session
    for bucket in (request.get("litellm_metadata"), request.get("metadata")):
        user = bucket.get(_END_USER) if isinstance(bucket, Mapping) else None
        if isinstance(user, str) and user:
            return user
    return None
