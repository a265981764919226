"""Every option of fast_router, once: name, environment variable, type, default, one sentence.

The table is the `Settings` class below. **To add an option, add one line to it**, in the section that fits:

    hedge_after: float | None = option(None, "Send a second attempt after this long.", unit="seconds", gt=0)

Everything else follows from that line: the environment variable (`FAST_ROUTER_` and the name in capitals), the
check of what users write, the row in docs and in `fast-router settings`, the argument of `configure()`.

Conventions. Names: `<area>_<what>`, so failover options begin with `retry_`, `hedge_`, `outlier_`, `health_` or
`stream_`, Redis options with `redis_` or `cluster_`, Celery options with `celery_`. Times are seconds, shares are
0 to 1, sizes are counts; `unit` says which. None or 0 switches a feature off. What changes answers is off unless
somebody asks for it. Anything that can hold a password is `secret=True`: then it is never shown, not even in an
error. Read values with `settings.current().<name>`; the object is immutable and replaced when somebody calls
`configure()`, so `current() is seen` tells whether anything changed. Code that must act on a change registers
with `on_change`.

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

from fast_router.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, Literal, TypeAlias

    LogLevel: TypeAlias = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

__all__ = [
    "Row",
    "Settings",
    "configure",
    "current",
    "enabled",
    "load",
    "markdown",
    "on_change",
    "reset",
    "rows",
    "sources",
]

PREFIX = "FAST_ROUTER_"
_ON = frozenset({"1", "true", "yes", "on", "t", "y"})
_OFF = frozenset({"0", "false", "no", "off", "f", "n"})
# A file with one of these and no `fast_router:` section is LiteLLM's alone.
_LITELLM_SECTIONS = frozenset(
    {"model_list", "litellm_settings", "router_settings", "general_settings", "environment_variables", "include"}
)
# Strategies that only LiteLLM has; everything else must be in our registry.
_LITELLM_STRATEGIES = frozenset({"provider-budget-routing", "lar1", "lar1-routing"})


class _Option:
    """One field of `Settings`: reads as its default where the instance has no value of its own."""

    __slots__ = ("bounds", "default", "name", "secret", "section", "sentence", "unit")

    def __init__(self, default: object, sentence: str, section: str, unit: str, secret: bool) -> None:
        self.name = ""
        self.default = default
        self.sentence = sentence
        self.section = section
        self.unit = unit
        self.secret = secret
        self.bounds: dict[str, Any] = {}

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object | None, owner: type) -> object:
        return self if instance is None else self.default


def option(
    default: object,
    sentence: str,
    *,
    section: str = "General",
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    secret: bool = False,
) -> Any:
    """One row of the table.

    Args:
        default: What counts when nobody says anything.
        sentence: What it does, for the documentation.
        section: Heading of the documentation it belongs under.
        unit: Unit of a number ("seconds", "requests/second", "share").
        ge: Smallest value allowed.
        gt: Value that must be exceeded.
        le: Largest value allowed.
        secret: True if it can hold a password: it is never shown then.
    """
    made = _Option(default, sentence, section, unit, secret)
    made.bounds = {name: bound for name, bound in (("ge", ge), ("gt", gt), ("le", le)) if bound is not None}
    return made


class Settings:
    """The options and their values; each field is one option, described by its `option(...)`.

    Args:
        values: The options that are not at their default, already checked (`load` does that).
    """

    enabled: bool = option(True, "Off leaves LiteLLM untouched; honoured before anything of LiteLLM is imported.")
    config: str | None = option(None, "YAML file with these options, at top level or under `fast_router:`.")
    strategy: str | None = option(None, "Strategy of the Router behind `litellm.model_list`; else LiteLLM's default.")
    router_settings: dict[str, Any] = option({}, "Further arguments of that Router, by LiteLLM's names.", secret=True)
    disabled_features: tuple[str, ...] = option((), "Features of `fast_router.status()` to leave out (comma list).")
    log_level: LogLevel = option("WARNING", "Level of the `fast_router` logger.")
    status: bool | None = option(None, "Answer `fast-router status`; not set: only under the launcher or in a proxy.")
    runtime_dir: str | None = option(None, "Private directory of the status sockets; else $XDG_RUNTIME_DIR or temp.")

    max_wait: float = option(
        0.0, "How long a request may wait for a deployment to get room.", section="Failover", unit="seconds", ge=0
    )
    retry_budget_ratio: float = option(
        0.2, "Retries allowed for each request, on average.", section="Failover", unit="share", ge=0
    )
    retry_budget_per_second: float = option(
        10.0, "Retries always allowed, whatever the traffic.", section="Failover", unit="retries/second", ge=0
    )
    max_waiting: int = option(
        1000, "Most requests of a model that may wait at a time.", section="Failover", unit="requests", ge=0
    )
    breaker: bool = option(True, "Rest what fails in a row, with a probe and a slow start after.", section="Failover")
    breaker_connection_errors: int = option(
        2, "Connection errors or timeouts in a row that rest a deployment; 0: never.", section="Failover", ge=0
    )
    breaker_server_errors: int = option(
        5, "Failures in a row that rest a deployment; 0: never.", section="Failover", ge=0
    )
    breaker_growth: float = option(
        1.0,
        "How many times longer each rest in a row is; 1: LiteLLM's constant cooldown_time.",
        section="Failover",
        ge=1,
    )
    breaker_max_cooldown: float = option(
        300.0, "Longest rest that growth may reach.", section="Failover", unit="seconds", ge=0
    )
    breaker_max_share: float = option(
        1.0, "Share of a model that our own rules may rest; one is always left.", section="Failover", ge=0, le=1
    )
    breaker_panic: bool = option(False, "Spread over all when more fail than may rest.", section="Failover")
    breaker_probe_timeout: float = option(
        5.0, "When a probe that has said nothing makes room for another.", section="Failover", unit="seconds", gt=0
    )
    breaker_slow_start: float = option(
        2.0, "How long a recovered deployment takes to its full share.", section="Failover", unit="seconds", ge=0
    )
    stream_failover: bool = option(
        True, "Hand a stream out with its first token, so that a failure before it is retried.", section="Failover"
    )
    stream_idle_timeout: float = option(
        0.0, "Longest pause between two chunks of a stream; 0: any.", section="Failover", unit="seconds", ge=0
    )
    hedge_percent: float = option(
        0.0, "Second attempts per hundred requests when the first is slow; 0: none.", section="Failover", ge=0, le=100
    )
    hedge_delay: float | None = option(
        None, "Wait before a second attempt; else the model's own p95.", section="Failover", unit="seconds", ge=0
    )
    outlier_interval: float = option(
        0.0,
        "How often deployments are compared with their siblings; 0: never.",
        section="Failover",
        unit="seconds",
        ge=0,
    )
    health_interval: float = option(
        0.0, "How often resting deployments are probed over HTTP; 0: never.", section="Failover", unit="seconds", ge=0
    )
    health_path: str = option("/health", "Where, at the server's root; or `/v1/models`.", section="Failover")
    health_metrics_interval: float = option(
        0.0, "How often vLLM's /metrics are read as load; 0: never.", section="Failover", unit="seconds", ge=0
    )

    redis_url: str | None = option(
        None, "Redis that shares load and cooldowns between processes.", section="Several processes", secret=True
    )
    shared_state: bool | None = option(
        None,
        "Share load and cooldowns over Redis; not set: if `redis_url` is set or the Router has Redis itself.",
        section="Several processes",
    )
    redis_prefix: str | None = option(None, "First part of every key; else fast_router.", section="Several processes")
    redis_fleet: str | None = option(
        None,
        "Only processes of one fleet share; else LiteLLM's cache namespace or `default`.",
        section="Several processes",
    )
    redis_interval: float = option(
        0.1, "How often a busy process tells the others.", section="Several processes", unit="seconds", ge=0.01, le=1.0
    )
    redis_timeout: float = option(
        1.0,
        "How long Redis may take to answer in the background.",
        section="Several processes",
        unit="seconds",
        ge=0.01,
    )
    redis_interop: bool | None = option(
        None,
        "Read and write LiteLLM's own cooldown and usage keys; not set: if the Redis is LiteLLM's.",
        section="Several processes",
    )
    limits: Literal["local", "strict"] = option(
        "local",
        "Who counts rpm, tpm and parallel requests: each process, or Redis for all.",
        section="Several processes",
    )
    limits_timeout: float = option(
        0.05,
        "How long a strict admission may take before this process decides alone.",
        section="Several processes",
        unit="seconds",
        ge=0.001,
    )
    routing: Literal["local", "celery"] = option(
        "local", "Who picks: this process, or a routing worker behind Celery.", section="Several processes"
    )

    # Not set: the default of `cluster.celery_settings.CelerySettings`, or what an Albert file says.
    celery_broker_url: str | None = option(
        None, "RabbitMQ (amqp://) or Redis (redis://) with the routing queues.", section="Celery routing", secret=True
    )
    celery_queue_prefix: str | None = option(None, "A model's queue is <prefix>.<model>.", section="Celery routing")
    celery_key_prefix: str | None = option(None, "Start of every Redis key.", section="Celery routing")
    celery_strategy: str | None = option(
        None, "How workers compare: score, least_busy, latency_based, round_robin, shuffle.", section="Celery routing"
    )
    celery_deadline: float | None = option(
        None, "Longest wait for a worker before this process picks.", section="Celery routing", unit="seconds", gt=0
    )
    celery_max_priority: int | None = option(
        None, "Highest priority of a request.", section="Celery routing", ge=1, le=255
    )
    celery_max_queue_length: int | None = option(
        None, "Most requests waiting in a model's queue.", section="Celery routing", ge=1
    )
    celery_queue_expires: float | None = option(
        None, "An unused queue is deleted after this long.", section="Celery routing", unit="seconds", gt=0
    )
    celery_max_retries: int | None = option(
        None, "How often a request asks again when all providers are at their limit.", section="Celery routing", ge=0
    )
    celery_retry_countdown: float | None = option(
        None, "Wait before the first retry.", section="Celery routing", unit="seconds", ge=0
    )
    celery_retry_backoff: float | None = option(
        None, "Factor from one such wait to the next.", section="Celery routing", ge=1
    )
    celery_retry_countdown_max: float | None = option(
        None, "Longest such wait.", section="Celery routing", unit="seconds", gt=0
    )
    celery_soft_time_limit: float | None = option(
        None, "Longest wait for a provider in all, then 504.", section="Celery routing", unit="seconds", gt=0
    )
    celery_reservation_ttl: float | None = option(
        None, "A reservation without heartbeat is void after this long.", section="Celery routing", unit="seconds", gt=0
    )
    celery_metrics_window: float | None = option(
        None, "Memory of latencies and errors.", section="Celery routing", unit="seconds", gt=0
    )
    celery_queue_interval: float | None = option(
        None,
        "Pause between two looks at the vLLMs' own queues; 0: never.",
        section="Celery routing",
        unit="seconds",
        ge=0,
    )
    celery_connect_timeout: float | None = option(
        None, "Longest connection attempt.", section="Celery routing", unit="seconds", gt=0
    )

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        msg = f"settings are immutable; use fast_router.configure({name}=…)"
        raise AttributeError(msg)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Settings):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in _options())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name, spec in _options().items() if not spec.secret)
        return f"Settings({', '.join(shown)})"


def _options() -> dict[str, _Option]:
    return {name: spec for name, spec in vars(Settings).items() if isinstance(spec, _Option)}


class Row:
    """One option as documentation shows it: name, env, type, default, unit, sentence, section, secret."""

    __slots__ = ("default", "env", "name", "secret", "section", "sentence", "type", "unit")

    def __init__(self, spec: _Option) -> None:
        annotation = str(Settings.__annotations__[spec.name])
        self.name = spec.name
        self.env = PREFIX + spec.name.upper()
        self.type = _KINDS.get(annotation, annotation)
        self.default = shown(spec.default)
        self.unit = spec.unit
        self.sentence = spec.sentence
        self.section = spec.section
        self.secret = spec.secret


_KINDS = {"LogLevel": "level", "tuple[str, ...]": "list", "dict[str, Any]": "mapping"}


def shown(value: object) -> str:
    """A value as tables show it."""
    if value is None or value in ((), {}):
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def rows() -> Iterator[Row]:
    """The table, in its order."""
    return map(Row, _options().values())


def markdown() -> str:
    """The table as Markdown, one heading a section, for the documentation."""
    out: list[str] = []
    sections: dict[str, list[Row]] = {}
    for row in rows():
        sections.setdefault(row.section, []).append(row)
    for section, members in sections.items():
        out += [
            f"### {section}",
            "",
            "| Option | Environment | Type | Default | What it does |",
            "|---|---|---|---|---|",
        ]
        for row in members:
            kind = row.type.replace("|", "\\|") + (f", {row.unit}" if row.unit else "")
            out.append(f"| `{row.name}` | `{row.env}` | {kind} | {row.default} | {row.sentence} |")
        out.append("")
    return "\n".join(out)


@lru_cache(maxsize=1)
def _validators() -> dict[str, Any]:
    import typing

    from pydantic import Field, TypeAdapter

    levels = typing.Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    hints = typing.get_type_hints(Settings, {"Any": typing.Any, "Literal": typing.Literal, "LogLevel": levels})
    make: Any = TypeAdapter  # its own type does not admit an annotation that is only known at run time
    return {name: make(typing.Annotated[hints[name], Field(**spec.bounds)]) for name, spec in _options().items()}


def _from_text(kind: str, text: str) -> object:
    """What a string of the environment stands for, as far as pydantic cannot tell."""
    if kind == "list":
        return tuple(text.replace(",", " ").split())
    if kind == "mapping":
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text  # which is no mapping: the check below says so, without showing it
    if kind == "level":
        return text.upper()
    return text.strip()


def _from_file(path: str) -> dict[str, object]:
    from pathlib import Path

    import yaml

    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror or error}); {PREFIX}CONFIG must name a YAML file"
        raise ConfigurationError(msg) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        msg = f"{path}: not valid YAML{where}: {getattr(error, 'problem', None) or 'cannot be parsed'}"
        raise ConfigurationError(msg) from None
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


def has_section(path: str) -> bool:
    """Whether a YAML file, LiteLLM's for example, has a `fast_router:` section; False if it cannot be read."""
    from pathlib import Path

    import yaml

    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(document, dict) and "fast_router" in document


