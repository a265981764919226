"""What an operator ordered from outside: deployments that take no calls until released, and weights by hand.

The orders live in one small file beside the status sockets (`observe.runtime_dir`), so that they outlive workers,
reloads and restarts of the proxy: a process reads it when it begins to listen and whenever it is told to. With shared
state the orders of the whole fleet come from Redis as well. No probe, panic or health check lifts one: the engine keeps
them by a bit of their own.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fast_router.engine.deployment import OPERATOR
from fast_router.naming import server_of

if TYPE_CHECKING:
    from fast_router.changes import Changes
    from fast_router.engine import Deployment, Engine

__all__ = [
    "ACTIONS",
    "FILE",
    "Hold",
    "any_order",
    "at_home",
    "configured",
    "edit",
    "field_of",
    "from_fields",
    "governed",
    "lift",
    "listeners",
    "of",
    "parse",
    "printable",
    "read",
    "replace",
    "row_of",
    "taken_back",
    "weight_of",
    "written",
]


class Governed(Protocol):
    """A router, as far as orders about its deployments go."""

    engine: Engine
    changes: Changes

    @property
    def deployments(self) -> Mapping[str, Deployment]:
        """Every deployment by id."""
        ...

    def reread(self) -> None:
        """Have every entry read anew."""


governed: list[Callable[[], Iterable[Governed]]] = []
"""Give the routers of this process that orders are about."""

ACTIONS = ("rest", "drain", "weight")
FILE = "holds.json"
_FILE = "file"
_MOST = 10_000
_END = 253_402_214_400.0  # the year 10000
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Hold:
    """One order.

    Attributes:
        action: `rest` and `drain` keep calls away (the second says that its end is waited for); `weight` sets one.
        id: The deployment's id, empty if `server` says which.
        server: Host and port: every deployment there, also those that are added later.
        model: Only that model group's, empty for all.
        weight: For `weight`.
        by: Who ordered it, `user@host`.
        at: When, seconds since the epoch.
        until: Until when, None for no end.
    """

    action: str
    id: str = ""
    server: str = ""
    model: str = ""
    weight: float | None = None
    by: str = ""
    at: float = 0.0
    until: float | None = None

    @property
    def over(self) -> bool:
        """Whether its time is up."""
        return self.until is not None and self.until <= time.time()

    def covers(self, deployment: Deployment) -> bool:
        """Whether it is about that deployment."""
        if self.model and self.model != deployment.name:
            return False
        return self.id == deployment.id if self.id else self.server == server_of(deployment.entry)

    def words(self) -> str:
        """Who ordered what, when and until when."""
        what = f"weight {self.weight:g}" if self.action == "weight" else self.action
        until = f" until {_clock(self.until)}" if self.until is not None else ""
        return f"{what} by {self.by or 'an operator'} since {_clock(self.at)}{until}"


def _clock(seconds: float) -> str:
    seconds = min(max(seconds, 0.0), _END)  # no calendar goes further
    near = abs(time.time() - seconds) < 12 * 3600
    return time.strftime("%H:%M:%S" if near else "%Y-%m-%d %H:%M", time.localtime(seconds))


# -- the file -----------------------------------------------------------------------------------------------


def parse(document: object) -> list[Hold]:
    """The orders in a document; what cannot be understood is left out, since another version may have written it."""
    rows = document.get("holds") if isinstance(document, Mapping) else None
    found = []
    for row in rows[:_MOST] if isinstance(rows, list) else ():
        hold = _read_row(row)
        if hold is not None and not hold.over:
            found.append(hold)
    return found


def _read_row(row: object) -> Hold | None:
    if not isinstance(row, Mapping) or row.get("action") not in ACTIONS:
        return None
    texts: dict[str, Any] = {key: row.get(key) or "" for key in ("action", "id", "server", "model", "by")}
    numbers: dict[str, Any] = {key: row.get(key) for key in ("weight", "until")}
    at = row.get("at") or 0.0
    if not all(isinstance(text, str) for text in texts.values()) or not (texts["id"] or texts["server"]):
        return None
    if not all(number is None or _is_number(number) for number in (*numbers.values(), at)):
        return None
    if texts["action"] == "weight" and (numbers["weight"] is None or numbers["weight"] < 0):
        return None
    texts["by"] = printable(texts["by"])
    return Hold(**texts, **numbers, at=float(at))


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def printable(text: str) -> str:
    """A name as it may stand in a log and on a terminal: no control characters, at most 100 characters."""
    return "".join(each if each.isprintable() else "?" for each in text[:_LONGEST_NAME])


def read(directory: Path) -> list[Hold]:
    """The orders in force in a runtime directory."""
    try:
        return parse(json.loads((directory / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return []


def edit(directory: Path, change: Callable[[list[Hold]], list[Hold]]) -> list[Hold]:
    """Change the orders of a runtime directory, one editor at a time, and return those in force now."""
    with _locked(directory):
        holds = change(read(directory))
        path = directory / FILE
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text(document(holds), encoding="utf-8")
        new.replace(path)
        return holds


def document(holds: Iterable[Hold]) -> str:
    """The orders as they are written down."""
    return json.dumps({"holds": [asdict(hold) for hold in holds]}, indent=1)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    import fcntl  # noqa: PLC0415 - there are status sockets: this is a Unix

    with (directory / "holds.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def from_fields(fields: Mapping[Any, Any]) -> tuple[list[Hold], list[str]]:
    """The orders of a hash as `field_of` and `row_of` wrote them, and the fields of those that are over."""
    found, over = [], []
    for field, text in list(fields.items())[:_MOST]:
        name = field.decode("utf-8", "replace") if isinstance(field, bytes) else str(field)
        try:
            hold = _read_row(json.loads(text))
        except (ValueError, TypeError, RecursionError):
            hold = None
        if hold is None:
            continue
        if hold.over:
            over.append(name)
        else:
            found.append(hold)
    return found, over


def field_of(hold: Hold) -> str:
    """What a new order about the same replaces, as the field of a hash."""
    return json.dumps([hold.action == "weight", hold.id, hold.server, hold.model])


def row_of(hold: Hold) -> str:
    """An order as the value of a hash."""
    return json.dumps(asdict(hold))


# -- what they mean here ------------------------------------------------------------------------------------

_lock = threading.RLock()
_by_source: dict[str, list[Hold]] = {}
_holds: tuple[Hold, ...] = ()
_home: list[Path] = []

listeners: list[Callable[[Sequence[Hold], Sequence[Hold]], None]] = []
"""Told what an operator of this machine has ordered and taken back: (new, gone); must return at once."""


def at_home(directory: Path, *, ordered: bool) -> None:
    """Take over the orders of this machine's file.

    Args:
        directory: Where it is.
        ordered: Whether an operator has just given one: then the listeners hear what has changed.
    """
    _home[:] = [directory]
    holds = read(directory)
    before = _by_source.get(_FILE, [])
    replace(_FILE, holds)
    if ordered:
        _tell([hold for hold in holds if hold not in before], [hold for hold in before if hold not in holds])


def lift(ids: Sequence[str], servers: Sequence[str], actions: Sequence[str], before: float) -> None:
    """Tell the listeners that orders about these, given before that time, are taken back, wherever they came from."""
    gone = [
        hold
        for hold in _holds
        if hold.action in actions and hold.at < before and (hold.id in ids if hold.id else hold.server in servers)
    ]
    _tell([], gone)


def taken_back(gone: Sequence[Hold]) -> None:
    """Drop from this machine's file what another machine's operator has taken back."""
    mine = [hold for hold in gone if hold in _by_source.get(_FILE, [])]
    if mine and _home:
        replace(_FILE, edit(_home[0], lambda holds: [hold for hold in holds if hold not in mine]))


def written() -> list[Hold]:
    """The orders of this machine's file."""
    return list(_by_source.get(_FILE, []))


