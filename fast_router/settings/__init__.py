"""The options' values: read from arguments, environment and file, checked, and the same for the whole process.

Which options there are, `settings_table` says. Read values with `settings.current().<name>`; the object is immutable
and replaced when somebody calls `configure()`, so `current() is seen` tells whether anything changed. Code that must
act on a change registers with `on_change`.

Precedence: `configure()` > environment > file > default. The file is the YAML named by `FAST_ROUTER_CONFIG`; its
`fast_router:` section counts if it has one (so that LiteLLM's own config.yaml can carry it), else the whole file.

Only the standard library is imported here; pydantic and PyYAML wait until there is something to check.
"""


# ruff: noqa: PLC0415 - pydantic, PyYAML and friends are imported when needed: `import fast_router` stays cheap

from __future__ import annotations

import os
import threading
from functools import lru_cache
from typing import TYPE_CHECKING

from fast_router import environment_switch
from fast_router.errors import ConfigurationError, did_you_mean, in_words
from fast_router.settings import yaml_file
from fast_router.settings.features import FEATURES, OVERHEAD
from fast_router.settings.rescue import check_rescue
from fast_router.settings.rollout import LITELLMS_ALONE, check_experiment, check_rollout, clash
from fast_router.settings.table import PREFIX, Row, Settings, markdown, options, rows, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping
    from typing import Any

__all__ = [
    "DEFAULT",
    "PREFIX",
    "Row",
    "Settings",
    "configure",
    "current",
    "has_section",
    "in_force",
    "load",
    "markdown",
    "name_file",
    "on_change",
    "reset",
    "rows",
    "shown",
    "sources",
    "unknown_variables",
]

# A file with one of these and no `fast_router:` section is LiteLLM's alone.
_LITELLM_SECTIONS = frozenset(
    {"model_list", "litellm_settings", "router_settings", "general_settings", "environment_variables", "include"}
)
DEFAULT = "default"
"""Where the value of an option is from that nothing sets."""
# What a URL may begin with. Celery routing needs a single Redis: it refuses the two with +cluster itself.
_SCHEMES = {
    "redis_url": ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster"),
    "celery_broker_url": ("amqp", "amqps", "redis", "rediss"),
}
_CONFIG = f"{PREFIX}CONFIG"
_CONFIG_FROM = f"{PREFIX}CONFIG_FROM"
# Variables that are no options: those of the tests, and what the launcher tells the proxy of an Albert file or of ours.
_NO_OPTIONS = (f"{PREFIX}TEST_", f"{PREFIX}ALBERT_", _CONFIG_FROM)


@lru_cache(maxsize=1)
def _validators() -> dict[str, Any]:
    import typing

    from pydantic import Field, TypeAdapter

    from fast_router.engine.rollout.arms import Measure

    levels = typing.Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    hints = typing.get_type_hints(
        Settings,
        {
            "Any": typing.Any,
            "Literal": typing.Literal,
            "LogLevel": levels,
            "Rollout": typing.Any,
            "Rescue": typing.Any,
            "Measure": Measure,
        },
    )
    make: Any = TypeAdapter  # its own type does not admit an annotation that is only known at run time
    return {name: make(typing.Annotated[hints[name], Field(**spec.bounds)]) for name, spec in options().items()}


def _from_text(kind: str, text: str) -> object:
    """What a string of the environment stands for, as far as pydantic cannot tell."""
    if kind == "list":
        return tuple(text.replace(",", " ").split())
    if kind == "mapping":
        try:
            return yaml_file.parse(text)
        except ConfigurationError:
            return text  # which is no mapping: the check below says so, without showing it
    if kind == "level":
        return text.upper()
    return text.strip()


def _from_file(path: str) -> dict[str, object]:
    document = yaml_file.read(path, f"{PREFIX}CONFIG must name a YAML file")
    if document is None:
        return {}
    if isinstance(document, dict):
        if "fast_router" in document:
            document = document["fast_router"] or {}
        elif _LITELLM_SECTIONS & document.keys():
            return {}
    if not isinstance(document, dict):
        msg = f"{path}: expected a mapping of options such as `max_wait: 2`, found {type(document).__name__}"
        raise ConfigurationError(msg)
    return dict(document)