def _unknown(name: object, known: Mapping[str, object]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(str(name), known, n=1)
    return f"no such option; did you mean {near[0]!r}?" if near else "no such option; `fast-router settings` lists them"


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
    path = given.get("config") or env.get(PREFIX + "CONFIG", "").strip()
    if path:
        for name, value in _from_file(str(path)).items():
            if name not in table:
                problems.append(f"{path}: {name}: {_unknown(name, table)}")
            elif value is not None:
                found[name] = (f"{path}: {name}", value)
    for row in table.values():
        text = env.get(row.env, "")
        if text.strip():
            found[row.name] = (row.env, _from_text(row.type, text))
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
    if problems:
        msg = problems[0] if len(problems) == 1 else "settings:\n  " + "\n  ".join(problems)
        raise ConfigurationError(msg)
    return Settings(**values), {name: source for name, (source, _) in found.items()}


def _checked(name: str, value: object) -> object:
    checked: object = _validators()[name].validate_python(value)
    if name == "strategy" and isinstance(checked, str) and checked not in _LITELLM_STRATEGIES:
        from fast_router.engine.strategies import canonical

        canonical(checked)
    return checked


def _complaint(row: Row, value: object, error: ValueError) -> str:
    if isinstance(error, ConfigurationError):
        return str(error)
    details = getattr(error, "errors", None)
    reason = details(include_url=False, include_input=False)[0]["msg"] if callable(details) else str(error)
    shown = "its value (kept out of this message)" if row.secret else repr(value)
    unit = f", {row.unit}" if row.unit else ""
    return f"{shown}: {reason[:1].lower()}{reason[1:]} ({row.name}: {row.type}{unit}, default {row.default})"


_lock = threading.RLock()
_arguments: dict[str, object] = {}
_current: Settings | None = None
_listeners: list[Callable[[Settings], None]] = []


def current() -> Settings:
    """The settings in force; read from the environment and the file at the first call.

    Raises:
        ConfigurationError: A value is wrong (see `load`).
    """
    global _current  # noqa: PLW0603 - one process, one set of options
    seen = _current
    if seen is None:
        with _lock:
            if _current is None:
                _current = load(_arguments)[0]
                _set_log_level(_current)
            seen = _current
    return seen


def configure(**arguments: object) -> Settings:
    """Set options by argument; they win over environment and file. None gives an option back to those.

    Returns:
        The settings now in force.

    Raises:
        ConfigurationError: An option is unknown or its value wrong; nothing has changed then.
    """
    global _current  # noqa: PLW0603
    with _lock:
        merged = {**_arguments, **arguments}
        settings, _ = load(merged)
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
        import logging

        logging.getLogger("fast_router").setLevel(settings.log_level)


def sources() -> dict[str, str]:
    """Where each option that is not at its default got its value."""
    with _lock:
        return load(_arguments)[1]


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


def enabled() -> bool:
    """Whether fast_router may touch LiteLLM; answered without importing anything unless a file is named.

    Raises:
        ConfigurationError: FAST_ROUTER_ENABLED is neither a yes nor a no.
    """
    if "enabled" in _arguments or _current is not None or os.environ.get(PREFIX + "CONFIG", "").strip():
        return current().enabled
    text = os.environ.get(PREFIX + "ENABLED", "").strip().lower()
    if not text or text in _ON:
        return True
    if text in _OFF:
        return False
    msg = f"{PREFIX}ENABLED: {text!r} is neither a yes nor a no; use 1 or 0"
    raise ConfigurationError(msg)
