"""Every option of fast_router, once: name, environment variable, type, default, one sentence.

The table is the `Settings` class below. **To add an option, add one line to it**, in the section that fits:

    hedge_after: float | None = option(None, "Send a second attempt after this long.", unit="seconds", gt=0)

Everything else follows from that line: the environment variable (`FAST_ROUTER_` and the name in capitals), the
check of what users write, the row in docs and in `fast-router settings`, the argument of `configure()`.

Conventions. Names: `<area>_<what>`, so failover options begin with `retry_`, `hedge_`, `outlier_`, `health_` or
`stream_`, Redis options with `redis_` or `cluster_`, Celery options with `celery_`. Times are seconds, shares are
0 to 1, sizes are counts; `unit` says which. None or 0 switches a feature off. What changes answers is off unless
somebody asks for it. Anything that can hold a password is `secret=True`: then it is never shown, not even in an
error. `settings` reads the values.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Literal, TypeAlias

    from fast_router.engine.rollout.arms import Measure

    Rescue: TypeAlias = bool | Literal["threads"]
    Rollout: TypeAlias = float | Literal["observe"]
    LogLevel: TypeAlias = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

__all__ = ["PREFIX", "Row", "Settings", "markdown", "options", "rows", "shown"]

PREFIX = "FAST_ROUTER_"


class _Option:
    """One field of `Settings`: reads as its default where the instance has no value of its own."""

    __slots__ = ("bounds", "default", "name", "secret", "section", "sentence", "unit", "unset")

    def __init__(self, default: object, sentence: str, section: str, unit: str, unset: str, secret: bool) -> None:
        self.name = ""
        self.default = default
        self.sentence = sentence
        self.section = section
        self.unit = unit
        self.unset = unset
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
    unset: str = "",
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
        unset: What counts where the default is None, for the documentation.
        ge: Smallest value allowed.
        gt: Value that must be exceeded.
        le: Largest value allowed.
        secret: True if it can hold a password: it is never shown then.
    """
    made = _Option(default, sentence, section, unit, unset, secret)
    made.bounds = {name: bound for name, bound in (("ge", ge), ("gt", gt), ("le", le)) if bound is not None}
    return made


