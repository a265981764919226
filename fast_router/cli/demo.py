"""`fast-router demo`: the same load over real HTTP through litellm.Router, without us and with us, side by side."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from fast_router import extras

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.table import Table
    from typing_extensions import Self

    from fast_router.testing import Fleet

__all__ = ["demo"]

_MOST_A_SECOND = 80.0
# The runs take turns: a minute in which the machine has other things to do then hits all of them alike.
_TURNS = 3
# What is within this share of each other has won nothing: two runs of the same differ by as much.
_DRAWN = 0.1
# Requests that this process gets to so many seconds after they are due wait for the machine, not for the servers.
_TOO_LATE = 0.05


@dataclass(frozen=True)
class _Side:
    """One column of the table."""

    title: str
    strategy: str
    plugin: bool


_SIDES = (
    _Side("LiteLLM\nleast-busy", "least-busy", False),
    _Side("fast_router\nleast-busy", "least-busy", True),
    _Side("fast_router\npeak_ewma", "peak_ewma", True),
)

# In the order of the model list: neither the good nor the bad ones come first, since LiteLLM breaks ties by position.
_SERVERS = {
    "steady-1": "0.06–0.09 s",
    "slow": "0.40–0.50 s",
    "steady-2": "0.06–0.09 s",
    "flaky": "as steady; 30 % errors, 3 % resets",
}


@click.command()
@click.option("--requests", default=1500, show_default=True, type=click.IntRange(10), help="Requests per run, at most.")
@click.option("--rate", type=click.FloatRange(1), help="Requests per second; by default what suits this machine.")
@click.option(
    "--seconds", default=18.0, show_default=True, type=click.FloatRange(1), help="Seconds of arrivals per run, at most."
)
@click.option(
    "--stream", default=0.25, show_default=True, type=click.FloatRange(0, 1), help="Share that asks for a stream."
)
@click.option("--seed", default=7, show_default=True, help="Seed of the arrivals and the faults.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON and nothing else.")
def demo(*, requests: int, rate: float | None, seconds: float, stream: float, seed: int, as_json: bool) -> None:
    """Send real requests through litellm.Router, without fast_router and with it.

    Four servers start on this machine, one of them slow and one flaky. The same seeded arrivals go through
    litellm.Router once for each column of the table, over real HTTP; the faults are the same too: each server's
    n-th request of a turn meets the same fate in every run. The runs take turns.
    """
    console = None if as_json else _console()
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(_fleet())
        runs = [stack.enter_context(_Run(side, fleet)) for side in _SIDES]
        with console.status("loading LiteLLM, once for each run") if console else contextlib.nullcontext():
            for run in runs:
                run.wait_until_ready()
            rate = rate or runs[0].suitable_rate(stream)
        requests = max(10, min(requests, int(rate * seconds)))
        load = {"requests": requests, "rate": rate, "stream": stream, "seed": seed}
        if console:
            _introduce(console, load)
        with _progress(console, requests) as show:
            for turn in range(_TURNS):
                for run in runs:
                    run.carry_out(_part(load, turn), show)
        for run in runs:
            run.finish()
    if as_json:
        click.echo(json.dumps({"load": load, "runs": [run.as_dict() for run in runs]}, indent=2))
    if console:
        console.print(_table(runs))
        console.print(_verdict(runs[0].result, runs[1].result), style="bold")
        if slow := _overcharged(runs, load["rate"]):
            console.print(slow, style="yellow")
        _explain(console, runs)


def _part(load: dict[str, Any], turn: int) -> dict[str, Any]:
    """One turn's share of a load; the last turn takes what the division leaves."""
    requests = load["requests"] // _TURNS
    if turn == _TURNS - 1:
        requests = load["requests"] - requests * turn
    return load | {"requests": requests, "seed": load["seed"] + turn}


def _console() -> Console:
    try:
        from rich.console import Console  # noqa: PLC0415
    except ImportError:
        raise click.ClickException(extras.needs("the demo's table", "rich") + "; or use --json") from None
    return Console()


