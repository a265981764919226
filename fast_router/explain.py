"""Why a deployment would be picked now, and why another would not: each reason, and the numbers that are compared."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol

from fast_router import operator_holds
from fast_router.engine.ask import Ask
from fast_router.engine.deployment import CLOSED, FULL, OPERATOR, PROBING, QOS, RESTING, SPENT
from fast_router.naming import names_of
from fast_router.stats import Shown, groups_of

if TYPE_CHECKING:
    from fast_router.engine import Deployment, ModelGroup

__all__ = ["COMPARES", "compared", "explain"]

COMPARES: dict[str, tuple[str, ...]] = {
    "simple_shuffle": ("weight", "rpm", "tpm"),
    "round_robin": ("weight",),
    "least_busy": ("in_flight", "outside"),
    "latency_based": ("latency", "first_token"),
    "cost_based": ("price", "rpm", "tpm", "minute_requests", "minute_tokens"),
    "usage_based": ("minute_tokens", "minute_requests", "rpm", "tpm"),
    "power_of_two": ("in_flight", "outside", "weight"),
    "peak_ewma": ("ewma", "in_flight", "outside", "weight"),
    "session_affinity": ("in_flight", "outside", "weight"),
    "cache_aware": ("expected_seconds", "queued_seconds", "uncached_tokens", "tokens_per_second", "weight"),
}
"""What each of our strategies goes by; one of the user's own is shown everything."""
_EVERYTHING = (
    *("in_flight", "outside", "weight", "latency", "first_token", "ewma", "price"),
    *("minute_requests", "minute_tokens", "rpm", "tpm"),
)


class Explained(Shown, Protocol):
    """A router, as far as its choice goes."""

    def group(self, model: str) -> ModelGroup:
        """Give the model group of that name, or raise the error that names the known ones."""
        ...


def compared(
    deployment: Deployment, strategy: str, now: float, ask: Ask | None, unknown: tuple[str, ...] = _EVERYTHING
) -> dict[str, Any]:
    """The numbers that a strategy compares, of one deployment; call it under the engine's lock.

    Args:
        deployment: Whose.
        strategy: Its canonical name.
        now: Engine clock, seconds.
        ask: What the request asks, None for a prompt of average length with nothing cached.
        unknown: What to show for a strategy that is not ours.
    """
    keys = COMPARES.get(strategy, unknown)
    found: dict[str, Any] = {}
    if strategy == "cache_aware":
        work = deployment.work
        found = dict.fromkeys(keys) if work is None else work.figures(ask, now)
    return {key: found[key] if key in found else getattr(deployment, key) for key in keys}


def explain(router: Explained, model: str, *, exclude: Collection[str] = (), tokens: float = 0) -> dict[str, Any]:
    """What `AdvancedRouter.explain` answers."""
    if router.complete is not None:
        router.complete()
    router.engine.settle()
    with router.engine.lock:
        groups = groups_of(router)
        if model not in groups:
            router.group(model)  # raises the error that names the known models
        strategy, members = groups[model]
        names = names_of(members)
        now = router.engine.clock()
        ask = Ask(tokens=tokens) if tokens else None
        reasons = {d.id: _reasons(router, d, now, exclude, tokens) for d in members}
        orders = [d.order for d in members if d.order is not None and not reasons[d.id]]
        lowest = min(orders, default=None)
        rows = []
        for d in members:
            why = reasons[d.id]
            if lowest is not None and d.order != lowest:
                mine = "no order" if d.order is None else f"order {d.order}"
                why.append(f"{mine}, and order {lowest} can serve")
            if not why and strategy == "simple_shuffle" and d.weight == 0 and any(m.weight for m in members):
                why.append("weight 0")
            found = {"full_id": d.id, "eligible": not why, "why": why, "compared": compared(d, strategy, now, ask)}
            rows.append({**names[d.id]._asdict(), **found})
    return {"model": model, "strategy": strategy, "eligible": sum(row["eligible"] for row in rows), "deployments": rows}


def _reasons(router: Explained, d: Deployment, now: float, exclude: Collection[str], tokens: float) -> list[str]:
    why = []
    if d.held & OPERATOR:
        hold = operator_holds.of(d)
        why.append(f"held: {hold.words()}" if hold is not None else "held by its operator")
    if d.held & CLOSED:
        why.append("closed: max_parallel_requests is 0")
    if d.held & RESTING:
        state = {} if router.failover is None else router.failover.describe(d.id)
        reason = state.get("reason") or d.last_failure or "by order"
        why.append(f"rests for {max(0.0, d.resting_until - now):.1f} s more: {reason}")
    if d.held & PROBING:
        why.append("a probe is out on it, whose outcome decides")
    if d.held & FULL:
        why.append(f"{d.in_flight} calls in flight, {d.max_parallel} at a time are allowed")
    if d.held & SPENT:
        used = []
        if d.rpm is not None:
            used.append(f"{d.minute_requests:g} of {d.rpm:g} requests")
        if d.tpm is not None:
            used.append(f"{d.minute_tokens:g} of {d.tpm:g} tokens")
        why.append(f"this minute is used up: {', '.join(used)}")
    if d.held & QOS:
        why.append(f"its {d.qos_metric} is beyond {d.qos_limit:g}")
    if d.id in exclude:
        why.append("excluded by the request")
    if tokens and d.tpm is not None and d.limited and d.minute_tokens + tokens > d.tpm:
        why.append(f"{tokens:g} tokens would be too many: {d.minute_tokens:g} of {d.tpm:g} used this minute")
    return why