class Settings:
    """The options and their values; each field is one option, described by its `option(...)`.

    Args:
        values: The options that are not at their default, already checked (`load` does that).
    """

    enabled: bool = option(
        True,
        "Off leaves LiteLLM's requests untouched; honoured before anything of LiteLLM is imported.",
    )
    config: str | None = option(
        None,
        "YAML file with these options, at top level or under `fast_router:`.",
        unset="the proxy's own, if it has a section of ours",
    )
    strategy: str | None = option(None, "Strategy of the Router behind `litellm.model_list`.", unset="simple_shuffle")
    router_settings: dict[str, Any] = option(
        {}, "Further arguments of that Router, by LiteLLM's names.", secret=True, unset="none"
    )
    rollout: Rollout = option(100.0, "Share of the requests that fast_router handles; or observe.", unit="percent")
    experiment: dict[str, Any] = option(
        {}, "A second strategy for a share of the requests: {strategy: cache_aware, share: 20}.", unset="none"
    )
    rollout_measure: Measure = option(
        "latency", "What the two arms of a rollout or an experiment are compared by; name it beforehand."
    )
    disabled_features: tuple[str, ...] = option(
        (), "Features of `fast_router.status()` to leave out (comma list).", unset="none"
    )
    freeze_heap: bool = option(False, "Leave what a program has made by its first picks out of garbage collections.")
    log_level: LogLevel = option("WARNING", "Level of the `fast_router` logger.")
    status: bool | None = option(
        None,
        "Answer `fast-router status`.",
        unset="in proxies, and under `fast-router run`",
    )
    metrics: bool = option(False, "Answer Prometheus for all processes of this user, from one of them.")
    metrics_address: str = option("127.0.0.1", "Where the metrics are answered.")
    metrics_port: int = option(9464, "At which port.", ge=1, le=65535)
    runtime_dir: str | None = option(
        None, "Private directory of the status sockets.", unset="`$XDG_RUNTIME_DIR`, or temp"
    )

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
    breaker_silence: float = option(
        2.0,
        "Times a model's slowest recent answer that several calls wait, until silence rests a deployment; 0: never.",
        section="Failover",
        ge=0,
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
    fallback_at_once: bool = option(
        True, "Ask a model's fallback at once while nobody of the model is well.", section="Failover"
    )
    stream_failover: bool = option(
        True, "Hand a stream out with its first token, so that a failure before it is retried.", section="Failover"
    )
    stream_idle_timeout: float = option(
        0.0, "Longest pause between two chunks of a stream; 0: any.", section="Failover", unit="seconds", ge=0
    )
    rescue: Rescue = option(
        True,
        "Ask elsewhere as well for requests that wait on a silent deployment; threads: for synchronous ones, too.",
        section="Failover",
    )
    hedge_percent: float = option(
        0.0, "Second attempts per hundred requests when the first is slow; 0: none.", section="Failover", ge=0, le=100
    )
    hedge_delay: float | None = option(
        None,
        "Wait before a second attempt.",
        section="Failover",
        unit="seconds",
        ge=0,
        unset="the model's p95",
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
        None,
        "Redis that shares load and cooldowns between processes.",
        section="Several processes",
        secret=True,
        unset="none",
    )
    shared_state: bool | None = option(
        None,
        "Share load and cooldowns over Redis.",
        section="Several processes",
        unset="if `redis_url` is set or the Router has Redis",
    )
    redis_prefix: str | None = option(
        None, "First part of every key.", section="Several processes", unset="fast_router"
    )
    redis_fleet: str | None = option(
        None,
        "Only processes of one fleet share.",
        section="Several processes",
        unset="LiteLLM's cache namespace, or `default`",
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
        "Read and write LiteLLM's own cooldown and usage keys.",
        section="Several processes",
        unset="if the Redis is LiteLLM's",
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
        None,
        "RabbitMQ (amqp://) or Redis (redis://) with the routing queues.",
        section="Celery routing",
        secret=True,
        unset="this machine's RabbitMQ",
    )
    celery_queue_prefix: str | None = option(
        None, "A model's queue is <prefix>.<model>.", section="Celery routing", unset="router"
    )
    celery_key_prefix: str | None = option(
        None, "Start of every Redis key.", section="Celery routing", unset="fast_router:celery:1"
    )
    celery_strategy: str | None = option(
        None,
        "How workers compare: score, least_busy, latency_based, round_robin, shuffle.",
        section="Celery routing",
        unset="score",
    )
    celery_deadline: float | None = option(
        None,
        "Longest wait for a worker before this process picks.",
        section="Celery routing",
        unit="seconds",
        gt=0,
        unset="0.25",
    )
    celery_max_priority: int | None = option(
        None, "Highest priority of a request.", section="Celery routing", ge=1, le=255, unset="10"
    )
    celery_max_queue_length: int | None = option(
        None, "Most requests waiting in a model's queue.", section="Celery routing", ge=1, unset="10000"
    )
    celery_queue_expires: float | None = option(
        None,
        "An unused queue is deleted after this long.",
        section="Celery routing",
        unit="seconds",
        gt=0,
        unset="1800",
    )
    celery_max_retries: int | None = option(
        None,
        "How often a request asks again when all providers are at their limit.",
        section="Celery routing",
        ge=0,
        unset="10",
    )
    celery_retry_countdown: float | None = option(
        None, "Wait before the first retry.", section="Celery routing", unit="seconds", ge=0, unset="0.2"
    )
    celery_retry_backoff: float | None = option(
        None, "Factor from one such wait to the next.", section="Celery routing", ge=1, unset="1.5"
    )
    celery_retry_countdown_max: float | None = option(
        None, "Longest such wait.", section="Celery routing", unit="seconds", gt=0, unset="2"
    )
    celery_soft_time_limit: float | None = option(
        None,
        "Longest wait for a provider in all, then 504.",
        section="Celery routing",
        unit="seconds",
        gt=0,
        unset="30",
    )
    celery_reservation_ttl: float | None = option(
        None,
        "A reservation without heartbeat is void after this long.",
        section="Celery routing",
        unit="seconds",
        gt=0,
        unset="15",
    )
    celery_metrics_window: float | None = option(
        None, "Memory of latencies and errors.", section="Celery routing", unit="seconds", gt=0, unset="30"
    )
    celery_queue_interval: float | None = option(
        None,
        "Pause between two looks at the vLLMs' own queues; 0: never.",
        section="Celery routing",
        unit="seconds",
        ge=0,
        unset="1",
    )
    celery_connect_timeout: float | None = option(
        None, "Longest connection attempt.", section="Celery routing", unit="seconds", gt=0, unset="2"
    )

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        msg = f"settings are immutable; use fast_router.configure({name}=…)"
        raise AttributeError(msg)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Settings):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in options())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name, spec in options().items() if not spec.secret)
        return f"Settings({', '.join(shown)})"


