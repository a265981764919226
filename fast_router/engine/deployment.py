"""One deployment and its live numbers.

Slots, no dicts: every pick touches these. A deployment outlives the groups it is in, so what is known
about it (open leases, latency, usage) survives a recompiled group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from fast_router.engine.histogram import Histogram

__all__ = ["CLOSED", "FULL", "OPERATOR", "PROBING", "QOS", "RESTING", "SPENT", "Deployment", "EligibleSet"]

# Why a deployment is not eligible: bits of `Deployment.held`. Eligible means no bit is set.
RESTING = 1  # in cooldown until `resting_until`
FULL = 2  # as many leases as `max_parallel`
SPENT = 4  # requests or tokens of this minute used up
QOS = 8  # its measured quality is beyond the limit set for it
PROBING = 16  # half-open: its single probe is out
CLOSED = 32  # shut by its configuration
OPERATOR = 64  # held by its operator until `operator_until`; nothing but the operator or that time lifts it


class EligibleSet(Protocol):
    """A strategy as its members see it: it keeps which of them are eligible."""

    name: ClassVar[str]
    follows_latency: bool
    reads_prompts: bool
    respects_limits: bool
    members: tuple[Deployment, ...]

    def add(self, deployment: Deployment) -> None:
        """`deployment` became eligible."""

    def remove(self, deployment: Deployment) -> None:
        """`deployment` is eligible no longer."""

    def moved(self, deployment: Deployment) -> None:
        """The load of `deployment` changed."""

    def observed(self, deployment: Deployment) -> None:
        """Latency or usage of `deployment` changed."""


class Deployment:
    """One entry of a model list.

    Attributes:
        id: Unique within its engine.
        name: The model group (LiteLLM's `model_name`).
        entry: The caller's own dict; picks hand this very object back.
        weight: Relative share for weighted picks, None if not given.
        rpm: Requests/minute limit, None for none.
        tpm: Tokens/minute limit, None for none.
        max_parallel: Most leases at a time, None for no limit.
        order: Tier; lower first. None counts as the only or last tier, as in LiteLLM.
        price: Money per token, input and output added.
        capacity: How much load one deployment takes compared with its siblings (1 = the same).
        in_flight: Open leases in this process.
        talking: Those of them whose stream has begun.
        attempts: What whoever takes leases keeps of those under way (the plugin does), each with its ``lease``.
        outside: Load known from elsewhere (other processes, a server's own metrics), in requests.
        held: Bits that say why it is not eligible; 0 means eligible.
        resting_until: Engine clock, seconds; meaningful while the RESTING bit is set.
        probing_until: The same for the PROBING bit.
        operator_until: The same for the OPERATOR bit.
        operator_weight: The weight that its operator gave it in place of the configured one, None for none.
    """

    __slots__ = (
        "attempts",
        "capacity",
        "counted",
        "counters",
        "durations",
        "entry",
        "ewma",
        "ewma_at",
        "ewma_failed",
        "ewma_load",
        "failure_kinds",
        "failures",
        "first_durations",
        "first_token",
        "first_tokens",
        "held",
        "id",
        "in_flight",
        "last_failure",
        "latencies",
        "latency",
        "latency_at",
        "limited",
        "max_parallel",
        "minute",
        "minute_requests",
        "minute_tokens",
        "name",
        "on_lease",
        "operator_until",
        "operator_weight",
        "order",
        "outside",
        "outside_latency",
        "outside_requests",
        "outside_tokens",
        "picks",
        "plain",
        "price",
        "probing_until",
        "qos_limit",
        "qos_metric",
        "rank",
        "rested",
        "resting_until",
        "rpm",
        "share",
        "slow_from",
        "slow_until",
        "speed",
        "speed_at",
        "speed_seconds",
        "speed_tokens",
        "strategies",
        "successes",
        "talking",
        "tpm",
        "weight",
        "work",
    )

    def __init__(
        self,
        id: str,  # noqa: A002 - LiteLLM's own word for it
        name: str,
        entry: Mapping[str, Any] | None = None,
        *,
        weight: float | None = None,
        rpm: float | None = None,
        tpm: float | None = None,
        max_parallel: int | None = None,
        order: int | None = None,
        price: float = 0.0,
        capacity: float = 1.0,
        qos_metric: str | None = None,
        qos_limit: float | None = None,
    ) -> None:
        self.id = id
        self.rank = 0
        self.in_flight = 0
        self.talking = 0
        self.attempts: set[Any] = set()
        self.outside = 0.0
        self.held = 0
        self.resting_until = 0.0
        self.probing_until = 0.0
        self.operator_until = 0.0
        self.operator_weight: float | None = None
        # Slow start: from `slow_from` to `slow_until` (clock) its share ramps up; 0 means it is at full share.
        self.slow_from = 0.0
        self.slow_until = 0.0
        self.picks = 0
        self.successes = 0
        self.failures = 0
        self.last_failure: str | None = None
        # The last samples and their means: seconds per completion token (whole seconds where an answer
        # has no tokens), and seconds to the first token. None: nothing known yet.
        self.latencies: list[float] = []
        self.latency: float | None = None
        self.first_tokens: list[float] = []
        self.first_token: float | None = None
        self.latency_at = 0.0
        # Every success so far in buckets: whole attempts, and first tokens; None before the first.
        self.durations: Histogram | None = None
        self.first_durations: Histogram | None = None
        # Failures by kind; None before the first.
        self.failure_kinds: dict[str, int] | None = None
        # Peak EWMA of whole attempts, in seconds; None: never answered.
        self.ewma: float | None = None
        self.ewma_at = 0.0
        # Whether that is what a failure counts for, and whether a rest has ended since.
        self.ewma_failed = False
        self.rested = False
        # What else was in flight while that was measured, averaged in the same way.
        self.ewma_load = 0.0
        # Seconds per completion token (or per answer without any) of successes alone, from the means of both, in
        # which the newest counts a fifth: the mean of their ratios would be made by the shortest answers.
        self.speed: float | None = None
        self.speed_at = 0.0
        self.speed_seconds = 0.0
        self.speed_tokens = 0.0
        # Usage of the wall-clock minute `minute` (minutes since the epoch).
        self.minute = -1
        self.minute_requests = 0.0
        self.minute_tokens = 0.0
        # The part of both that other processes used.
        self.outside_requests = 0.0
        self.outside_tokens = 0.0
        # What other processes know of its latency: seconds, samples, seconds to the first token, samples.
        self.outside_latency: tuple[float, float, float, float] | None = None
        self.limited = False
        # Told about each lease on it, under the engine's lock; set only by a breaker that has opened once.
        self.on_lease: Callable[[Any], None] | None = None
        # What it has cached and has yet to compute (`prefix_cache.work.Work`); None while no strategy asks for that.
        self.work: Any = None
        # True while a lease on it has nothing to do but count, itself or for a single strategy (see `refresh`).
        self.plain = False
        self.counted = False
        # The strategies whose eligible set this deployment belongs to, and those of them that follow its load.
        self.strategies: tuple[EligibleSet, ...] = ()
        self.counters: tuple[EligibleSet, ...] = ()
        self.update(
            name,
            entry if entry is not None else {},
            weight=weight,
            rpm=rpm,
            tpm=tpm,
            max_parallel=max_parallel,
            order=order,
            price=price,
            capacity=capacity,
            qos_metric=qos_metric,
            qos_limit=qos_limit,
        )

    def update(
        self,
        name: str,
        entry: Mapping[str, Any],
        *,
        weight: float | None,
        rpm: float | None,
        tpm: float | None,
        max_parallel: int | None,
        order: int | None,
        price: float,
        capacity: float,
        qos_metric: str | None,
        qos_limit: float | None,
    ) -> None:
        """Take over what the configuration says; live numbers stay."""
        self.name = name
        self.entry = entry
        self.weight = weight if self.operator_weight is None else self.operator_weight
        self.rpm = rpm
        self.tpm = tpm
        self.max_parallel = max_parallel
        self.order = order
        self.price = price
        self.capacity = capacity
        self.share = self.weight or capacity
        self.qos_metric = qos_metric
        self.qos_limit = qos_limit
        self.refresh()

    def refresh(self) -> None:
        """Work out anew whether a lease has more to do than to count: done when something changes, not per pick."""
        more = self.limited or self.slow_until or self.max_parallel is not None or self.on_lease is not None
        more = more or self.work is not None
        self.plain = not more and not self.counters
        self.counted = not more and len(self.counters) == 1

    @property
    def load(self) -> float:
        """Requests that it works on, here and elsewhere."""
        return self.in_flight + self.outside

    @property
    def eligible(self) -> bool:
        """True if nothing keeps it from being picked."""
        return not self.held

    def __repr__(self) -> str:
        # The entry can hold an API key: the id alone is safe to print.
        return f"<Deployment {self.id!r} of {self.name!r}>"
