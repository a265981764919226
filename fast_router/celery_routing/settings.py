"""What Celery routing can be told, and what a provider brings to a decision.

Plain data, read by the API process and by the worker alike: both must agree on the names and on the
arguments of the queues, so both derive them from the same settings.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from fast_router.errors import ConfigurationError

__all__ = ["STRATEGIES", "Candidate", "CelerySettings", "masked"]

Metric = Literal["inflight", "ttft", "latency", "performance"]
_METRICS = ("inflight", "ttft", "latency", "performance")

# How a worker compares the admissible providers; see lua/decide.lua.
STRATEGIES = ("score", "least_busy", "latency_based", "round_robin", "shuffle")
_AS_SCORE = "score"

_SCHEMES = {"broker_url": ("amqp", "amqps", "redis", "rediss"), "redis_url": ("redis", "rediss", "unix")}
_POSITIVE = ("deadline", "soft_time_limit", "reservation_ttl", "metrics_window", "max_queue_length", "queue_expires")


class _Assumed(str):
    """A default address: it counts because nobody set one, which whoever does not reach it should be told."""

    __slots__ = ()


def masked(url: str) -> str:
    """The URL without its password, fit for a log or a message."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", url)


@dataclass(frozen=True)
class Candidate:
    """One provider that may serve a request.

    Attributes:
        id: The provider's id, the same in every process.
        weight: Its share compared with its siblings, > 0.
        qos_metric: What `qos_limit` bounds: `inflight` (requests), `ttft` or `latency` (seconds), or
            `performance` (seconds per completion token). None for no limit.
        qos_limit: The largest admissible value. None means no limit, 0 means closed.
        max_parallel: Most requests at a time, whatever the metric. None for no limit.
    """

    id: str
    weight: float = 1.0
    qos_metric: Metric | None = None
    qos_limit: float | None = None
    max_parallel: int | None = None

    def __post_init__(self) -> None:
        if self.qos_metric is not None and self.qos_metric not in _METRICS:
            raise ConfigurationError(
                f"provider {self.id!r}: qos_metric {self.qos_metric!r} is unknown; use one of {', '.join(_METRICS)}"
            )
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise ConfigurationError(f"provider {self.id!r}: weight {self.weight!r} must be a number above 0")

    def wire(self) -> list[Any]:
        """The row a routing task carries: id, weight, metric, limit, most parallel (-1: none)."""
        limit = -1 if self.qos_limit is None or self.qos_metric is None else self.qos_limit
        parallel = -1 if self.max_parallel is None else self.max_parallel
        return [self.id, self.weight, self.qos_metric or "", limit, parallel]


@dataclass(frozen=True)
class CelerySettings:
    """Every option of Celery routing.

    Attributes:
        broker_url: `amqp://…` (RabbitMQ) or `redis://…` for the queues.
        redis_url: Where metrics, reservations and replies live.
        queue_prefix: A model's queue is `<queue_prefix>.<model>`.
        key_prefix: Start of every Redis key; versioned, so that two layouts can live side by side.
        strategy: How admissible providers are compared, one of `STRATEGIES`.
        deadline: Seconds without any sign of a worker until this process picks for itself.
        max_priority: Highest priority of a request; 0 is the lowest.
        max_queue_length: Most requests waiting in a model's queue; beyond it they are picked locally.
        queue_expires: Seconds until a queue that nobody uses is deleted.
        max_retries: How often a request asks again when every provider is at its limit.
        retry_countdown: Seconds before the first retry.
        retry_backoff: Factor from one retry's wait to the next.
        retry_countdown_max: Longest wait between retries, seconds.
        soft_time_limit: Seconds that a request may wait for a provider in all; then 504.
        reservation_ttl: Seconds until a reservation without a heartbeat is void.
        metrics_window: Seconds after which a sample has lost 63 % of its weight.
        queue_interval: Seconds between two looks at the providers' own queues; 0 for never.
        connect_timeout: Seconds for one connection attempt to broker or Redis.
    """

    broker_url: str = _Assumed("amqp://guest:guest@127.0.0.1:5672//")
    redis_url: str = _Assumed("redis://127.0.0.1:6379/0")
    queue_prefix: str = "router"
    key_prefix: str = "fast_router:celery:1"
    strategy: str = _AS_SCORE
    deadline: float = 0.25
    max_priority: int = 10
    max_queue_length: int = 10_000
    queue_expires: float = 1800.0
    max_retries: int = 10
    retry_countdown: float = 0.2
    retry_backoff: float = 1.5
    retry_countdown_max: float = 2.0
    soft_time_limit: float = 30.0
    reservation_ttl: float = 15.0
    metrics_window: float = 30.0
    queue_interval: float = 1.0
    connect_timeout: float = 2.0

    def __post_init__(self) -> None:
        for name, schemes in _SCHEMES.items():
            url = getattr(self, name)
            if urlsplit(url).scheme not in schemes:
                raise ConfigurationError(
                    f"Celery routing: {name} {masked(url)!r} must start with one of "
                    + ", ".join(f"{scheme}://" for scheme in schemes)
                )
        if not 1 <= self.max_priority <= 255:
            raise ConfigurationError(f"Celery routing: max_priority {self.max_priority} must be between 1 and 255")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"Celery routing: {name} {getattr(self, name)!r} must be above 0")
        for name in ("max_retries", "retry_countdown", "queue_interval"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"Celery routing: {name} {getattr(self, name)!r} must not be negative")

    @property
    def redis_broker(self) -> bool:
        """True if the queues live in Redis instead of RabbitMQ."""
        return urlsplit(self.broker_url).scheme.startswith("redis")

    def assumed(self) -> str:
        """One sentence on the addresses that nobody has set, with the settings to set; empty if both are set."""
        missing = [
            (setting, url)
            for setting, url in (("redis_url", self.redis_url), ("celery_broker_url", self.broker_url))
            if isinstance(url, _Assumed)
        ]
        if not missing:
            return ""
        names = " and ".join(f"{setting} (FAST_ROUTER_{setting.upper()})" for setting, _ in missing)
        verbs = ("is not set", "is assumed: set it") if len(missing) == 1 else ("are not set", "are assumed: set them")
        return f"{names} {verbs[0]}, so {' and '.join(masked(url) for _, url in missing)} {verbs[1]}"

    def canonical(self, strategy: str | None) -> str:
        """The worker's name for a strategy; one that only the engine knows is compared by score."""
        name = (strategy or self.strategy).replace("-", "_").removesuffix("_routing")
        if name.endswith("shuffle"):
            return "shuffle"
        return name if name in STRATEGIES else _AS_SCORE

    def queue_arguments(self) -> dict[str, Any]:
        """The RabbitMQ arguments of a model's queue; declaring it with others is refused by the broker."""
        return {
            "x-max-priority": self.max_priority,
            "x-max-length": self.max_queue_length,
            "x-overflow": "reject-publish",
            "x-expires": int(self.queue_expires * 1000),
        }
