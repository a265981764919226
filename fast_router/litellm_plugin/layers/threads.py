"""Synchronous calls that can be rescued: each attempt in a thread of its own, which may be left behind.

A synchronous call blocks its thread, and the event loop in which LiteLLM makes it: nothing could start a second attempt
beside it. With `rescue: threads` the attempt runs elsewhere, and the loop waits for whoever answers first. A thread
cannot be cancelled: one that is left behind goes on until its call ends (with its timeout, at the latest), and so does
its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from fast_router import settings
from fast_router.litellm_plugin import request as running
from fast_router.litellm_plugin.layers import rescue
from fast_router.litellm_plugin.layers.beside import paired
from fast_router.litellm_plugin.layers.stack import Around, Call, Installed, is_asynchronous, plug
from fast_router.settings.rescue import THREADS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.layers.stack import Arguments, Request
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding

__all__ = ["MOST", "NoRoomError", "elsewhere", "install", "on_a_loop_of_its_own", "room", "waited", "wanted"]

MOST: Final = 256
"""How many attempts of a process may be in threads at a time; further ones block their caller, as without this."""

room = threading.BoundedSemaphore(MOST)
"""What is left of `MOST`."""


class NoRoomError(Exception):
    """As many attempts are in threads as may be."""


def wanted() -> bool:
    """Tell whether synchronous attempts are to be made in threads."""
    return settings.current().rescue == THREADS


def install(patches: PatchSet, band: Band) -> None:
    """Make the attempts of every Router's synchronous calls in threads, where the option asks for it."""
    plug(patches, band, Around.ATTEMPT, "threads", Installed(lambda _binding, _core: wanted(), _around))


def _around(inner: Call, _binding: Binding) -> Call:
    async def make_call(core: Any, args: Arguments, kwargs: Request) -> Any:
        ledger = running.ledger.get()
        if ledger is None or is_asynchronous(args, kwargs):
            return await inner(core, args, kwargs)

        async def whole() -> Any:
            return await inner(core, args, kwargs)

        def run() -> Any:
            return on_a_loop_of_its_own(whole())

        if ledger.hedge:
            if not room.acquire(blocking=False):
                raise NoRoomError  # blocking here would keep the first one's answer from its caller
            return await elsewhere(run)
        pair = paired(ledger, make_call, core, args, kwargs)
        if pair is None or not rescue.worth_twice(pair.pair) or not room.acquire(blocking=False):
            return await inner(core, args, kwargs)
        ledger.beside = pair
        return await pair.run(elsewhere(run))

    return make_call


async def elsewhere(call: Callable[[], Any]) -> Any:
    """Make a call in a thread, within this context; room for it was acquired.

    Raises:
        asyncio.CancelledError: Nobody waits for it any more; what it gives is closed when it comes.
        Exception: What the call raised.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    context = copy_context()

    def settle(answer: Any, error: BaseException | None) -> None:
        if done.done():
            _close(answer)
        elif error is None:
            done.set_result(answer)
        else:
            done.set_exception(error)

    def run() -> None:
        answer: Any = None
        raised: BaseException | None = None
        try:
            answer = context.run(call)
        except BaseException as error:  # noqa: BLE001 - it is raised where the call is waited for
            raised = error
        finally:
            room.release()
        try:
            loop.call_soon_threadsafe(settle, answer, raised)
        except RuntimeError:  # the loop is closed: its request was answered long ago
            _close(answer)

    thread = threading.Thread(target=run, name="fast_router-rescue", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no thread can be started
        room.release()
        raise
    return await done


def on_a_loop_of_its_own(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end in this thread, which runs no loop, and leave its current loop alone."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


def waited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end for this thread, whatever runs in it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return on_a_loop_of_its_own(coroutine)
    context = copy_context()
    with ThreadPoolExecutor(1) as helper:
        return helper.submit(context.run, on_a_loop_of_its_own, coroutine).result()


def _close(answer: Any) -> None:
    close = getattr(answer, "close", None)
    if callable(close):
        with contextlib.suppress(Exception):
            close()
