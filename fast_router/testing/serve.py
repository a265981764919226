"""`python -m fast_router.testing.serve`: upstreams in a process of their own.

Prints one line of JSON with the addresses once all of them listen, and serves until SIGTERM or SIGINT (or,
with --specs-from-stdin, until its standard input ends, which it does when the parent dies).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import click

from fast_router.errors import ConfigurationError
from fast_router.testing.behaviour import Behaviour
from fast_router.testing.server import CONTROL, UpstreamServer
from fast_router.testing.shapes import SHAPES

__all__ = ["main"]


async def _serve(specs: list[dict[str, Any]], *, until_stdin_ends: bool) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    servers = [
        UpstreamServer(
            spec["kind"],
            models=spec["models"],
            behaviour=Behaviour(**spec["behaviour"]),
            seed=spec["seed"],
            api_key=spec["api_key"],
            name=spec["name"],
            tokenizer=spec["tokenizer"],
            kv_events=spec["kv_events"],
        )
        for spec in specs
    ]
    try:
        for server, spec in zip(servers, specs, strict=True):
            server.port = spec.get("port") or 0
            await server.start()
        addresses = [
            {"name": one.name, "url": one.url, "shape": one.shape.name, "control": one.url + CONTROL} for one in servers
        ]
        click.echo(json.dumps({"upstreams": addresses}))
        if until_stdin_ends:
            loop.add_reader(sys.stdin.fileno(), _drain, ended)
        await ended.wait()
    finally:
        for server in servers:
            await server.stop()


def _drain(ended: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        ended.set()


@click.command(help=__doc__)
@click.option("--shape", type=click.Choice(list(SHAPES)), default="openai", show_default=True)
@click.option("--count", type=click.IntRange(1, 64), default=1, show_default=True, help="How many to start.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the first, the others follow; 0: any.")
@click.option("--model", "models", multiple=True, default=("test-model",), show_default=True)
@click.option("--order", "orders", multiple=True, metavar="NAME=JSON", help="For example latency=0.2")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--specs-from-stdin", is_flag=True, help="Read a line of JSON with one object an upstream.")
def main(
    shape: str,
    count: int,
    port: int,
    models: tuple[str, ...],
    orders: tuple[str, ...],
    seed: int,
    specs_from_stdin: bool,
) -> None:
    """Start upstreams, print their addresses, serve."""
    try:
        if specs_from_stdin:
            # Unbuffered: what comes after the line is for the event loop.
            with os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stdin:
                specs = json.loads(stdin.readline())
        else:
            behaviour = Behaviour().ordered(**dict(_order(text) for text in orders)).as_dict()
            common = {
                "kind": shape,
                "models": list(models),
                "behaviour": behaviour,
                "api_key": None,
                "tokenizer": None,
                "kv_events": None,
            }
            specs = [
                {**common, "name": f"{shape}-{n}", "seed": seed + n, "port": port + n if port else 0}
                for n in range(count)
            ]
        asyncio.run(_serve(specs, until_stdin_ends=specs_from_stdin))
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error


def _order(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not NAME=JSON, for example latency=0.2") from None


if __name__ == "__main__":
    main()
