"""An operator's orders: whom a word means, whether a group would be emptied, and telling every worker.

The command line and the dashboard both give their orders here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fast_router.errors import ConfigurationError, FastRouterError, did_you_mean
from fast_router.observe import asking
from fast_router.observe.identity import user
from fast_router.observe.runtime_dir import directory
from fast_router.operator_holds import Hold, edit

__all__ = ["LONGEST_HOLD", "EmptyGroupError", "Order", "Target", "give", "in_flight", "seconds_of", "targets"]

LONGEST_HOLD = 10 * 365 * 86400.0
"""Seconds; what is to last longer needs no end."""
_LEAST = 4
_NAMED = 10  # deployments in a message
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_AWAY = {"held", "draining", "drained", "closed"}


class EmptyGroupError(FastRouterError):
    """The order would leave a model without any deployment."""


class Target(NamedTuple):
    """A deployment that an order is about."""

    model: str
    server: str
    id: str
    short: str


class Order(NamedTuple):
    """What was done.

    Attributes:
        targets: The deployments, over all processes.
        told: How many processes were told.
        silent: Process ids of those that did not answer; they read the order within ten seconds.
    """

    targets: list[Target]
    told: int
    silent: list[int]


def seconds_of(text: str) -> float:
    """`90`, `90s`, `30m`, `2h`, `1d` in seconds.

    Raises:
        ConfigurationError: It is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    unit = _UNITS.get(found.group(2) or "s") if found is not None else None
    if found is None or unit is None or not float(found.group(1)):
        msg = f"{text!r} is no length of time; write 90s, 30m, 2h or 1d"
        raise ConfigurationError(msg)
    seconds = float(found.group(1)) * unit
    if seconds > LONGEST_HOLD:
        msg = f"{text!r} is longer than ten years; leave it out for no end"
        raise ConfigurationError(msg)
    return seconds


def targets(documents: Sequence[Mapping[str, Any]], word: str, model: str | None = None) -> list[Target]:
    """The deployments that a word means: an id or its beginning, or a server.

    Args:
        documents: The answers to `status`.
        word: An id, at least four characters of its beginning, `host:port`, or a host.
        model: Only those of this model.

    Raises:
        ConfigurationError: Nothing is called that, or several ids begin with it.
    """
    known = {
        (name, row["id"]): Target(name, row["server"], row["id"], row["short"])
        for document in documents
        for router in document.get("routers") or ()
        for name, group in router["models"].items()
        for row in group["deployments"]
    }
    every = [target for target in known.values() if model in (None, target.model)]
    if not every:
        what = f"no process has a model {model!r}" if known else "no process has any deployment yet"
        raise ConfigurationError(f"{what}; `fast-router status` shows what there is")
    found = [target for target in every if word == target.id]
    found = found or [target for target in every if word in (target.server, target.server.rpartition(":")[0])]
    if not found and len(word) >= _LEAST:
        found = [target for target in every if target.id.startswith(word)]
        if len({target.id for target in found}) > 1:
            ids = ", ".join(sorted({target.short for target in found})[:5])
            msg = f"several ids begin with {word!r}: {ids}; give more of it"
            raise ConfigurationError(msg)
    if not found:
        words = {name for target in every for name in (target.server, target.short)}
        hint = did_you_mean(word, words, _there_are(every), cutoff=0.4)
        forms = f"an id, its beginning ({_LEAST} characters or more), or a server as host:port"
        msg = f"nothing is called {word!r}: give {forms}; {hint}"
        raise ConfigurationError(msg)
    return found


def _there_are(every: Sequence[Target]) -> str:
    """The first ones by id and server, and who shows all of them."""
    names = list(dict.fromkeys(f"{target.short} ({target.server})" for target in every))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"there are: {', '.join(names[:_NAMED])}{more}, as `fast-router status` shows them"


