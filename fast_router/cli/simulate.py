"""`fast-router simulate config.yml`: strategies compared on your own fleet, in simulated time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fast_router.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fast_router.simulation import Fault, Outcome, ServerSpec

__all__ = ["fleet_of", "simulate"]

_DEFAULT = "LiteLLM simple-shuffle,LiteLLM least-busy,LiteLLM latency-based-routing,least_busy,power_of_two,peak_ewma"
_BARS = "▁▂▃▄▅▆▇█"
_PLOT = 40
_SERVER = frozenset({"latency", "spread", "slots", "faults"})
_FAULT = frozenset({"kind", "start", "end", "share", "factor", "retry_after"})
_KINDS = ("error", "throttle", "hang", "down", "slow")


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ConfigurationError(f"{where} is {value!r}; it must be a number that is not negative")
    return float(value)


def _known(found: Mapping[str, Any], names: frozenset[str], where: str) -> None:
    if unknown := sorted(set(found) - names):
        raise ConfigurationError(f"{where} has {unknown[0]!r}; known are: {', '.join(sorted(names))}")


def _fault(found: Any, where: str) -> Fault:
    from fast_router.simulation import Fault  # noqa: PLC0415

    if not isinstance(found, dict) or found.get("kind") not in _KINDS:
        raise ConfigurationError(f"{where} needs a kind, one of: {', '.join(_KINDS)}")
    _known(found, _FAULT, where)
    numbers = {k: _number(v, f"{where}.{k}") for k, v in found.items() if k != "kind"}
    return Fault(found["kind"], **numbers)


def fleet_of(document: Any, model: str | None, path: str) -> tuple[str, list[ServerSpec]]:
    """Read a fleet from LiteLLM's YAML; `model_info.simulate` says how a deployment behaves.

    Args:
        document: The YAML.
        model: The model group; None takes the largest.
        path: The file's name, for messages.

    Returns:
        The group's name and its servers.

    Raises:
        ConfigurationError: No such group, or a malformed entry; the message names it.
    """
    from fast_router.simulation import ServerSpec  # noqa: PLC0415

    entries = document.get("model_list") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ConfigurationError(f"{path}: no model_list with deployments in it; give LiteLLM's config.yaml")
    groups: dict[str, list[ServerSpec]] = {}
    for number, entry in enumerate(entries):
        where = f"{path}: model_list[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("model_name"), str):
            raise ConfigurationError(f"{where} has no model_name")
        info = entry.get("model_info") or {}
        shape = info.get("simulate") or {}
        if not isinstance(shape, dict):
            raise ConfigurationError(f"{where}.model_info.simulate must be a mapping such as {{latency: 0.5}}")
        _known(shape, _SERVER, f"{where}.model_info.simulate")
        faults = tuple(
            _fault(each, f"{where}.model_info.simulate.faults[{place}]")
            for place, each in enumerate(shape.get("faults") or ())
        )
        members = groups.setdefault(entry["model_name"], [])
        members.append(
            ServerSpec(
                str(info.get("id") or f"{entry['model_name']}-{len(members)}"),
                latency=_number(shape.get("latency", 0.5), f"{where}.model_info.simulate.latency"),
                spread=_number(shape.get("spread", 0.3), f"{where}.model_info.simulate.spread"),
                slots=int(_number(shape.get("slots", 32), f"{where}.model_info.simulate.slots")) or 1,
                faults=faults,
            )
        )
    name = model or max(groups, key=lambda group: len(groups[group]))
    if name not in groups:
        raise ConfigurationError(f"{path}: no deployment is called {name!r}; there are: {', '.join(groups)}")
    return name, groups[name]


def _spark(values: list[float], top: float) -> str:
    if not top:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(len(_BARS) - 1, int(value / top * (len(_BARS) - 1) + 0.5))] for value in values)


def _plot(outcomes: list[Outcome]) -> list[str]:
    """Draw the slowest answer of each stretch of time, on one scale for everybody."""
    width = max(1, math.ceil(max(len(o.timeline) for o in outcomes) / _PLOT))
    drawn: dict[str, list[float]] = {}
    for outcome in outcomes:
        worst = [seconds for seconds, _ in outcome.timeline]
        drawn[outcome.name] = [max(worst[i : i + width]) for i in range(0, len(worst), width)]
    top = max(max(values) for values in drawn.values())
    longest = max(map(len, drawn))
    lines = [f"slowest answer, {width} s a bar, full height {top:.2f} s"]
    return lines + [f"{name:>{longest}}  {_spark(values, top)}" for name, values in drawn.items()]


@click.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", help="Model group; by default the one with most deployments.")
@click.option("--rate", default=40.0, show_default=True, type=click.FloatRange(0.1, 2000), help="Requests a second.")
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(1, 3600), help="How long they come.")
@click.option("--timeout", default=10.0, show_default=True, type=click.FloatRange(0.01), help="Seconds an attempt has.")
@click.option("--retries", default=2, show_default=True, type=click.IntRange(0, 20), help="Attempts after the first.")
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same arrivals.")
@click.option("--strategies", default=_DEFAULT, show_default=True, help="Who takes part, separated by commas.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of the table.")
def simulate(
    config: Path,
    model: str | None,
    rate: float,
    seconds: float,
    timeout: float,
    retries: int,
    seed: int,
    strategies: str,
    as_json: bool,
) -> None:
    """Compare strategies on the fleet of CONFIG (LiteLLM's YAML) in simulated time, without a single request.

    A deployment's model_info may hold `simulate: {latency: 0.5, slots: 16, faults: [{kind: down, start: 10}]}`; the
    kinds of faults are error, throttle, hang, down and slow.
    """
    import yaml  # noqa: PLC0415

    from fast_router.simulation import World  # noqa: PLC0415
    from fast_router.simulation import simulate as run  # noqa: PLC0415

    try:
        document = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "cannot be read as text in UTF-8"
        raise ConfigurationError(f"{config}: not valid YAML{where}: {problem}") from error
    name, servers = fleet_of(document, model, str(config))
    world = World(servers, rate=rate, seconds=seconds, timeout=timeout, retries=retries, seed=seed)
    outcomes = run(world, [word.strip() for word in strategies.split(",") if word.strip()])
    if as_json:
        click.echo(json.dumps([_plain(outcome) for outcome in outcomes], indent=2))
        return
    _table(name, world.rate, outcomes)
    click.echo()
    for line in _plot(outcomes):
        click.echo(line)


def _plain(outcome: Outcome) -> dict[str, Any]:
    nothing = not outcome.latencies
    return {
        "strategy": outcome.name,
        "p50": None if nothing else outcome.percentile(0.5),
        "p99": None if nothing else outcome.percentile(0.99),
        "requests": outcome.requests,
        "errors": outcome.errors,
        "attempts": outcome.attempts,
        "failed_attempts": outcome.wasted,
    }


def _table(name: str, rate: float, outcomes: list[Outcome]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=f"{name}: {len(outcomes[0].attempts)} deployments, {rate:g} requests/s", title_justify="left")
    table.add_column("strategy")
    for column in ("p50 s", "p99 s", "errors", "attempts a request", "shares %"):
        table.add_column(column, justify="right")
    for outcome in outcomes:
        table.add_row(
            outcome.name,
            f"{outcome.percentile(0.5):.2f}",
            f"{outcome.percentile(0.99):.2f}",
            f"{outcome.errors} of {outcome.requests}",
            f"{outcome.amplification:.3f}",
            " ".join(f"{100 * share:.0f}" for share in outcome.shares().values()),
        )
    Console().print(table)
