"""The real LiteLLM proxy on an Albert file: no LiteLLM YAML, the documented answers, and hot reload.

`prepare` writes a private YAML for the proxy and names `on_worker_startup` to it through
``LITELLM_WORKER_STARTUP_HOOKS``, LiteLLM's own bootstrap. In each worker that hook registers the answers that the
Albert API documents (404 for an unknown model, 422 for a wrong type) and follows the file; SIGHUP reads it anew.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hashlib
import json
import logging
import os
import signal
import tempfile
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fast_router import settings
from fast_router.errors import ConfigurationError

from . import convert
from .config import AlbertConfig, load_config
from .reload import Stamp, Watcher, stamp_of

__all__ = ["CONFIG_VARIABLE", "HOOK", "on_worker_startup", "prepare", "with_config", "write_private"]

logger = logging.getLogger("fast_router.albert")

CONFIG_VARIABLE = "FAST_ROUTER_ALBERT_CONFIG"
STAMP_VARIABLE = "FAST_ROUTER_ALBERT_STAMP"
HOOKS_VARIABLE = "LITELLM_WORKER_STARTUP_HOOKS"
HOOK = "fast_router_albert.proxy:on_worker_startup"
APPLY_TIMEOUT = 30.0
"""Seconds that a worker's event loop has to take a new configuration over."""


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path` in one step, readable by this user only; what stood there is replaced or untouched."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600 from the start
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def prepare(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: MutableMapping[str, str] | None = None,
    clean: bool = False,
    options: str | None = None,
) -> Path:
    """Make ready for a LiteLLM proxy on the Albert file at `path`.

    Args:
        path: The file; by default ``CONFIG_FILE``, else ``config.yml``.
        environ: The environment that the proxy will get; changed so that its workers find the hook.
        clean: Remove the generated file when this process ends (not for a process that becomes the proxy by exec).
        options: A YAML file with options of fast_router, if the environment does not name it.

    If the file enables Celery, the proxy is set up for Celery routing, unless somebody set `routing` otherwise.

    Returns:
        A generated YAML for ``litellm --config``, in a private directory, readable by this user only. Keys that
        came from environment variables are written as ``os.environ/NAME``.

    Raises:
        AlbertConfigError: The file is wrong; everything that is, in one report.
    """
    environ = os.environ if environ is None else environ
    source = Path(path or environ.get("CONFIG_FILE") or "config.yml").expanduser().absolute()
    stamp = stamp_of(source)
    config = load_config(source, environ=environ)
    for line in config.describe_warnings():
        logger.warning("%s", line)
    content = convert.proxy_config(config.models, references=True, source=str(source), allow_mixed=True)
    target = _private_directory(environ) / f"albert-{hashlib.sha256(str(source).encode()).hexdigest()[:12]}.yaml"
    write_private(target, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    environ[CONFIG_VARIABLE] = str(source)
    environ[STAMP_VARIABLE] = json.dumps(stamp)
    hooks = [hook.strip() for hook in environ.get(HOOKS_VARIABLE, "").split(",") if hook.strip()]
    if HOOK not in hooks:
        environ[HOOKS_VARIABLE] = ",".join([*hooks, HOOK])
    _hand_over_routing(config, environ, options)
    if clean:
        atexit.register(target.unlink, missing_ok=True)
    return target


def _hand_over_routing(config: AlbertConfig, environ: MutableMapping[str, str], options: str | None) -> None:
    """Put what the file says about Celery into the environment; what is set there or in our own file stays."""
    wanted = config.routing_settings()
    if not wanted:
        return
    named = {settings.PREFIX + "CONFIG": str(options)} if options is not None else {}
    ours, sources = settings.load(environ={**environ, **named})
    if "routing" in sources and ours.routing != "celery":
        return
    for name, value in wanted.items():
        if name not in sources:
            environ[settings.PREFIX + name.upper()] = str(value)


def with_config(
    command: Sequence[str],
    path: str | os.PathLike[str],
    *,
    environ: MutableMapping[str, str] | None = None,
    options: str | None = None,
) -> tuple[str, ...]:
    """`command` as it runs a LiteLLM proxy on the Albert file at `path`; makes ready for it (see `prepare`).

    Args:
        command: ``litellm`` with its arguments but without ``--config``, or a server that runs the proxy's app.
        path: The Albert file.
        environ: The environment that the command will get; changed.
        options: A YAML file with options of fast_router, if the environment does not name it.

    Raises:
        AlbertConfigError: The file is wrong.
        ConfigurationError: The command names a ``--config`` of its own.
    """
    environ = os.environ if environ is None else environ
    is_litellm = Path(command[0]).name == "litellm"
    if is_litellm and any(word.partition("=")[0] in {"--config", "-c"} for word in command[1:]):
        msg = "--albert and litellm's --config both say which models there are; give one of them"
        raise ConfigurationError(msg)
    generated = prepare(path, environ=environ, options=options)
    environ["CONFIG_FILE_PATH"] = str(generated)  # what the proxy's app reads under another server
    return (command[0], "--config", str(generated), *command[1:]) if is_litellm else tuple(command)


def _private_directory(environ: MutableMapping[str, str]) -> Path:
    """A directory of mode 0700 that belongs to this user; a new one if somebody else took the name."""
    base = Path(environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    wanted = base / f"fast_router-{os.getuid()}"
    try:
        wanted.mkdir(mode=0o700, exist_ok=True)
        stat = wanted.lstat()
        if not wanted.is_symlink() and stat.st_uid == os.getuid() and stat.st_mode & 0o077 == 0:
            return wanted
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="fast_router-"))


# -- in a worker of the proxy ---------------------------------------------------------------------


async def on_worker_startup() -> None:
    """Register the documented answers and follow the file; LiteLLM calls it in every worker."""
    path = os.environ.get(CONFIG_VARIABLE)
    if not path:
        return
    import litellm  # noqa: PLC0415 - only in a proxy's worker

    from .answers import AlbertAnswers  # noqa: PLC0415

    answers = AlbertAnswers(await asyncio.to_thread(_readable, path))
    litellm.logging_callback_manager.add_litellm_callback(answers)
    loop = asyncio.get_running_loop()

    def apply(config: AlbertConfig) -> None:
        asyncio.run_coroutine_threadsafe(_take_over(config, answers), loop).result(APPLY_TIMEOUT)

    watcher = Watcher(path, apply, seen=_stamp())
    watcher.start()
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError, AttributeError):
        # Not in the main thread, or no SIGHUP on this system: the file is followed all the same.
        loop.add_signal_handler(signal.SIGHUP, watcher.force)


def _readable(path: str) -> AlbertConfig | None:
    try:
        return load_config(path)
    except Exception:  # noqa: BLE001 - the proxy runs on what was prepared; the watcher reports what is wrong now
        return None


def _stamp() -> Stamp | None:
    try:
        value = json.loads(os.environ.get(STAMP_VARIABLE, "null"))
        return (int(value[0]), int(value[1]), int(value[2])) if value else None
    except (ValueError, TypeError, IndexError):
        return None


async def _take_over(config: AlbertConfig, answers: Any) -> None:
    """Give the running proxy a new model list, on its event loop, where nothing runs in between."""
    from litellm.proxy import proxy_server  # noqa: PLC0415

    router = proxy_server.llm_router
    if router is None:
        msg = "the proxy has no router yet"
        raise RuntimeError(msg)
    entries = config.model_list
    kwargs = config.router_kwargs()
    former = [dict(entry) for entry in router.model_list]
    aliases = router.model_group_alias
    try:
        router.set_model_list(entries)
        router.model_group_alias = dict(kwargs.get("model_group_alias", {}))
    except BaseException:
        router.set_model_list(former)
        router.model_group_alias = aliases
        raise
    proxy_server.llm_model_list = router.get_model_list()
    answers.config = config
