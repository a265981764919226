"""`fast-router settings`: every option, its value here or in processes that run, and where that comes from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import click

from fast_router import settings
from fast_router.cli.asked import named, nobody
from fast_router.observe import asking

__all__ = ["settings_command"]

_OF_THIS_SHELL = (
    "Of this shell. A proxy may have a YAML and an environment of its own: `fast-router settings --running` asks it;\n"
    "before it is started: FAST_ROUTER_CONFIG=config.yaml fast-router settings\n"
)


@click.command("settings")
@click.option("--running", is_flag=True, help="What counts in the processes that run, not in this shell.")
@click.option("--pid", type=int, help="The same, of this process only.")
@click.option("--changed", is_flag=True, help="Only what is not at its default.")
@click.option(
    "--json", "as_json", is_flag=True, help="With --running or --pid: each process's answer, as a JSON array."
)
@click.option("--markdown", is_flag=True, help="The table of the documentation: options, types and defaults.")
def settings_command(running: bool, pid: int | None, changed: bool, as_json: bool, markdown: bool) -> None:
    """List every option of fast_router, its value and where that is from. No password is shown."""
    if markdown:
        click.echo(settings.markdown())
    elif running or pid is not None:
        _of_processes(pid, changed=changed, as_json=as_json)
    else:
        if not os.environ.get(f"{settings.PREFIX}CONFIG", "").strip():
            click.echo(_OF_THIS_SHELL)
        here = {"settings": settings.in_force(), "no_options": settings.unknown_variables()}
        _show([here], changed=changed)


def _of_processes(pid: int | None, *, changed: bool, as_json: bool) -> None:
    everybody = asking.ask_all({"do": "settings"})
    answers = [each for each in everybody if pid in (None, each.get("pid"))]
    if as_json:
        click.echo(json.dumps(answers, indent=2))
    if not answers:
        click.echo(nobody(pid, everybody), err=True)
        raise SystemExit(1)
    if as_json:
        return
    for each in answers:
        click.echo(f"process {named(each)}" + (f": {each['error']}" if "error" in each else ""))
    if known := [each for each in answers if "settings" in each]:
        click.echo()
        _show(known, changed=changed)


def _show(answers: Sequence[Mapping[str, Any]], *, changed: bool) -> None:
    """Print each option once; where processes differ, each value with those that have it."""
    found = {row.name: _values(row.name, answers) for row in settings.rows()}
    if differ := [name for name, values in found.items() if len(values) > 1]:
        click.secho(f"The processes differ in: {', '.join(differ)}\n", bold=True)
    section = ""
    for row in settings.rows():
        values = found[row.name]
        if changed and [source for _, source in values] == [settings.DEFAULT]:
            continue
        if row.section != section:
            click.echo(("\n" if section else "") + click.style(row.section, bold=True))
            section = row.section
        name = row.env
        for (value, source), pids in values.items():
            where = f"  in {', '.join(pids)}" if len(values) > 1 else ""
            click.echo(f"  {name} = {value}  ({source}){where}")
            name = " " * len(row.env)
        click.echo(f"      {row.sentence}")
    if changed and not section:
        click.echo("every option is at its default")
    for sentence in dict.fromkeys(sentence for each in answers for sentence in each["no_options"]):
        click.echo(f"warning: {sentence}", err=True)


def _values(name: str, answers: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[str]]:
    """The process ids, by value of the option and where that is from."""
    found: dict[tuple[str, str], list[str]] = {}
    for each in answers:
        # A process of another version may lack an option.
        said = each["settings"].get(name) or {"value": "unknown to its version", "from": "–"}
        found.setdefault((said["value"], said["from"]), []).append(str(each.get("pid", "")))
    return found