def give(
    action: str,
    word: str,
    *,
    model: str | None = None,
    seconds: float | None = None,
    weight: float | None = None,
    force: bool = False,
    documents: Sequence[Mapping[str, Any]] | None = None,
) -> Order:
    """Give an order to every process of this user.

    Args:
        action: `rest`, `drain`, `weight` or `wake`.
        word: Whom; see `targets`.
        model: Only that model's.
        seconds: For how long, None for no end.
        weight: For `weight`; None gives the configured one back.
        force: Also if it empties a model.
        documents: The answers to `status`, if they are at hand.

    Raises:
        ConfigurationError: Nobody is called that.
        EmptyGroupError: It would leave a model without any deployment, and `force` is not given.
    """
    documents = asking.processes() if documents is None else documents
    found = targets(documents, word, model)
    if action in {"rest", "drain"} and not force:
        _refuse_to_empty(documents, found, action)
    now = time.time()
    by_server = all(word in (t.server, t.server.rpartition(":")[0]) and word != t.id for t in found)
    holds = []
    if action in {"rest", "drain"} or (action == "weight" and weight is not None):
        about: dict[str, Any] = {
            "by": user(),
            "at": now,
            "until": None if seconds is None else now + seconds,
            "weight": weight,
        }
        if by_server:
            servers = dict.fromkeys(t.server for t in found)
            holds = [Hold(action, server=server, model=model or "", **about) for server in servers]
        else:
            holds = [Hold(action, id=id_, model=model or "", **about) for id_ in dict.fromkeys(t.id for t in found)]
    kinds = ("weight",) if action == "weight" else ("rest", "drain")
    directories = {Path(each["socket"]).parent for each in documents if "socket" in each} or {directory()}
    for place in directories:
        edit(place, _change(found, kinds, holds))
    ids = sorted({t.id for t in found})
    lift = {"ids": ids, "servers": sorted({t.server for t in found}), "actions": kinds, "before": now}
    question: dict[str, Any] = {"do": "holds", "lift": lift}
    if action == "wake":
        question = {"do": "wake", "ids": ids, "by": user(), "lift": lift}
    answers = asking.ask_all(question)
    silent = [each["pid"] for each in answers if "error" in each]
    return Order(found, len(answers) - len(silent), silent)


def _change(found: Sequence[Target], kinds: Sequence[str], new: Sequence[Hold]) -> Callable[[list[Hold]], list[Hold]]:
    """Replace the orders of these kinds about these deployments by the new ones."""
    ids = {target.id for target in found}
    servers = {target.server for target in found}

    def change(holds: list[Hold]) -> list[Hold]:
        kept = [h for h in holds if h.action not in kinds or not (h.id in ids if h.id else h.server in servers)]
        return [*kept, *new]

    return change


def _refuse_to_empty(documents: Sequence[Mapping[str, Any]], found: Sequence[Target], action: str) -> None:
    leaving = {(target.model, target.id) for target in found}
    for model in dict.fromkeys(target.model for target in found):
        rows = {
            row["id"]: row
            for document in documents
            for router in document.get("routers") or ()
            for row in (router["models"].get(model) or {"deployments": ()})["deployments"]
        }
        left = [id_ for id_, row in rows.items() if row["state"] not in _AWAY and (model, id_) not in leaving]
        if not left:
            msg = f"{action} would leave {model!r} without any deployment; --force does it all the same"
            raise EmptyGroupError(msg)
        if all(rows[id_]["state"] in {"resting", "failing"} for id_ in left):
            msg = f"{action} would leave {model!r} with nothing but deployments that rest; --force does it all the same"
            raise EmptyGroupError(msg)


def in_flight(documents: Sequence[Mapping[str, Any]], found: Sequence[Target]) -> int:
    """How many calls run on these deployments, over all processes."""
    ids = {target.id for target in found}
    seen = {
        (document.get("pid"), number, row["id"]): row["in_flight"]
        for document in documents
        for number, router in enumerate(document.get("routers") or ())
        for group in router["models"].values()
        for row in group["deployments"]
        if row["id"] in ids
    }
    return sum(seen.values())
