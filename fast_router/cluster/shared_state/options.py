"""What can be chosen about shared state, checked once, with one clear error each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from fast_router.errors import ConfigurationError
from fast_router.settings import Settings, current

__all__ = ["ClusterOptions"]

_SETTINGS: Final = {
    "redis_url": "url",
    "redis_prefix": "prefix",
    "redis_fleet": "fleet",
    "redis_interval": "interval",
    "redis_timeout": "timeout",
    "redis_interop": "interop",
    "limits": "limits",
    "limits_timeout": "admission_timeout",
}


@dataclass(frozen=True)
class ClusterOptions:
    """How a process shares state.

    Attributes:
        url: Own Redis, `redis://`, `rediss://`, `unix://`, `redis+cluster://` or `rediss+cluster://`. None: the
            Router's own.
        prefix: First part of every key.
        fleet: Instances of one fleet share state; None takes LiteLLM's `namespace`, else `default`.
        interval: Seconds between two messages of a busy process, at least 0.01. A process with few
            requests waits up to 2.5 times as long.
        heartbeat: Seconds between two messages of an idle process.
        expiry: Seconds of silence after which a process counts as gone.
        timeout: Seconds that one answer of Redis may take in the background.
        limits: `local` counts rpm, tpm and parallel requests in each process (others' usage arrives with the
            interval); `strict` admits each request atomically in Redis.
        admission_timeout: Seconds that a strict admission may take before this process decides alone.
        reservation_ttl: Seconds after which the slots of a crashed process are free again (strict).
        interop: Read and write LiteLLM's own cooldown and usage keys; None: if the Redis is LiteLLM's own.
    """

    url: str | None = None
    prefix: str = "fast_router"
    fleet: str | None = None
    interval: float = 0.1
    heartbeat: float = 1.0
    expiry: float = 3.0
    timeout: float = 1.0
    limits: str = "local"
    admission_timeout: float = 0.05
    reservation_ttl: float = 10.0
    interop: bool | None = None

    def __post_init__(self) -> None:
        if self.limits not in {"local", "strict"}:
            raise ConfigurationError(f"limits is {self.limits!r}: it must be 'local' or 'strict'")
        for name, least in (
            ("interval", 0.01),
            ("heartbeat", 0.1),
            ("timeout", 0.01),
            ("admission_timeout", 0.001),
            ("reservation_ttl", 1.0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
                raise ConfigurationError(f"{name} is {value!r}: give seconds ≥ {least:g}")
        if self.expiry < 2 * self.heartbeat:
            raise ConfigurationError(
                f"expiry is {self.expiry:g} s with a heartbeat of {self.heartbeat:g} s: give at least twice the "
                "heartbeat, or one late message makes a living process look dead"
            )
        for name in ("prefix", "fleet"):
            text = getattr(self, name)
            if text is not None and (not text or any(c in text for c in "{} \r\n")):
                raise ConfigurationError(f"{name} is {text!r}: use letters, digits, '-', '_', '.' or ':'")

    @classmethod
    def read(cls, settings: Settings | Mapping[str, Any] | None = None) -> ClusterOptions:
        """Take the options from fast_router's settings, or from a mapping by the names above.

        Args:
            settings: None for the current settings.

        Raises:
            ConfigurationError: A value cannot be used; the message names it.
        """
        if settings is None or isinstance(settings, Settings):
            settings = settings or current()
            values = {name: getattr(settings, option) for option, name in _SETTINGS.items()}
        else:
            known = {f.name for f in fields(cls)}
            unknown = set(settings) - known
            if unknown:
                raise ConfigurationError(
                    f"unknown shared-state option {min(unknown)!r}; there are {', '.join(sorted(known))}"
                )
            values = dict(settings)
        return cls(**{name: value for name, value in values.items() if value is not None})
