"""`fast-router run -- <command>`."""

from __future__ import annotations

import click

from fast_router.launch import environment

__all__ = ["run"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--settings",
    "options",
    metavar="FILE",
    help="YAML file with fast_router's options; a `fast_router:` section in the command's --config is found by itself.",
)
@click.option(
    "--albert",
    metavar="FILE",
    help="Configuration of the Albert API or OpenGateLLM: the LiteLLM proxy then needs no YAML of its own.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(command: tuple[str, ...], options: str | None, albert: str | None) -> None:
    """Run COMMAND with fast_router in it; no change to it or to its configuration.

    \b
    fast-router run -- litellm --config config.yaml --num_workers 4
    fast-router run -- gunicorn litellm.proxy.proxy_server:app -k uvicorn.workers.UvicornWorker -w 4
    fast-router run -- python my_program.py
    fast-router run --albert config.yml -- litellm --port 4000
    """  # noqa: D301 - the escape is click's mark for lines to leave as they are
    if not command:
        msg = "no command given; for example: fast-router run -- litellm --config config.yaml"
        raise click.UsageError(msg)
    if albert is not None:
        from fast_router_albert.proxy import with_config  # noqa: PLC0415 - only for this option

        command = with_config(command, albert, options=options)
    environment.run(command, options=options)