def name_file(environ: MutableMapping[str, str], path: str, source: str) -> None:
    """Let `FAST_ROUTER_CONFIG` name a file in the operator's stead, and `sources()` say so.

    Args:
        environ: The environment to change.
        path: The YAML.
        source: Where its name is from, for people.
    """
    environ[_CONFIG] = path
    environ[_CONFIG_FROM] = f"{source}: {path}"


def _file_named_by(environ: Mapping[str, str]) -> str:
    """Where `FAST_ROUTER_CONFIG` has its value from: that variable itself, unless `name_file` has set it."""
    source, _, path = environ.get(_CONFIG_FROM, "").partition(": ")
    return source if path and path == environ.get(_CONFIG) else _CONFIG


def has_section(path: str) -> bool:
    """Whether a YAML file, LiteLLM's for example, has a `fast_router:` section; False if it cannot be read."""
    from pathlib import Path

    try:
        text = Path(path).read_text(encoding="utf-8")
        # Parsing a file of a thousand deployments takes a second.
        document = yaml_file.parse(text) if "fast_router" in text else None
    except (OSError, ValueError):  # a ConfigurationError is one
        return False
    return isinstance(document, dict) and "fast_router" in document


def _unknown(name: object, known: Mapping[str, object]) -> str:
    return f"no such option; {did_you_mean(name, known, '`fast-router settings` lists them')}"


def load(
    arguments: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, str]]:
    """Read the options from all their sources.

    Args:
        arguments: What `configure()` was told; None values count as not given.
        environ: The environment, `os.environ` by default.

    Returns:
        The settings, and for each option that is not at its default where its value came from.

    Raises:
        ConfigurationError: One error that names every option with a wrong value, its source and the remedy.
    """
    given = {name: value for name, value in (arguments or {}).items() if value is not None}
    env = os.environ if environ is None else environ
    table = {row.name: row for row in rows()}
    problems: list[str] = []
    found: dict[str, tuple[str, object]] = {}
    path = given.get("config") or env.get(_CONFIG, "").strip()
    if path:
        for name, value in _from_file(str(path)).items():
            if name not in table:
                problems.append(f"{path}: {in_words(name).strip(chr(39))}: {_unknown(name, table)}")
            elif value is not None:
                found[name] = (f"{path}: {name}", value)
    for row in table.values():
        text = env.get(row.env, "")
        if text.strip():
            source = _file_named_by(env) if row.env == _CONFIG else row.env
            found[row.name] = (source, _from_text(row.type, text))
    for name, value in given.items():
        if name in table:
            found[name] = (f"configure({name}=…)", value)
        else:
            problems.append(f"configure({name}=…): {_unknown(name, table)}")
    values: dict[str, Any] = {}
    for name, (source, value) in found.items():
        try:
            values[name] = _checked(name, value)
        except ValueError as error:
            problems.append(f"{source}: {_complaint(table[name], value, error)}")
    if values.get("experiment") and "rollout" in values and (why := clash(values["rollout"], found["rollout"][0])):
        problems.append(f"{found['experiment'][0]}: {why}")
    if problems:
        msg = problems[0] if len(problems) == 1 else "settings:\n  " + "\n  ".join(problems)
        raise ConfigurationError(msg)
    return Settings(**values), {name: source for name, (source, _) in found.items()}


def _checked(name: str, value: object) -> object:
    if name == "enabled" and isinstance(value, str) and value.lower() == environment_switch.NEVER:
        return False
    if name == "rollout":
        return check_rollout(value)
    if name == "experiment":
        return check_experiment(value)
    if name == "rescue":
        return check_rescue(value)
    checked: object = _validators()[name].validate_python(value)
    if name == "disabled_features" and isinstance(checked, tuple):
        return _features(checked)
    if name == "strategy" and isinstance(checked, str) and checked not in LITELLMS_ALONE:
        from fast_router.engine.strategies import canonical

        canonical(checked)
    # An empty URL stands for none. One that is wrong is not taken apart: any part of it could be a password.
    if name in _SCHEMES and checked and str(checked).partition("://")[0].lower() not in _SCHEMES[name]:
        begin = ", ".join(f"{scheme}://" for scheme in _SCHEMES[name])
        msg = f"its value (kept out of this message) is no URL that {name} can use; begin it with one of {begin}"
        raise ConfigurationError(msg)
    return checked


