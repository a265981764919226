"""`fast-router rest`, `drain`, `wake`, `weight`: an operator's hands, told to every worker of this user."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from fast_router.cli.columns import duration
from fast_router.errors import ConfigurationError
from fast_router.explain import COMPARES
from fast_router.observe import asking
from fast_router.observe.orders import Order, give, in_flight, seconds_of

__all__ = ["drain", "rest", "wake", "weight"]

_POLL = 0.5
# The states that a wake ends.
_WOKEN = frozenset({"held", "draining", "drained", "resting", "failing", "probing", "due"})


def _common(command: Any) -> Any:
    command = click.argument("target", metavar="ID|SERVER")(command)
    return click.option("--model", help="Only in this model; else wherever it serves.")(command)


def _lasting(command: Any) -> Any:
    command = click.option("--for", "length", metavar="TIME", help="For this long: 90s, 30m, 2h. Else until woken.")(
        command
    )
    return click.option("--force", is_flag=True, help="Also if that leaves a model without any deployment.")(command)


@click.command()
@_common
@_lasting
def rest(target: str, model: str | None, length: str | None, force: bool) -> None:
    """Keep calls away from a deployment or a server; calls that run go on.

    ID is an id of `fast-router status` or its beginning, SERVER a host:port or host. No probe, panic or health check
    lifts it; it outlives restarts of workers and proxy. `fast-router wake` does.
    """
    seconds = None if length is None else seconds_of(length)
    _say("rests", give("rest", target, model=model, seconds=seconds, force=force), seconds)


@click.command()
@_common
@_lasting
@click.option("--no-wait", is_flag=True, help="Don't wait until it is empty.")
def drain(target: str, model: str | None, length: str | None, force: bool, no_wait: bool) -> None:
    """Keep new calls away, wait until those that run have ended, and say so.

    Ctrl-C ends the waiting, not the order: `fast-router wake` does.
    """
    seconds = None if length is None else seconds_of(length)
    order = give("drain", target, model=model, seconds=seconds, force=force)
    _say("drains", order, seconds)
    if no_wait:
        return
    began, shown = time.monotonic(), -1
    while left := in_flight(asking.processes(), order.targets):
        if left != shown:
            click.echo(f"{left} in flight")
            shown = left
        time.sleep(_POLL)
    click.echo(f"empty after {duration(time.monotonic() - began)}")


@click.command()
@_common
def wake(target: str, model: str | None) -> None:
    """Let a deployment or a server take calls again: ends an operator's hold, and a rest."""
    documents = asking.processes()
    order = give("wake", target, model=model, documents=documents)
    away = {
        (name, row["id"])
        for document in documents
        for router in document.get("routers") or ()
        for name, group in router["models"].items()
        for row in group["deployments"]
        if row["state"] in _WOKEN
    }
    for woken in order.targets:
        was = (woken.model, woken.id) in away
        what = "takes calls again" if was else "was neither held nor resting"
        click.echo(f"{woken.model} on {woken.server} (id {woken.short}) {what}")
    _say_told(order)


@click.command()
@_common
@click.argument("value", metavar="WEIGHT|default")
@click.option("--for", "length", metavar="TIME", help="For this long: 90s, 30m, 2h. Else until `default`.")
def weight(target: str, model: str | None, value: str, length: str | None) -> None:
    """Give a deployment another share of its group, or with `default` its own again.

    For strategies that go by weight, wherever fast_router chooses (not where LiteLLM's own shuffle does).
    """
    number: float | None = None
    if value != "default":
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            msg = f"{value!r} is no weight; give a number, zero or more, or `default`"
            raise ConfigurationError(msg)
    seconds = None if length is None else seconds_of(length)
    what = "has its own weight again" if number is None else f"has weight {number:g}"
    documents = asking.processes()
    order = give("weight", target, model=model, seconds=seconds, weight=number, documents=documents)
    _say(what, order, seconds)
    for name, strategy in _without_weights(documents, order).items() if number is not None else ():
        click.echo(f"{name} is chosen by {strategy}, which looks at no weights", err=True)


def _without_weights(documents: Sequence[Mapping[str, Any]], order: Order) -> dict[str, str]:
    """The models of an order whose strategy is one of ours that compares no weights."""
    wanted = {target.model for target in order.targets}
    return {
        name: group["strategy"]
        for document in documents
        for router in document.get("routers") or ()
        for name, group in router["models"].items()
        if name in wanted and "weight" not in COMPARES.get(group["strategy"], ("weight",))
    }


def _say(what: str, order: Order, seconds: float | None) -> None:
    for target in order.targets:
        until = f" for {duration(seconds)}" if seconds is not None else ""
        click.echo(f"{target.model} on {target.server} (id {target.short}) {what}{until}")
    _say_told(order)


def _say_told(order: Order) -> None:
    click.echo(f"{order.told} process{'' if order.told == 1 else 'es'} told")
    for pid in order.silent:
        click.echo(f"process {pid} did not answer; it reads the order within ten seconds", err=True)
