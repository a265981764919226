"""What is learnt from one finished attempt: latency, time to first token, the peak EWMA."""

from __future__ import annotations

from bisect import bisect_left
from math import exp
from typing import TYPE_CHECKING, NamedTuple

from fast_router.engine.failover.failures import classify
from fast_router.engine.histogram import BOUNDS, Histogram

if TYPE_CHECKING:
    from fast_router.engine.deployment import Deployment

__all__ = ["Learnt", "average", "count_kind", "failure_seconds", "learnt", "observe", "observe_peak", "unlearn"]

SAMPLES = 10
"""Latency samples kept per deployment (LiteLLM's max_latency_list_size)."""
NEWEST = 0.2
"""What a new sample counts for in the mean of successes."""
TIMEOUT_LATENCY = 1000.0
"""What a timeout counts for, in seconds (LiteLLM's value)."""
FORGET_AFTER = 3600.0
"""Seconds after which samples that nothing renewed are forgotten (LiteLLM's ttl)."""


def observe(
    deployment: Deployment,
    now: float,
    seconds: float,
    error: BaseException | None,
    completion_tokens: float,
    first_token: float | None,
) -> None:
    """Take one attempt into the statistics of `deployment`.

    Args:
        deployment: Who was called.
        now: Engine clock, seconds.
        seconds: How long the attempt took.
        error: What failed and is the deployment's fault, None for a success.
        completion_tokens: Tokens of the answer, 0 if unknown.
        first_token: Seconds to the first token of a stream.
    """
    if deployment.latency is not None and now - deployment.latency_at > FORGET_AFTER:
        deployment.latencies.clear()
        deployment.first_tokens.clear()
        deployment.first_token = None
    if error is not None:
        observe_peak(deployment, failure_seconds(deployment, seconds), now)
        deployment.ewma_failed = True
        # Only a timeout says something about speed; LiteLLM's latency routing ignores other failures too.
        if not _is_timeout(error):
            return
        sample = TIMEOUT_LATENCY
    else:
        observe_peak(deployment, seconds, now)
        deployment.ewma_failed = False
        sample = seconds / completion_tokens if completion_tokens > 0 else seconds
        tokens = max(1.0, completion_tokens)
        share = 1.0 if deployment.speed is None else NEWEST
        deployment.speed_seconds += share * (seconds - deployment.speed_seconds)
        deployment.speed_tokens += share * (tokens - deployment.speed_tokens)
        deployment.speed = deployment.speed_seconds / deployment.speed_tokens
        deployment.speed_at = now
        durations = deployment.durations
        if durations is None:
            durations = deployment.durations = Histogram()
        # Written out: of each attempt, this is all that looking on costs.
        durations.counts[bisect_left(BOUNDS, seconds)] += 1
        durations.total += seconds
        if first_token is not None:
            if deployment.first_durations is None:
                deployment.first_durations = Histogram()
            deployment.first_durations.add(first_token)
            deployment.first_token = _push(deployment.first_tokens, first_token)
    deployment.latency = _push(deployment.latencies, sample)
    deployment.latency_at = now
    if deployment.outside_latency is not None:
        average(deployment)


def count_kind(deployment: Deployment, error: BaseException) -> None:
    """Count a failure under its kind."""
    kinds = deployment.failure_kinds
    if kinds is None:
        kinds = deployment.failure_kinds = {}
    kind = classify(error).value
    kinds[kind] = kinds.get(kind, 0) + 1


def average(deployment: Deployment) -> None:
    """Average this process's samples of `deployment` with what other processes know, sample by sample."""
    latency, weight, first, first_weight = deployment.outside_latency or (0.0, 0.0, 0.0, 0.0)
    deployment.latency = _mean(deployment.latencies, latency, weight)
    deployment.first_token = _mean(deployment.first_tokens, first, first_weight)


def _mean(samples: list[float], outside: float, weight: float) -> float | None:
    count = len(samples) + weight
    return (sum(samples) + outside * weight) / count if count else None


def _push(samples: list[float], sample: float) -> float:
    samples.append(sample)
    if len(samples) > SAMPLES:
        del samples[0]
    return sum(samples) / len(samples)


def _is_timeout(error: BaseException) -> bool:
    # By name, too: LiteLLM's and httpx's timeouts share no base with the built-in one.
    return isinstance(error, TimeoutError) or "Timeout" in type(error).__name__


class Learnt(NamedTuple):
    """What a deployment's speed is taken for, to be restored if a failure turns out not to be its own."""

    ewma: float | None
    ewma_at: float
    ewma_load: float
    ewma_failed: bool
    failed_at: float


def learnt(deployment: Deployment, now: float) -> Learnt:
    """Keep what is known of `deployment` before a failure of this moment (engine clock) counts against it."""
    return Learnt(deployment.ewma, deployment.ewma_at, deployment.ewma_load, deployment.ewma_failed, now)


def unlearn(deployment: Deployment, before: Learnt) -> None:
    """Take a failure back; what came after it stays."""
    failed_at = before.failed_at
    if deployment.ewma_at == failed_at:
        deployment.ewma, deployment.ewma_at, deployment.ewma_load, deployment.ewma_failed, _ = before
    if deployment.latency_at == failed_at and deployment.latencies and deployment.latencies[-1] == TIMEOUT_LATENCY:
        deployment.latencies.pop()
        deployment.latency = None
        if deployment.latencies:
            deployment.latency = sum(deployment.latencies) / len(deployment.latencies)
        if deployment.outside_latency is not None:
            average(deployment)


DECAY = 10.0
"""Seconds after which an estimate that nothing confirms has decayed to 1/e."""


FAILURE_FACTOR = 4.0
"""Times the present estimate that a failed attempt counts for."""


FAILURE_PENALTY = 5.0
"""Seconds that it counts for at the most, unless it took longer or the server is that slow anyway."""


def observe_peak(deployment: Deployment, seconds: float, now: float, decay: float = DECAY) -> None:
    """Feed one attempt's duration (seconds) into the estimate of `deployment`."""
    ewma = deployment.ewma
    if ewma is None or seconds > ewma:
        deployment.ewma = seconds
        deployment.ewma_load = deployment.in_flight + deployment.outside
    else:
        kept = exp((deployment.ewma_at - now) / decay)
        deployment.ewma = ewma * kept + seconds * (1.0 - kept)
        load = deployment.in_flight + deployment.outside
        deployment.ewma_load = deployment.ewma_load * kept + load * (1.0 - kept)
    deployment.ewma_at = now


def failure_seconds(deployment: Deployment, seconds: float) -> float:
    """What a failed attempt of so many seconds counts for: more than a success, and not for longer than need be.

    The first failure after a success is forgotten within a quarter of a minute, and further ones only begin that time
    anew: a server that goes on failing is for its breaker.
    """
    ewma = deployment.ewma
    if ewma is None:
        return max(seconds, FAILURE_PENALTY)
    if deployment.ewma_failed:
        return max(seconds, ewma)
    return max(seconds, ewma, min(FAILURE_FACTOR * ewma, FAILURE_PENALTY))