def _features(given: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(feature.lower().replace("-", "_") for feature in given)
    if names:
        features = sorted((*FEATURES, *OVERHEAD))
        wrong = [_no_feature(name, features) for name in names if name not in features]
        if wrong:
            raise ConfigurationError("; ".join(wrong))
    return names


def _no_feature(name: str, features: list[str]) -> str:
    return f"there is no feature {in_words(name)}; {did_you_mean(name, features, 'there are: ' + ', '.join(features))}"


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with the names of the environment that begin with `FAST_ROUTER_`: a sentence for each such name."""
    names = [name for name in sorted(os.environ if environ is None else environ) if name.startswith(PREFIX)]
    known = {row.env for row in rows()} if names else set()
    found = []
    for name in names:
        if name not in known and not name.startswith(_NO_OPTIONS):
            remedy = did_you_mean(name, sorted(known), "`fast-router settings` lists the options", cutoff=0.8)
            found.append(f"{name} is set, but there is no such option; {remedy}")
    return found


def _complaint(row: Row, value: object, error: ValueError) -> str:
    if isinstance(error, ConfigurationError):
        return str(error)
    details = getattr(error, "errors", None)
    reason = details(include_url=False, include_input=False)[0]["msg"] if callable(details) else str(error)
    shown = "its value (kept out of this message)" if row.secret else in_words(value)
    unit = f", {row.unit}" if row.unit else ""
    return f"{shown}: {reason[:1].lower()}{reason[1:]} ({row.name}: {row.type}{unit}, default {row.default})"


_lock = threading.RLock()
_arguments: dict[str, object] = {}
_current: Settings | None = None
_sources: dict[str, str] = {}
_listeners: list[Callable[[Settings], None]] = []


def current() -> Settings:
    """The settings in force; read from the environment and the file at the first call.

    Raises:
        ConfigurationError: A value is wrong (see `load`), and `FAST_ROUTER_ENABLED` does not switch us off.
    """
    global _current, _sources
    seen = _current
    if seen is None:
        with _lock:
            if _current is None:
                _current, _sources = _read()
                _set_log_level(_current)
            seen = _current
    return seen


def _read() -> tuple[Settings, dict[str, str]]:
    try:
        return load(_arguments)
    except ConfigurationError:
        if not environment_switch.off():
            raise
        # Off always starts, whatever the other options say.
        return Settings(enabled=False), {"enabled": f"{PREFIX}ENABLED"}


def configure(**arguments: object) -> Settings:
    """Set options by argument; they win over environment and file. None gives an option back to those.

    Returns:
        The settings now in force.

    Raises:
        ConfigurationError: An option is unknown or its value wrong; nothing has changed then.
    """
    global _current, _sources  # noqa: PLW0603
    with _lock:
        merged = {**_arguments, **arguments}
        settings, _sources = load(merged)
        _arguments.clear()
        _arguments.update({name: value for name, value in merged.items() if value is not None})
        _current = settings
        _set_log_level(settings)
        listeners = tuple(_listeners)
    for listener in listeners:
        listener(settings)
    return settings


def _set_log_level(settings: Settings) -> None:
    # Only if somebody asked for a level: the program's own logging configuration stands otherwise.
    if "log_level" in vars(settings):
        from fast_router.settings.log_level import set_level

        set_level(settings.log_level)


def sources() -> dict[str, str]:
    """Where each option that is not at its default got its value, as it was read: the file may differ by now.

    Raises:
        ConfigurationError: As `current` does.
    """
    with _lock:
        current()
        return dict(_sources)


def in_force() -> dict[str, dict[str, str]]:
    """Every option's `value` as tables show it, without secrets, and in `from` where it is from.

    Raises:
        ConfigurationError: As `current` does.
    """
    with _lock:
        values, known = current(), sources()
    return {
        row.name: {"value": row.told(getattr(values, row.name)), "from": known.get(row.name, DEFAULT)} for row in rows()
    }


def on_change(listener: Callable[[Settings], None]) -> Callable[[], None]:
    """Call `listener` with the new settings after each `configure()`; returns a function that stops it."""
    with _lock:
        _listeners.append(listener)

    def stop() -> None:
        with _lock:
            if listener in _listeners:
                _listeners.remove(listener)

    return stop


def reset() -> None:
    """Forget what `configure()` was told and read environment and file again at the next use."""
    global _current  # noqa: PLW0603
    with _lock:
        _arguments.clear()
        _current = None
