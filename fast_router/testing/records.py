"""What an upstream has seen: counters, and the requests themselves for tests that look closer."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Records", "Seen"]

_KEPT = 10_000


@dataclass(slots=True)
class Seen:
    """One request as it arrived, and how it ended.

    Attributes:
        path: Path of the request.
        model: The model it asked for, "" if none.
        stream: Whether it asked for a stream.
        headers: Its headers, names in lower case. Not shown by repr: they carry the key.
        body: Its JSON body ({} if it had none). Not shown by repr.
        status: HTTP status it was answered with; 0 as long as there is none (hanging, reset, still running).
        fault: The fault it met, "ok" if none.
        aborted: Whether the client left before the end of the answer.
    """

    path: str
    model: str
    stream: bool
    headers: Mapping[str, str] = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)
    status: int = 0
    fault: str = "ok"
    aborted: bool = False


class Records:
    """Counters of one upstream. Written by its event loop only; may be read from any thread.

    Attributes:
        requests: Requests that arrived (control, health, metrics and model lists are not counted).
        in_flight: Requests between arrival and the end of their answer, now.
        max_in_flight: The most there were at once.
        serving: Those of `in_flight` that hold a slot.
        waiting: Those of `in_flight` that wait in line for a slot, or for their prefill.
        served: Requests answered completely with a status below 400.
        aborted: Requests whose client left before the end of the answer.
        tokens: Tokens sent.
        prompt_tokens: Tokens of the prompts that a server with a prefix cache has looked up.
        cached_tokens: Those of them that were in the cache.
        paths: Requests by path.
        statuses: Answers by HTTP status (as text, so that JSON and Python show the same keys).
        faults: Requests by the fault they met.
        seen: The last 10,000 requests, oldest first.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self.serving = 0
        self.waiting = 0
        self.served = 0
        self.aborted = 0
        self.tokens = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.paths: collections.Counter[str] = collections.Counter()
        self.statuses: collections.Counter[str] = collections.Counter()
        self.faults: collections.Counter[str] = collections.Counter()
        self.seen: collections.deque[Seen] = collections.deque(maxlen=_KEPT)

    def clear(self) -> None:
        """Forget what is over; requests in flight stay counted as such."""
        self.requests = self.served = self.aborted = self.tokens = 0
        self.prompt_tokens = self.cached_tokens = 0
        self.max_in_flight = self.in_flight
        for counter in (self.paths, self.statuses, self.faults):
            counter.clear()
        self.seen.clear()

    def as_dict(self) -> dict[str, Any]:
        """Return the counters as plain data, without the requests themselves."""
        return {name: getattr(self, name) for name in _NUMBERS} | {
            name: dict(getattr(self, name)) for name in _COUNTERS
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], seen: Iterable[Seen] = ()) -> Records:
        """Build records from what `as_dict` returned."""
        records = cls()
        for name in _NUMBERS:
            setattr(records, name, data[name])
        for name in _COUNTERS:
            getattr(records, name).update(data[name])
        records.seen.extend(seen)
        return records


_NUMBERS = (
    "requests",
    "in_flight",
    "max_in_flight",
    "serving",
    "waiting",
    "served",
    "aborted",
    "tokens",
    "prompt_tokens",
    "cached_tokens",
)
_COUNTERS = ("paths", "statuses", "faults")
