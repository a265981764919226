"""Where LiteLLM's proxy has its YAML, so that a `fast_router:` section in it counts however the proxy was started.

The proxy tells its workers by the environment: `CONFIG_FILE_PATH`, else `WORKER_CONFIG`, a path or JSON with the
options of its command line (LiteLLM's `proxy_server.proxy_startup_event` reads them in this order).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, MutableMapping, Sequence

from fast_router import settings
from fast_router.errors import did_you_mean

__all__ = ["adopt", "missing", "named", "named_by_command", "named_by_environment"]

_SOURCE = "the proxy's YAML, which has a section of ours"
_APPLICATION = re.compile(r"(?:litellm\.proxy\.proxy_server|fast_router\.asgi):")


def adopt(environ: MutableMapping[str, str], command: Sequence[str] = ()) -> None:
    """Let `FAST_ROUTER_CONFIG` name the proxy's YAML, if that has a section of ours and no other file is named.

    Args:
        environ: The environment to read and to change.
        command: The proxy's command and arguments, where the environment does not tell.
    """
    name = settings.PREFIX + "CONFIG"
    if environ.get(name, "").strip():
        return
    path = named(command, environ)
    if path and settings.has_section(path):
        settings.name_file(environ, os.path.abspath(path), _SOURCE)  # noqa: PTH100 - pathlib costs an import


def named(command: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """The file that the proxy will serve; where both name one, LiteLLM heeds `CONFIG_FILE_PATH` before `--config`."""
    return environ.get("CONFIG_FILE_PATH") or named_by_command(command) or named_by_environment(environ)


def named_by_command(command: Sequence[str]) -> str | None:
    """The file after `--config` or `-c`; of several the last, as LiteLLM takes it."""
    if _serves(command):
        return None  # the server's own `-c` names a file of its own
    found = None
    for index, word in enumerate(command):
        flag, is_, value = word.partition("=")
        if word in ("--config", "-c"):
            found = command[index + 1] if index + 1 < len(command) else None
        elif flag == "--config" and is_:
            found = value
    return found or None


def _serves(command: Sequence[str]) -> bool:
    """Whether a server of ASGI applications is told to serve LiteLLM's, which has no command line."""
    return any(_APPLICATION.match(word) for word in command)


def missing(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """Say so if the YAML that LiteLLM's proxy is told to read is not there; empty where it is, or that is not sure.

    Args:
        command: The proxy's command and arguments.
        environ: Its environment.
    """
    path = environ.get("CONFIG_FILE_PATH") if _serves(command) else None
    source = "CONFIG_FILE_PATH"
    if os.path.basename(command[0]) == "litellm":  # noqa: PTH119 - pathlib costs an import
        path, source = named_by_command(command), "--config"
    # LiteLLM can have it in a bucket instead.
    if not path or "LITELLM_CONFIG_BUCKET_NAME" in environ or os.path.exists(path):  # noqa: PTH110 - as above
        return ""
    folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100 - as above
    if not os.path.isdir(folder):  # noqa: PTH112 - as above
        return f"{source}: there is no folder {folder}"
    try:
        files = [each for each in os.listdir(folder) if each.endswith((".yaml", ".yml"))]  # noqa: PTH208 - as above
    except OSError as error:
        return f"{source}: {folder} cannot be read ({error.strerror or error})"
    return f"{source}: there is no file {name} in {folder}; {did_you_mean(name, files, 'give the path of the YAML')}"


def named_by_environment(environ: Mapping[str, str]) -> str | None:
    """The file that the proxy's worker is going to read, as LiteLLM tells it."""
    if path := environ.get("CONFIG_FILE_PATH"):
        return path
    told = environ.get("WORKER_CONFIG", "")
    try:
        options = json.loads(told)
    except ValueError:
        return told or None
    path = options.get("config") if isinstance(options, dict) else None
    return path if isinstance(path, str) else None
