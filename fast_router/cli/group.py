"""The command group: which commands there are, where they live, and how errors are told.

Exit codes: 0 done; 1 there is nothing to show, or something went wrong; 2 the command line or a setting is wrong;
126 and 127, as in a shell, if `run` cannot start the command.
"""

from __future__ import annotations

import copy
import functools
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from fast_router import extras
from fast_router.errors import FastRouterError
from fast_router.litellm_plugin import hook

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["COMMANDS", "main"]

# Name, where it lives, and its line in --help, which costs no import this way.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("fast_router.cli.run:run", "Run a command with fast_router in it, for example your proxy."),
    "status": ("fast_router.cli.status:status", "Show how each process on this machine picks."),
    "top": ("fast_router.cli.top:top", "Show the same live in this terminal."),
    "dashboard": ("fast_router.cli.dashboard:dashboard", "Show the same as a live page in a browser."),
    "explain": ("fast_router.cli.explain:explain", "Say why each deployment of a model would be picked, or not."),
    "trace": ("fast_router.cli.trace:trace", "Show the last picks, after `--on 60s` has had them noted."),
    "rest": ("fast_router.cli.hands:rest", "Keep calls away from a deployment or a server."),
    "drain": ("fast_router.cli.hands:drain", "Keep new calls away, and wait until those that run have ended."),
    "wake": ("fast_router.cli.hands:wake", "Let a deployment or a server take calls again."),
    "weight": ("fast_router.cli.hands:weight", "Give a deployment another share of its group."),
    "metrics": ("fast_router.cli.metrics:metrics", "Answer Prometheus for all processes on one address."),
    "settings": ("fast_router.cli.settings:settings_command", "List every option, its value and where that is from."),
    "demo": ("fast_router.cli.demo:demo", "Send real requests through LiteLLM, without fast_router and with it."),
    "albert": ("fast_router.cli.albert:albert", "Check and convert Albert API / OpenGateLLM configuration."),
    "worker": ("fast_router.cli.worker:worker", "Start a routing worker for Celery."),
    "simulate": ("fast_router.cli.simulate:simulate", "Compare strategies in simulated time."),
}


class _Failure(click.ClickException):
    """One line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it for the class, and reads the instance


def _after_check(command: click.Command) -> click.Command:
    """Have a command begin with the check of the settings: not before, so that each --help works with wrong ones."""
    checked = copy.copy(command)
    if isinstance(checked, click.Group):
        checked.commands = {name: _after_check(each) for name, each in checked.commands.items()}
    elif command.callback is not None:
        checked.callback = _checking(command.callback)
    return checked


def _checking(callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)
    def checked(*args: Any, **kwargs: Any) -> Any:
        hook.check_settings()
        return callback(*args, **kwargs)

    return checked


class _Lazy(click.Group):
    """A group that imports a command when somebody calls it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002 - as above
        if name not in COMMANDS:
            return None
        path, attribute = COMMANDS[name][0].split(":")
        try:
            command: click.Command = getattr(import_module(path), attribute)
        except ModuleNotFoundError as error:
            return _without_extra(name, _needs(f"fast-router {name}", error))
        return _after_check(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FastRouterError as error:
            code = getattr(error, "exit_code", 2 if isinstance(error, ValueError) else 1)
            raise _Failure(str(error), code) from error
        except ModuleNotFoundError as error:
            raise _needs(ctx.command_path, error) from error


def _needs(command: str, error: ModuleNotFoundError) -> Exception:
    """One line that says what to install; an import error that is no missing extra stays what it is."""
    return click.ClickException(extras.needs(command, error.name)) if extras.is_extra(error.name) else error


def _without_extra(name: str, error: Exception) -> click.Command:
    """Stand in for a command whose extra is not installed: its --help works, and says what to install."""
    if not isinstance(error, click.ClickException):
        raise error

    def tell(**_given: Any) -> None:
        raise error

    anything = click.Argument(["given"], nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS]")
    lax = {"ignore_unknown_options": True}
    told = f"{COMMANDS[name][1]}\n\nIts options are shown once it is there: {error.message}."
    return click.Command(name, callback=tell, params=[anything], help=told, context_settings=lax)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fast-router", prog_name="fast-router")
def main() -> None:
    """Exact, constant-time picks and real failover for LiteLLM.

    Start your proxy under it, as it is:

        fast-router run -- litellm --config config.yaml
    """
