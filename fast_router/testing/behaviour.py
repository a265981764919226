"""The orders an upstream works under: how slow, how faulty, how wide. Immutable; a change is a new object."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fast_router.errors import ConfigurationError
from fast_router.testing.rules import Rule

__all__ = ["FAULTS", "Behaviour", "Fault"]

Fault = Literal["ok", "error", "throttle", "reset", "hang", "cut", "garbage", "stream_error"]
FAULTS: tuple[str, ...] = get_args(Fault)

_RATES: tuple[tuple[Fault, str], ...] = (
    ("error", "error_rate"),
    ("throttle", "throttle_rate"),
    ("reset", "reset_rate"),
    ("hang", "hang_rate"),
    ("cut", "cut_rate"),
    ("garbage", "garbage_rate"),
    ("stream_error", "stream_error_rate"),
)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one upstream answers. All times are seconds, all rates are shares between 0 and 1.

    A request meets at most one fault: the rates share one random draw, so their sum may not exceed 1.

    Attributes:
        latency: Time before the answer begins.
        jitter: Up to this much is added to `latency`, uniformly.
        first_token: Time between the beginning of a stream and its first token (a whole answer takes it too).
        per_token: Time for each further token.
        tokens: Tokens in an answer; a smaller `max_tokens` in the request wins.
        prefill_rate: Prompt tokens per second that are computed, one prompt after the other, where they are not in
            the prefix cache; None for a server without one, whose prompts take no time.
        prefill_latency: Fixed time of each prefill, in line with the others.
        cache_blocks: Blocks that the prefix cache holds.
        block_size: Tokens per block.
        report_cached: Whether usage says how many prompt tokens were cached (vLLM: --enable-prompt-tokens-details).
        kv_silent: While true KV-cache events are numbered and kept for a replay, but not sent.
        error_rate: Share answered with `error_status`.
        error_status: HTTP status of an ordered error, 400–599.
        error_message: Its message; LiteLLM knows a context window or a content policy by it.
        error_latency: Time before an error, a 429 or a reset; 0 fails at once.
        throttle_rate: Share answered with 429.
        retry_after: Retry-After header of 429 and other errors (seconds, or an HTTP date); None for none.
        reset_rate: Share whose connection is reset before an answer.
        hang_rate: Share never answered; the connection stays open until the client leaves.
        cut_rate: Share closed in the middle of the answer.
        cut_after: Tokens sent before the cut, or before an error inside a stream (streams only).
        garbage_rate: Share answered 200 with a body that is no JSON (a stream: chunks that are none).
        stream_error_rate: Share whose stream begins with 200 and tells of `error_status` inside; what is no
            stream is answered with that status.
        slots: Requests served at a time; more wait in line. None means no limit.
        queue: Requests that may wait for a slot; one more is answered 503. None means no limit.
        hold: While true, accepted requests wait (in flight) until it is ordered false: a barrier for tests.
        script: Faults for the next requests, one each, before the rates decide again.
        check_model: Whether a model that the upstream does not serve is answered 404.
        healthy: What /health says.
        kv_cache_usage: Share of the key-value cache that /metrics reports; None derives it from the load.
        background_running: Requests of imagined other clients that /metrics adds to the running ones.
        background_waiting: The same for the waiting ones.
    """

    latency: float = 0.0
    jitter: float = 0.0
    first_token: float = 0.0
    per_token: float = 0.0
    tokens: int = 8
    prefill_rate: float | None = None
    prefill_latency: float = 0.0
    cache_blocks: int = 4096
    block_size: int = 16
    report_cached: bool = True
    kv_silent: bool = False
    error_rate: float = 0.0
    error_status: int = 500
    error_message: str = "Ordered to fail."
    error_latency: float = 0.0
    throttle_rate: float = 0.0
    retry_after: float | str | None = None
    reset_rate: float = 0.0
    hang_rate: float = 0.0
    cut_rate: float = 0.0
    cut_after: int = 2
    garbage_rate: float = 0.0
    stream_error_rate: float = 0.0
    slots: int | None = None
    queue: int | None = None
    hold: bool = False
    script: tuple[Fault, ...] = ()
    check_model: bool = False
    healthy: bool = True
    kv_cache_usage: float | None = None
    background_running: int = 0
    background_waiting: int = 0
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        for name in ("latency", "jitter", "first_token", "per_token", "prefill_latency", "error_latency"):
            value = getattr(self, name)
            _require(_is_number(value) and value >= 0, name, value, "seconds, at least 0")
        rates = {name: getattr(self, name) for _, name in _RATES}
        for name, value in rates.items():
            _require(_is_number(value) and 0 <= value <= 1, name, value, "a share between 0 and 1")
        _require(sum(rates.values()) <= 1 + 1e-9, "the sum of all rates", sum(rates.values()), "at most 1")
        for name in ("tokens", "cache_blocks", "cut_after", "background_running", "background_waiting"):
            _require(_is_count(value := getattr(self, name)), name, value, "a whole number, at least 0")
        rate, size = self.prefill_rate, self.block_size
        fine = rate is None or (_is_number(rate) and rate > 0)
        _require(fine, "prefill_rate", rate, "tokens per second, more than 0, or null")
        _require(_is_count(size) and size > 0, "block_size", size, "a whole number, at least 1")
        status, slots, queue, usage = self.error_status, self.slots, self.queue, self.kv_cache_usage
        fine = _is_count(status) and 400 <= status <= 599
        _require(fine, "error_status", status, "an HTTP status between 400 and 599")
        _require(isinstance(self.error_message, str), "error_message", self.error_message, "a text")
        fine = slots is None or (_is_count(slots) and slots > 0)
        _require(fine, "slots", slots, "a whole number, at least 1, or null")
        _require(queue is None or _is_count(queue), "queue", queue, "a whole number, at least 0, or null")
        fine = usage is None or (_is_number(usage) and 0 <= usage <= 1)
        _require(fine, "kv_cache_usage", usage, "a share between 0 and 1, or null")
        object.__setattr__(self, "script", tuple(self.script))
        for fault in self.script:
            _require(fault in FAULTS, "script", fault, f"one of {', '.join(FAULTS)}")
        rules = tuple(Rule(**rule) if isinstance(rule, Mapping) else rule for rule in self.rules)
        object.__setattr__(self, "rules", rules)
        for rule in rules:
            self.ordered(**rule.orders, rules=())

    def ordered(self, **changes: Any) -> Behaviour:
        """Return this behaviour with some orders changed.

        Raises:
            ConfigurationError: An order is unknown or its value makes no sense; nothing is changed.
        """
        known = {field.name for field in dataclasses.fields(self)}
        if unknown := sorted(changes.keys() - known):
            raise ConfigurationError(
                f"unknown order {unknown[0]!r} for an upstream; known orders: {', '.join(sorted(known))}"
            )
        return dataclasses.replace(self, **changes)

    def towards(self, headers: Mapping[str, str], body: Mapping[str, Any]) -> Behaviour:
        """Return the orders for one request: those of the first rule that covers it on top of these.

        Args:
            headers: Its headers, names in lower case.
            body: Its JSON body.
        """
        for rule in self.rules:
            if rule.covers(headers, body):
                return self.ordered(**rule.orders, rules=())
        return self

    def fate(self, chance: float) -> Fault:
        """Return what happens to a request that drew `chance` (0 ≤ chance < 1)."""
        for fault, name in _RATES:
            rate: float = getattr(self, name)
            if chance < rate:
                return fault
            chance -= rate
        return "ok"

    def as_dict(self) -> dict[str, Any]:
        """Return the orders as plain data."""
        return dataclasses.asdict(self)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _require(fine: bool, name: str, value: object, wanted: str) -> None:
    if not fine:
        raise ConfigurationError(f"order {name} of an upstream is {value!r}; it must be {wanted}")
