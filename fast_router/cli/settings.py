"""`fast-router settings`: every option, its value here and now, and where that comes from."""

from __future__ import annotations

import os
from typing import Any

import click

from fast_router import settings

__all__ = ["settings_command"]

_OF_THIS_SHELL = (
    "Of this shell. A proxy may have a YAML and an environment of its own; with its environment:\n"
    "FAST_ROUTER_CONFIG=config.yaml fast-router settings\n"
)


@click.command("settings")
@click.option("--markdown", is_flag=True, help="The table of the documentation: options, types and defaults.")
def settings_command(markdown: bool) -> None:
    """List every option of fast_router, its value and where that is from."""
    if markdown:
        click.echo(settings.markdown())
        return
    if not os.environ.get(f"{settings.PREFIX}CONFIG", "").strip():
        click.echo(_OF_THIS_SHELL)
    current, sources = settings.current(), settings.sources()
    section = ""
    for row in settings.rows():
        if row.section != section:
            section = row.section
            click.echo(("\n" if row.name != "enabled" else "") + click.style(section, bold=True))
        value = _value(current, row)
        unit = f" {row.unit}" if row.unit and value[:1].isdigit() else ""
        click.echo(f"  {row.env} = {value}{unit}  ({sources.get(row.name, 'default')})")
        click.echo(f"      {row.sentence}")
    for sentence in settings.unknown_variables():
        click.echo(f"warning: {sentence}", err=True)


def _value(current: settings.Settings, row: Any) -> str:
    value = getattr(current, row.name)
    if value is None or value in ((), {}):
        return str(row.default)
    return "set, not shown" if row.secret else settings.shown(value)