def _fleet() -> Fleet:
    from fast_router.testing import Behaviour, Fleet, Spec  # noqa: PLC0415 - only the demo needs servers

    steady = Behaviour(latency=0.06, jitter=0.03, per_token=0.001, tokens=8)
    return Fleet(
        [
            Spec("openai", "steady-1", behaviour=steady),
            Spec("openai", "steady-2", behaviour=steady),
            Spec("openai", "slow", behaviour=steady.ordered(latency=0.4, jitter=0.1)),
            Spec("openai", "flaky", behaviour=steady.ordered(error_rate=0.3, reset_rate=0.03)),
            Spec("openai", "warm-up"),
        ],
        subprocess=True,
    )


@dataclass
class _Run:
    """One side's process: started at once, so that all load LiteLLM at the same time; told to begin one by one."""

    side: _Side
    fleet: Fleet
    result: dict[str, Any] = field(default_factory=dict)
    arrived: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._errors: IO[str] = tempfile.TemporaryFile("w+")
        environment = dict(os.environ, FAST_ROUTER_ENABLED="1" if self.side.plugin else "0")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fast_router.cli.demo_side"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        urls = {name: self.fleet[name].api_base for name in _SERVERS}
        orders = {"strategy": self.side.strategy, "plugin": self.side.plugin, "urls": urls}
        self._tell(json.dumps(orders | {"warm_up": self.fleet["warm-up"].api_base}))
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def wait_until_ready(self) -> None:
        """Return when LiteLLM is loaded and warm."""
        self._hear("ready")

    def suitable_rate(self, stream: float) -> float:
        """Requests a second that keep about a third of a processor busy: waiting then shows the servers, not us."""
        self._tell(json.dumps({"calibrate": 80, "stream": stream}))
        throughput = float(self._hear("throughput")["throughput"])
        return min(_MOST_A_SECOND, max(5.0, round(throughput / 3)))

    def carry_out(self, load: dict[str, Any], show: Callable[[str, int], None]) -> None:
        """Send one turn of this side's load."""
        title = self.side.title.replace("\n", " ")
        self.fleet.reset()
        self._tell(json.dumps({"go": load}))
        while True:
            message = self._hear()
            if "over" in message:
                show(title, message["over"])
            elif "turn" in message:
                break
        for name in _SERVERS:
            self.arrived[name] = self.arrived.get(name, 0) + self.fleet[name].records.requests

    def finish(self) -> None:
        """Keep what was measured in all turns."""
        self._tell(json.dumps({"finish": True}))
        self.result = self._hear("result")["result"]

    def as_dict(self) -> dict[str, Any]:
        """Return everything that was measured."""
        return {
            "plugin": self.side.plugin,
            "strategy": self.side.strategy,
            "requests_by_deployment": self.arrived,
            **self.result,
        }

    def _tell(self, line: str) -> None:
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):  # _hear says what happened
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()

    def _hear(self, wanted: str | None = None) -> dict[str, Any]:
        while self._process.stdout:
            line = self._process.stdout.readline()
            if not line:
                break
            try:
                message: dict[str, Any] = json.loads(line)
            except ValueError:  # a library's own words
                continue
            if wanted is None or wanted in message:
                return message
        code = self._process.wait()
        self._errors.seek(0)
        tail = "".join(self._errors.readlines()[-8:])
        raise click.ClickException(f"the run of {self.side.strategy!r} ended with exit code {code}:\n{tail}")


@contextlib.contextmanager
def _progress(console: Console | None, requests: int) -> Iterator[Callable[[str, int], None]]:
    if console is None:
        yield lambda _title, _over: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description:22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def show(title: str, over: int) -> None:
            if title not in tasks:
                tasks[title] = bars.add_task(title, total=requests)
            bars.update(tasks[title], completed=over)

        yield show


def _introduce(console: Console, load: dict[str, Any]) -> None:
    servers = "; ".join(f"{name} ({what})" for name, what in _SERVERS.items())
    console.print(f"Four servers on loopback: {servers}.")
    console.print(
        f"{load['requests']} chat requests a run at {load['rate']:g} a second, {load['stream']:.0%} of them streaming, "
        "through litellm.Router(num_retries=2). Same arrivals and same faults in every run.\n"
    )