def _tell(new: Sequence[Hold], gone: Sequence[Hold]) -> None:
    for listener in list(listeners) if new or gone else ():
        listener(new, gone)


def replace(source: str, holds: Sequence[Hold]) -> int:
    """Take over the orders of one source (the file, the fleet) and apply them.

    Returns:
        How many deployments of this process they change.
    """
    global _holds  # noqa: PLW0603 - one process, one set of orders

    with _lock:
        if list(holds) == _by_source.get(source, []):
            return 0
        _by_source[source] = list(holds)
        _holds = tuple(hold for each in _by_source.values() for hold in each)
        return sum(_apply(router) for routers in governed for router in routers())


def _apply(router: Governed) -> int:
    count, reread = 0, False
    for deployment in list(router.deployments.values()):
        held, weight = deployment.held & OPERATOR, deployment.operator_weight
        configured(router.engine, deployment)
        weighted = weight != deployment.operator_weight
        reread |= weighted
        count += weighted or held != deployment.held & OPERATOR
        if held != deployment.held & OPERATOR:
            hold = of(deployment)
            router.changes.note(deployment, f"is held: {hold.words()}" if hold is not None else "is held no longer")
        if weighted:
            hold = weight_of(deployment)
            router.changes.note(deployment, f"has {hold.words()}" if hold is not None else "has its own weight again")
    if reread:
        router.reread()
    return count


def any_order() -> bool:
    """Whether anything at all is ordered."""
    return bool(_holds)


def of(deployment: Deployment) -> Hold | None:
    """The order that keeps calls away from a deployment, None for none."""
    return _first(deployment, ("rest", "drain"))


def weight_of(deployment: Deployment) -> Hold | None:
    """The order that sets its weight."""
    return _first(deployment, ("weight",))


def _first(deployment: Deployment, actions: Sequence[str]) -> Hold | None:
    # The latest counts.
    found = [h for h in _holds if h.action in actions and not h.over and h.covers(deployment)]
    return max(found, key=lambda hold: hold.at) if found else None


def configured(engine: Engine, deployment: Deployment) -> None:
    """Apply what is ordered to a deployment that is new, was read anew, or about which an order has changed."""
    if not _holds and not deployment.held & OPERATOR and deployment.operator_weight is None:
        return
    hold, weight = of(deployment), weight_of(deployment)
    if hold is not None:
        engine.hold_by_operator(deployment, None if hold.until is None else max(0.0, hold.until - time.time()))
    elif deployment.held & OPERATOR:
        engine.free_by_operator(deployment)
    # The configured weight comes back when the entry is read.
    deployment.operator_weight = None if weight is None else weight.weight
    if weight is not None and weight.weight is not None:
        deployment.weight = weight.weight
        deployment.share = weight.weight or deployment.capacity