def options() -> dict[str, _Option]:
    """The rows themselves, by name, in their order."""
    return {name: spec for name, spec in vars(Settings).items() if isinstance(spec, _Option)}


class Row:
    """One option as documentation shows it: name, env, type, default, unit, sentence, section, secret."""

    __slots__ = ("default", "env", "name", "secret", "section", "sentence", "type", "unit")

    def __init__(self, spec: _Option) -> None:
        annotation = str(Settings.__annotations__[spec.name])
        self.name = spec.name
        self.env = PREFIX + spec.name.upper()
        self.type = _KINDS.get(annotation, annotation)
        self.default = spec.unset or shown(spec.default)
        self.unit = spec.unit
        self.sentence = spec.sentence
        self.section = spec.section
        self.secret = spec.secret

    def told(self, value: object) -> str:
        """A value of this option with its unit, for eyes that may see no secret."""
        if value is None or value in ((), {}):
            return self.default
        text = _withheld(value) if self.secret else shown(value)
        return f"{text} {self.unit}" if self.unit and text[:1].isdigit() else text


# A password with one of the characters that end it in a URL makes the rest look like a host or a path: what does not
# match to its end is not shown at all.
_PLACE = re.compile(
    r"(?P<scheme>(?:rediss?(?:\+cluster)?|amqps?)://)(?P<credentials>[^@/?#]*@)?"
    r"(?P<place>[A-Za-z0-9._-]+(?::\d+)?(?:/\d*)?)(?:\?[^@#]*)?"
)
_KINDS = {
    "LogLevel": "level",
    "Rescue": "bool or threads",
    "Rollout": "share or observe",
    "Measure": "latency, first_token or failures",
    "Literal['local', 'strict']": "local or strict",
    "Literal['local', 'celery']": "local or celery",
    "tuple[str, ...]": "list",
    "dict[str, Any]": "mapping",
}


def shown(value: object) -> str:
    """A value as tables show it."""
    if value is None or value in ((), {}):
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {shown(each)}" for key, each in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _withheld(value: object) -> str:
    """The place that a URL names, if it is one of whose parts only the credentials can be a secret."""
    found = _PLACE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return "set, not shown"
    return f"{found['scheme']}{'***@' if found['credentials'] else ''}{found['place']}"


def rows() -> Iterator[Row]:
    """The table, in its order."""
    return map(Row, options().values())


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
            kind = row.type.removesuffix(" | None").replace("|", "\\|") + (f", {row.unit}" if row.unit else "")
            out.append(f"| `{row.name}` | `{row.env}` | {kind} | {row.default} | {row.sentence} |")
        out.append("")
    return "\n".join(out)
