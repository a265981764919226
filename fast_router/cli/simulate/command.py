"""The command: which world, which fleet, which strategies, and what to show of it."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from fast_router.cache_world import WORKLOADS, ServerShape, Workload, read_trace
from fast_router.cli import tables
from fast_router.cli.simulate import caches, fleets, measure, plot, show
from fast_router.engine.strategies import known_strategies, strategy_class
from fast_router.errors import ConfigurationError
from fast_router.simulation import World
from fast_router.simulation import simulate as run_latencies

__all__ = ["simulate"]

_LITELLM = ("simple-shuffle", "least-busy", "latency-based-routing")
_LATENCY_DEFAULT = ("least_busy", "power_of_two", "peak_ewma")
_CACHE_DEFAULT = ("least_busy", "peak_ewma", "cache_aware")


@dataclass(frozen=True)
class _Output:
    """What to show.

    Attributes:
        as_json: JSON in place of tables.
        plot: A file for a plot.
    """

    as_json: bool
    plot: Path | None


@click.command()
@click.argument("config", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", help="Model group of CONFIG; by default the one with most deployments.")
@click.option(
    "--strategies", metavar="NAMES", help="Who takes part, separated by commas; `LiteLLM least-busy` is LiteLLM's."
)
@click.option("--import", "module", metavar="MODULE", help="A module that registers strategies of yours.")
@click.option("--rate", type=click.FloatRange(0.1, 2000), help="Requests per second.  [default: 40, or the workload's]")
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(1, 3600), help="How long they come.")
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same arrivals.")
@click.option("--latency", type=click.FloatRange(0.001), help="Median seconds, for deployments that say nothing.")
@click.option(
    "--measure",
    "measured",
    type=click.IntRange(1, 100),
    metavar="N",
    help="Send N real requests to each deployment; a provider bills them.",
)
@click.option("--timeout", default=10.0, show_default=True, type=click.FloatRange(0.01), help="Seconds per attempt.")
@click.option("--retries", default=2, show_default=True, type=click.IntRange(0, 20), help="Attempts after the first.")
@click.option("--workload", type=click.Choice(list(WORKLOADS)), help="Servers with prefix caches, generated requests.")
@click.option(
    "--trace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Servers with prefix caches, a recorded trace: per line timestamp, input_length, output_length, hash_ids.",
)
@click.option("--servers", type=click.IntRange(1, 1000), help="How many equal servers, without CONFIG.  [default: 8]")
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(0.01, 1000), help="Of the arrivals.")
@click.option("--cache-blocks", type=click.IntRange(0), help="Blocks per server's cache.  [default: the workload's]")
@click.option("--block-tokens", type=click.IntRange(1), help="Tokens per block of a trace.  [default: 512]")
@click.option("--prefill-rate", default=8000.0, show_default=True, type=click.FloatRange(1), help="Prompt tokens/s.")
@click.option(
    "--prefill-latency", default=0.02, show_default=True, type=click.FloatRange(0), help="Seconds per prompt."
)
@click.option(
    "--per-token", default=0.02, show_default=True, type=click.FloatRange(0), help="Seconds per answer token."
)
@click.option("--reports", is_flag=True, help="Servers say how much of a prompt was cached (cached_tokens).")
@click.option("--plot", "plotted", type=click.Path(dir_okay=False, path_type=Path), help="Write a plot, say out.svg.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of the tables.")
def simulate(config: Path | None, module: str | None, plotted: Path | None, **given: Any) -> None:
    """Compare strategies in simulated time, on a fleet of yours; only --measure sends requests to it.

    \b
    fast-router simulate config.yaml --latency 0.8
        servers known by how long they take (and how they fail)
    fast-router simulate --workload agents --servers 8
    fast-router simulate --trace FILE [config.yaml]
        servers with prefix caches, beside an oracle that knows each cache

    A deployment's model_info may hold `simulate: {latency: 0.5, slots: 16, faults: [{kind: down, start: 10}]}` (the
    kinds are error, throttle, hang, down and slow), and for prefix caches `simulate: {prefill_rate: 8000,
    prefill_latency: 0.02, per_token: 0.02, cache_blocks: 6000}`.
    """  # noqa: D301 - \b is click's
    if module is not None:
        _import(module)
    if plotted is not None:
        plot.check(plotted)
    output = _Output(given["as_json"], plotted)
    if given["trace"] or given["workload"]:
        _caches(config, given, output)
    elif config is None:
        msg = "give LiteLLM's config.yaml, or --workload agents, or --trace FILE; --help has an example of each"
        raise click.UsageError(msg)
    else:
        _latencies(config, given, output)


def _latencies(config: Path, given: dict[str, Any], output: _Output) -> None:
    fleet = fleets.read(config, given["model"])
    names = _names(given["strategies"], _LATENCY_DEFAULT)
    fleet.servers({})  # what is wrong in the file is told before anything is asked or sent
    latencies, assumed = _latencies_of(fleet, given)
    servers = fleet.servers(latencies)
    world = World(
        servers,
        rate=given["rate"] or 40.0,
        seconds=given["seconds"],
        timeout=given["timeout"],
        retries=given["retries"],
        seed=given["seed"],
    )
    outcomes = []
    with _progress(len(names), "strategies") as progress:
        for name in names:
            outcomes += run_latencies(world, [name])
            progress(name, len(outcomes))
    title = f"{fleet.name}: {len(servers)} deployments, {world.rate:g} requests/s, {world.seconds:g} s"
    if output.plot is not None:
        plot.latency_plot(output.plot, title, outcomes)
    if output.as_json:
        click.echo(json.dumps(show.latency_json(outcomes), indent=2))
        return
    show.latency_table(title, outcomes)
    if assumed:
        click.echo(assumed)
    click.echo()
    show.shares("Shares of the attempts, %", {outcome.name: outcome.attempts for outcome in outcomes})
    click.echo()
    show.bars(outcomes)
    click.echo()
    click.echo(tables.wrapped(show.conclusion(outcomes, world.rate), 0))
    _written(output)


def _latencies_of(fleet: fleets.Fleet, given: dict[str, Any]) -> tuple[dict[str, tuple[float, float]], str]:
    """Find out how long those deployments take that do not say so, and a line that tells from where it is known."""
    silent = fleet.without_latency
    if not silent:
        return {}, ""
    if given["measured"]:
        entries = [entry for name, entry in zip(fleet.ids, fleet.entries, strict=True) if name in silent]
        done = 0
        with _progress(len(silent) * given["measured"], "real requests") as progress:

            def one() -> None:
                nonlocal done
                done += 1
                progress("measuring", done)

            found = measure.latencies(entries, silent, given["measured"], one)
        said = ", ".join(f"{name} {seconds:.3g} s" for name, (seconds, _) in found.items())
        return found, f"Measured, {given['measured']} requests each: {said}"
    seconds = given["latency"]
    if seconds is None and sys.stdin.isatty():
        question = f"Median seconds of a request to {', '.join(silent[:4])}{' …' if len(silent) > 4 else ''}"
        seconds = click.prompt(question, type=click.FloatRange(0.001), err=True)
    if seconds is None:
        msg = (
            f"nothing says how long a request to {silent[0]} takes ({len(silent)} of {len(fleet.ids)} deployments): "
            "give --latency 0.8 for all of them, --measure 5 for five real requests to each, or "
            "model_info: {simulate: {latency: 0.8}} in the file"
        )
        raise ConfigurationError(msg)
    return dict.fromkeys(
        silent, (seconds, measure.SPREAD)
    ), f"As given: {seconds:g} s (median) for {len(silent)} deployments"


def _caches(config: Path | None, given: dict[str, Any], output: _Output) -> None:
    if given["trace"] and given["workload"]:
        raise click.UsageError("--trace and --workload are two sources of requests; give one")
    if config is not None and given["servers"]:
        raise click.UsageError("--servers makes a fleet of equal servers; leave it out with CONFIG")
    workload = _workload(given)
    usual = ServerShape("", given["prefill_rate"], given["prefill_latency"], given["per_token"], given["cache_blocks"])
    if config is None:
        fleet = [replace(usual, name=f"server-{number}") for number in range(given["servers"] or 8)]
    else:
        fleet = fleets.read(config, given["model"]).shapes(usual)
    names = _names(given["strategies"], _CACHE_DEFAULT, litellm=_LITELLM[:2])
    requests = len(workload.requests)
    with _progress((len(names) + 1) * requests, "requests") as progress:
        before: dict[str, int] = {}

        def tell(name: str, over: int) -> None:
            before[name] = over
            progress(name, sum(before.values()))

        outcomes = caches.compare(workload, fleet, names, reports=given["reports"], seed=given["seed"], progress=tell)
    span = workload.requests[-1].at - workload.requests[0].at if requests else 0.0
    title = f"{workload.name}: {requests:,} requests in {span:,.0f} s, {len(fleet)} servers"
    if output.plot is not None:
        plot.cache_plot(output.plot, title, outcomes)
    if output.as_json:
        click.echo(json.dumps(show.cache_json(outcomes), indent=2))
        return
    show.cache_table(title, outcomes)
    click.echo("oracle: earliest first token by the true caches and queues, without foresight")
    click.echo()
    show.shares("Shares of the requests, %", {outcome.name: outcome.picks for outcome in outcomes})
    _written(output)


def _workload(given: dict[str, Any]) -> Workload:
    if given["trace"]:
        workload = read_trace(given["trace"])
        if given["block_tokens"]:
            workload = replace(workload, block_tokens=given["block_tokens"])
    else:
        rate = {} if given["rate"] is None else {"rate": given["rate"]}
        workload = WORKLOADS[given["workload"]](seed=given["seed"], seconds=given["seconds"], **rate)
        if given["block_tokens"]:
            raise click.UsageError("--block-tokens is for --trace; generated requests have blocks of 16 tokens")
    if not workload.requests:
        raise ConfigurationError("no request came within --seconds; give more seconds or a higher --rate")
    return workload if given["speed"] == 1 else workload.at_speed(given["speed"])


def _names(given: str | None, ours: Sequence[str], litellm: Sequence[str] = _LITELLM) -> list[str]:
    """Make the list of contenders: as given, or the usual ones and those that others registered."""
    if given is not None:
        names = list(dict.fromkeys(word.strip() for word in given.split(",") if word.strip()))
    else:
        foreign = [
            name for name in known_strategies() if not strategy_class(name).__module__.startswith("fast_router.")
        ]
        names = [*(f"LiteLLM {name}" for name in litellm), *ours, *foreign]
    if not names:
        raise click.UsageError("--strategies names none; give for example least_busy,peak_ewma")
    for name in names:
        rules = name.partition(" ")[2] if name.startswith("LiteLLM ") else None
        if rules is None:
            strategy_class(name)  # unknown names are an error before the first run, not after minutes
        elif rules not in _LITELLM:
            raise ConfigurationError(f"no model of {name!r}; there are: {', '.join(f'LiteLLM {n}' for n in _LITELLM)}")
    return names


def _import(module: str) -> None:
    sys.path.insert(0, "")  # a file in this folder, as `python -m` has it
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(f"--import {module}: {error}") from error
    finally:
        sys.path.remove("")


@contextmanager
def _progress(length: int, what: str) -> Iterator[Callable[[str, int], None]]:
    """Show progress on standard error: a bar on a terminal, else a line per strategy that is done."""
    if not sys.stderr.isatty():
        yield lambda _name, _over: None
        return
    began = time.monotonic()
    shown = 0
    with click.progressbar(
        length=length, label=what, file=sys.stderr, item_show_func=lambda name: name, width=30
    ) as bar:

        def show(name: str, over: int) -> None:
            nonlocal shown
            bar.update(over - shown, name)
            shown = over

        yield show
    click.echo(f"{time.monotonic() - began:.1f} s", err=True)


def _written(output: _Output) -> None:
    if output.plot is not None:
        click.echo(f"\nPlot: {output.plot}")
