"""Streams of a class of their own: each becomes an instance of a subclass that tells who reads and closes it.

There is no generator inside that could be replaced, and the caller must get the object that LiteLLM has made. A stream
may be followed for two purposes at once: the one that comes later stands around the other.
"""

from __future__ import annotations

import inspect
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from fast_router.litellm_plugin.request import Context, Reading, here

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["ATTEMPTS", "END", "Follower", "Following"]

END = object()
"""In the place of a chunk: the stream has ended there."""


class Follower(Protocol):
    """Who hears of what is read of a stream."""

    def item(self, chunk: object) -> None:
        """A chunk has arrived."""

    def finished(self) -> None:
        """It was read to its end."""

    def broken(self, error: BaseException) -> None:
        """It failed, or somebody stopped it."""

    def closed(self) -> None:
        """The caller closed it before its end."""


_F = TypeVar("_F", bound=Follower)


class _Step(Generic[_F]):
    """Around the reading of one chunk: what it raises is told, and while it lasts the follower is the running one."""

    __slots__ = ("_follower", "_outer", "_within")

    def __init__(self, within: Callable[[Context, _F], Context], follower: _F) -> None:
        self._within = within
        self._follower = follower
        self._outer = here.get()

    def __enter__(self) -> None:
        here.set(self._within(self._outer, self._follower))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, (StopIteration, StopAsyncIteration)):
                self._follower.finished()
            elif error is not None:
                self._follower.broken(error)
        finally:
            here.set(self._outer)


class Following(Generic[_F]):
    """How streams are followed for one purpose.

    Args:
        name: What the attributes that a stream gets are called after.
        within: Gives the context with who follows in it, for as long as a chunk is read: what is done about a stream
            that breaks belongs to it.
    """

    def __init__(self, name: str, within: Callable[[Context, _F], Context]) -> None:
        self._within = within
        self._follower, self._first = f"_fast_router_{name}", f"_fast_router_{name}_first"
        self._classes: weakref.WeakKeyDictionary[type, type] = weakref.WeakKeyDictionary()

    async def step(self, advance: Any, follower: _F | None) -> Any:
        """Read one chunk, and tell `follower` of it or of what came in its place."""
        if follower is None:
            return await advance()
        with _Step(self._within, follower):
            chunk = await advance()
        follower.item(chunk)
        return chunk

    def step_sync(self, advance: Any, follower: _F | None) -> Any:
        """The same of a synchronous stream."""
        if follower is None:
            return advance()
        with _Step(self._within, follower):
            chunk = advance()
        follower.item(chunk)
        return chunk

    def follower_of(self, response: Any) -> _F | None:
        """Who hears of what is read of a stream whose class was exchanged."""
        found: _F | None = (getattr(response, "__dict__", None) or {}).get(self._follower)
        return found

    @staticmethod
    def catch_up(follower: _F, first: list[Any]) -> None:
        """Tell `follower` of what was read ahead before it was there."""
        for chunk in reversed(first):
            if chunk is END:
                follower.finished()
            else:
                follower.item(chunk)

    def exchange_class(self, response: Any, follower: _F | None, first: list[Any] | None = None) -> bool:
        """Have `follower` hear of what is read, after `first` was given.

        Args:
            response: The stream; its class may have been exchanged before, with or without a follower.
            follower: Who hears of it; one that is there stays.
            first: Chunks that were read ahead, the first one last; None for those that are there.

        Returns:
            False if the class of this stream cannot be exchanged.
        """
        kind = type(response)
        try:
            exchanged = self._follower in response.__dict__
            if first is not None or not exchanged:
                setattr(response, self._first, first or [])
            if not exchanged:
                setattr(response, self._follower, follower)
                response.__class__ = self._class_of(kind)
            elif follower is not None and self.follower_of(response) is None:
                setattr(response, self._follower, follower)
                self.catch_up(follower, getattr(response, self._first))
        except (AttributeError, TypeError):
            return False
        return True

    def _class_of(self, kind: type) -> type:
        followed = self._classes.get(kind)
        if followed is None:
            followed = self._followed_class(kind)
            if "<locals>" not in kind.__qualname__:
                # Some of LiteLLM's classes are made anew for each stream: those go with it.
                self._classes[kind] = followed
        return followed

    def _followed_class(self, kind: Any) -> type:
        members: dict[str, Any] = {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            "__slots__": (),
        }
        mine, ahead = self._follower, self._first
        if hasattr(kind, "__anext__"):

            async def __anext__(stream: Any) -> Any:  # noqa: N807
                first = getattr(stream, ahead)
                if not first:
                    return await self.step(partial(kind.__anext__, stream), getattr(stream, mine))
                if first[-1] is END:
                    raise StopAsyncIteration
                return first.pop()

            members["__anext__"] = __anext__
        if hasattr(kind, "__next__"):

            def __next__(stream: Any) -> Any:  # noqa: N807
                first = getattr(stream, ahead)
                if not first:
                    return self.step_sync(partial(kind.__next__, stream), getattr(stream, mine))
                if first[-1] is END:
                    raise StopIteration
                return first.pop()

            members["__next__"] = __next__
        if inspect.iscoroutinefunction(getattr(kind, "aclose", None)):

            async def aclose(stream: Any) -> Any:
                try:
                    return await kind.aclose(stream)
                finally:
                    self._closed(stream)

            members["aclose"] = aclose
        if inspect.isfunction(getattr(kind, "close", None)):

            def close(stream: Any) -> Any:
                try:
                    return kind.close(stream)
                finally:
                    self._closed(stream)

            members["close"] = close
        return type(kind.__name__, (kind,), members)

    def _closed(self, response: Any) -> None:
        follower = self.follower_of(response)
        if follower is not None:
            follower.closed()


def _reading(outer: Context, follower: Reading) -> Context:
    return Context(outer.attempt, follower, outer.filtered, outer.aside)


ATTEMPTS: Following[Reading] = Following("watch", _reading)
"""Streams that take their attempt along."""