def _table(runs: list[_Run]) -> Table:
    from rich.table import Table  # noqa: PLC0415

    table = Table(title="litellm.Router over real HTTP")
    table.add_column("")
    for run in runs:
        table.add_column(run.side.title, justify="right")
    for name in _SERVERS:
        table.add_row(f"requests to {name}", *(str(run.arrived[name]) for run in runs))
    table.add_section()
    table.add_row("failed for the caller", *(str(run.result["failed"]) for run in runs))
    for share in ("p50", "p95", "p99"):
        table.add_row(f"latency {share}", *(_milliseconds(run.result["latency"][share]) for run in runs))
    for share in ("p50", "p95"):
        table.add_row(f"first token {share}", *(_milliseconds(run.result["first_token"][share]) for run in runs))
    table.add_section()
    table.add_row("40 calls at once", *("/".join(map(str, run.result["burst"])) for run in runs))
    table.add_row("CPU a request", *(f"{run.result['cpu_seconds'] * 1e3:.1f} ms" for run in runs))
    table.add_row("cost of a pick", *(f"{run.result['pick_seconds'] * 1e6:.1f} µs" for run in runs))
    return table


def _verdict(alone: dict[str, Any], ours: dict[str, Any]) -> str:
    """Who won what, under the same strategy, in one line."""
    measures = {
        "failed requests": (alone["failed"], ours["failed"]),
        **{f"latency {share}": (alone["latency"][share], ours["latency"][share]) for share in ("p50", "p95", "p99")},
        "spread of 40 calls": (max(alone["burst"]), max(ours["burst"])),
        "CPU per request": (alone["cpu_seconds"], ours["cpu_seconds"]),
        "cost of a pick": (alone["pick_seconds"], ours["pick_seconds"]),
    }
    won: dict[str, list[str]] = {"fast_router": [], "LiteLLM": [], "nobody": []}
    for name, (theirs, mine) in measures.items():
        if theirs is None or mine is None:
            continue
        drawn = abs(theirs - mine) <= _DRAWN * max(theirs, mine)
        won["nobody" if drawn else "fast_router" if mine < theirs else "LiteLLM"].append(name)
    parts = (f"{who}: {', '.join(names)}" for who, names in won.items() if names)
    return f"Who won what with least-busy (within {_DRAWN:.0%} is nobody's). {'; '.join(parts)}."


def _overcharged(runs: list[_Run], rate: float) -> str:
    """What to say if the machine could not keep up with the load, empty if it could."""
    late = max(run.result["late"]["p95"] or 0.0 for run in runs)
    if late <= _TOO_LATE:
        return ""
    return (
        f"This machine could not keep up with {rate:g} requests a second: one in twenty was sent {_milliseconds(late)} "
        f"after it was due or later, and that is in the latencies above. Try --rate {max(1, int(rate / 2))}."
    )


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.0f} ms"


def _explain(console: Console, runs: list[_Run]) -> None:
    version = next((run.result["litellm"] for run in runs if run.result.get("litellm")), "")
    console.print(
        f"LiteLLM {version}, the same Router settings in every run. The first column is LiteLLM alone, the second its "
        "strategy under fast_router, the third a strategy that only fast_router has. Latency counts from when "
        "a request was due. 40 calls at once: how many of them each of four idle deployments gets. CPU is that of the "
        "whole process, its HTTP client included. A pick is timed through LiteLLM's own method for it (select, before "
        "1.110 async_get_available_deployment), median of 400.\n",
        style="dim",
    )
    console.print("Start your own proxy under fast_router, its configuration untouched:\n")
    commands = [*_missing_packages(), f"{_program('fast-router')} run -- litellm --config config.yaml"]
    # Not folded: these are lines to copy.
    console.print("".join(f"    {command}\n" for command in commands), style="bold", highlight=False, soft_wrap=True)


def _missing_packages() -> list[str]:
    """How to install what LiteLLM's proxy needs beside LiteLLM, if it is not here."""
    if all(find_spec(name) for name in ("fastapi", "websockets")):
        return []
    pinned = Path(__file__).parents[2] / "scripts" / "proxy_1.110.txt"  # in a checkout
    wanted = f"-r {os.path.relpath(pinned)}" if pinned.is_file() else "'litellm[proxy]'"
    return [f"{_program('pip')} install {wanted}"]


def _program(name: str) -> str:
    """How to call a program of this environment: one that is not activated has its programs not on the PATH."""
    here = Path(sys.executable).with_name(name)
    if shutil.which(name) == str(here) or not here.exists():
        return name
    return os.path.relpath(here)


if __name__ == "__main__":
    demo()
