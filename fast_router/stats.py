"""A router's live numbers, ready for JSON: what `AdvancedRouter.stats()` and everything that shows it are made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from fast_router import operator_holds
from fast_router.engine.deployment import CLOSED, FULL, OPERATOR, PROBING, QOS, RESTING, SPENT
from fast_router.naming import names_of

if TYPE_CHECKING:
    from fast_router.changes import Changes
    from fast_router.engine import Deployment, Engine, ModelGroup
    from fast_router.engine.failover.policy import FailoverPolicy
    from fast_router.naming import Name

__all__ = ["Shown", "groups_of", "held_by", "snapshot"]

_REASONS = (
    (OPERATOR, "operator"),
    (CLOSED, "closed"),
    (RESTING, "resting"),
    (PROBING, "probing"),
    (FULL, "full"),
    (SPENT, "spent"),
    (QOS, "slow"),
)


def held_by(deployment: Deployment) -> list[str]:
    """Every reason why a deployment may not be picked, in words; empty if it may."""
    return [word for bit, word in _REASONS if deployment.held & bit]


class Shown(Protocol):
    """A router, as far as its numbers go."""

    groups: dict[str, ModelGroup]
    engine: Engine
    failover: FailoverPolicy | None
    changes: Changes
    complete: Callable[[], None] | None

    @property
    def strategy(self) -> str:
        """Its own strategy."""
        ...

    @property
    def deployments(self) -> Mapping[str, Deployment]:
        """Every deployment by id."""
        ...


def groups_of(router: Shown) -> dict[str, tuple[str, tuple[Deployment, ...]]]:
    """Every model group: name → strategy and members. Deployments that no compiled group has go by their own name.

    Hold the engine's lock, or live with a moment in between.
    """
    found = {name: (group.strategy, group.members) for name, group in router.groups.items()}
    grouped = {deployment.id for _, members in found.values() for deployment in members}
    rest: dict[str, list[Deployment]] = {}
    for deployment in router.deployments.values():
        if deployment.id not in grouped:
            rest.setdefault(deployment.name, []).append(deployment)
    for name, members in rest.items():
        strategy, known = found.get(name, (router.strategy, ()))
        found[name] = (strategy, (*known, *members))
    return found


def snapshot(router: Shown) -> dict[str, Any]:
    """What `AdvancedRouter.stats()` answers."""
    if router.complete is not None:
        router.complete()
    engine = router.engine
    engine.settle()
    with engine.lock:
        groups = groups_of(router)
        members = {d.id: d for _, group in groups.values() for d in group}
    names = names_of(members.values())
    now = engine.clock()
    with engine.lock:
        return {
            "strategy": router.strategy,
            "models": {
                name: {"strategy": strategy, "deployments": _rows(router, group, names, now)}
                for name, (strategy, group) in groups.items()
            },
        }


def _rows(
    router: Shown, members: Collection[Deployment], names: Mapping[str, Name], now: float
) -> list[dict[str, Any]]:
    failover, since = router.failover, router.changes.since
    rows = []
    for d in members:
        name = names[d.id]
        breaker = None if failover is None else failover.describe(d.id)
        row = {
            "id": d.id,
            "short": name.id,
            "server": name.server,
            "in_flight": d.in_flight,
            "outside": d.outside,
            "picks": d.picks,
            "successes": d.successes,
            "failures": d.failures,
            "last_failure": d.last_failure,
            "latency": d.latency,
            # Embeddings and the like answer without completion tokens: their calls are timed whole.
            "latency_of": "token" if d.speed_tokens > 1 else "call",
            "first_token": d.first_token,
            "cache": _cache(d),
            "weight": d.weight,
            "weight_by_hand": d.operator_weight,
            "order": d.order,
            "eligible": not d.held,
            "held": held_by(d),
            "resting": round(max(0.0, d.resting_until - now), 3) if d.held & RESTING else 0.0,
            "closed": bool(d.held & CLOSED),
            "breaker": breaker,
        }
        row.update(_condition(d, row, now, since(d.id)))
        rows.append(row)
    return rows


def _cache(d: Deployment) -> dict[str, float | None] | None:
    """Shares of the prompt tokens that were expected to be cached, and that answers said were; 0 to 1, of how many."""
    work = d.work
    if work is None or not work.fleet.reads:
        return None
    return {
        "predicted_hit_share": work.hit_tokens / work.prompt_tokens if work.prompt_tokens else None,
        "prompt_tokens": work.prompt_tokens,
        "reported_hit_share": work.reported_tokens / work.reported_total if work.reported_total else None,
        "reported_prompt_tokens": work.reported_total,
    }


def _condition(d: Deployment, row: Mapping[str, Any], now: float, since: float | None) -> dict[str, Any]:
    """One word for how it is, with the reason, since when (epoch seconds), and seconds until that changes."""
    breaker = row["breaker"] or {}
    state, reason, left = "up", None, None
    hold = operator_holds.of(d) if d.held & OPERATOR else None
    if hold is not None:
        state = "held" if hold.action == "rest" else "draining" if d.in_flight else "drained"
        reason, since = hold.words(), hold.at
        left = None if hold.until is None else round(max(0.0, d.operator_until - now), 3)
    elif d.held & CLOSED:
        state, reason = "closed", "max_parallel_requests is 0"
    elif breaker.get("state", "closed") != "closed":
        reason, left = breaker["reason"], breaker["seconds_left"]
        if d.held & PROBING or breaker["state"] == "half_open":
            state = "probing"
        elif d.held & RESTING:
            state = "resting"
        else:
            state = "failing" if left else "due"
    elif d.held & RESTING:
        state, reason, left = "resting", d.last_failure or "by order", row["resting"]
    elif d.held & FULL:
        state, reason = "full", f"{d.max_parallel} calls at a time"
    elif d.held & SPENT:
        state, reason = "spent", "rpm or tpm of this minute"
    elif d.held & QOS:
        state, reason = "slow", f"{d.qos_metric} above {d.qos_limit:g}"
    elif d.slow_until > now:
        state, left = "warming", round(d.slow_until - now, 3)
    return {"state": state, "reason": reason, "since": since, "seconds_left": left}
