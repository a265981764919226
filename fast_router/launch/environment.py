"""`fast-router run -- <command>`: the command as it is, with fast_router in every Python process that it starts.

In the manner of `opentelemetry-instrument`: a directory with a `sitecustomize` of ours goes to the front of
PYTHONPATH, and this process becomes the command. Workers inherit the environment, so spawned ones are covered as
well as forked ones, whatever server starts them. LiteLLM is not imported until the program itself does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from fast_router import environment_switch, settings
from fast_router.errors import ConfigurationError
from fast_router.launch import proxy_config
from fast_router.settings import proxy_file

__all__ = ["BOOTSTRAP", "CommandError", "environment", "run"]

BOOTSTRAP = Path(__file__).parent / "_bootstrap"


class CommandError(ConfigurationError):
    """The command cannot be started.

    Attributes:
        exit_code: What a shell would say: 127 not found, 126 not executable.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def environment(
    command: Sequence[str], *, options: str | None = None, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment in which `command` runs with fast_router.

    Args:
        command: The command and its arguments. If it has `--config FILE`, or the environment names the proxy's
            YAML, and that file has a `fast_router:` section, the options of that section apply.
        options: A YAML file with options of fast_router.
        environ: The environment to start from, `os.environ` by default.

    Raises:
        ConfigurationError: An option is wrong, or what the proxy's YAML says to fast_router.
    """
    env = dict(os.environ if environ is None else environ)
    paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(BOOTSTRAP)]
    env["PYTHONPATH"] = os.pathsep.join([str(BOOTSTRAP), *paths])
    if options is not None:
        settings.name_file(env, str(Path(options).absolute()), "fast-router run --settings")
    else:
        proxy_file.adopt(env, command)
    if not environment_switch.off(env):  # off always starts, whatever the options say
        settings.load(environ=env)
        path = proxy_file.named(command, env)
        if path:
            proxy_config.check(path)
    return env


def run(command: Sequence[str], *, options: str | None = None) -> NoReturn:
    """Become `command`, with fast_router in it. Does not return.

    Args:
        command: The command and its arguments.
        options: A YAML file with options of fast_router.

    Raises:
        CommandError: There is no such command, or it is not executable.
        ConfigurationError: An option is wrong, or the proxy's YAML is not there.
    """
    if problem := proxy_file.missing(command, os.environ):
        raise ConfigurationError(problem)
    env = environment(command, options=options)
    program = shutil.which(command[0], path=env.get("PATH"))
    if program is None:
        msg = f"{command[0]}: not found; give the command as you would type it, after `--`"
        raise CommandError(msg, 127)
    try:
        os.execve(program, list(command), env)
    except OSError as error:
        msg = f"{command[0]}: cannot be run: {error.strerror}"
        raise CommandError(msg, 126) from None
