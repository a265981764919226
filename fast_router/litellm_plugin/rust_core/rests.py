"""LiteLLM 1.110: its cooldowns and ours are one, both ways.

LiteLLM writes a cooldown through its `RouterCooldownStore`; we hear of it there, at once. Ours are written there too,
for its alerts, its `health()` and the other processes on its Redis. What another process has written is learnt from
LiteLLM's own reading of Redis (at most once a second, before a pick) and, for picks that do not read, by `rests.mirror`
in the background.

Before each pick the Rust core asks its host who cools down, and gets our answer as well: whoever rests here is left
out as long as somebody is left, and so is an order tier of which the request has tried everybody. All else that speaks
against a deployment (tried, being probed, full) is for the choice, which comes after the core's filters.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fast_router.engine.deployment import OPERATOR, RESTING
from fast_router.litellm_plugin import request as running
from fast_router.litellm_plugin.rests import apart
from fast_router.litellm_plugin.rests.store import BOUND, seconds_left
from fast_router.litellm_plugin.rust_core import cooldown_reads
from fast_router.litellm_plugin.rust_core.cooldown_reads import PREFIX, SUFFIX, ids_of
from fast_router.litellm_plugin.rust_core.redis_handles import shares_redis
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from fast_router.engine import Deployment, Engine
    from fast_router.engine.failover.ledger import AttemptLedger
    from fast_router.litellm_plugin.bands.rust.band import RustBand
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["NativeRests", "all_cooling", "as_answered", "attach", "cooling", "heed_holds", "install"]

# What the core is told about a deployment that is held for a reason without a deadline; it asks again at every pick.
_FOR_NOW = 1.0


class NativeRests:
    """Cooldowns in LiteLLM's native store.

    Args:
        core: The Router's core.
    """

    def __init__(self, core: Any) -> None:
        self._core = core

    @property
    def _store(self) -> Any:
        return self._core._cooldowns.cooldown_store

    def read(self, deployment_id: str) -> Mapping[str, Any] | None:
        """As of `RestStore`."""
        found = self._store.snapshot().get(f"{PREFIX}{deployment_id}{SUFFIX}")
        return found if isinstance(found, Mapping) else None

    def write(self, deployment_id: str, seconds: float, status: int, reason: str) -> None:
        """As of `RestStore`."""
        self._core._cooldowns.add_deployment_to_cooldown(deployment_id, RuntimeError(reason), status, seconds)

    def clear(self, deployment_id: str) -> None:
        """As of `RestStore`; the native store forgets in memory only, so Redis is told by way of the cache."""
        self._store.evict_local(deployment_id)
        if self._store.has_redis:
            self._core._cache.delete_cache(f"{PREFIX}{deployment_id}{SUFFIX}")


class Bound(Protocol):
    """What stands behind a Router, as far as its rests go; `binding.RustBinding` is it."""

    engine: Engine
    core: weakref.ref[Any]
    ordered: bool

    def refresh(self, core: Any) -> None:
        """Read the deployments anew if the core's registry has changed."""


# -- LiteLLM's cooldowns into ours ---------------------------------------------------------------------------


def attach(binding: Bound, core: Any) -> None:
    """Take over what cools down in `core` now, and hear of what will."""
    store = core._cooldowns.cooldown_store
    vars(store)[BOUND] = weakref.ref(binding)
    for key, value in store.snapshot().items():
        if key.startswith(PREFIX) and key.endswith(SUFFIX):
            _rest(binding, key[len(PREFIX) : -len(SUFFIX)], value)


def _rest(binding: Bound, deployment_id: str, value: object) -> None:
    seconds = seconds_left(value)
    if seconds is None or seconds <= 0:
        return
    core = binding.core()
    if core is not None and deployment_id not in binding.engine.deployments:
        binding.refresh(core)
    deployment = binding.engine.deployments.get(deployment_id)
    if deployment is not None:
        binding.engine.rest(deployment, seconds)


def _binding_of(store: Any) -> Bound | None:
    reference = vars(store).get(BOUND)
    found: Bound | None = None if reference is None else reference()
    return found


def _charged(binding: Bound, deployment_id: str) -> None:
    """Note that a request's charge has brought about a rest: it ends if the charge is taken back."""
    ledger = running.ledger.get()
    failover, deployment = getattr(ledger, "failover", None), binding.engine.deployments.get(deployment_id)
    if ledger is not None and failover is not None and deployment is not None:
        failover.policy.charged(ledger.case, deployment)


def _shorter(store: Any, deployment_id: Any, ttl: Any) -> bool:
    """Tell whether a cooldown would end before one that holds already: a second one never shortens the first."""
    found = store.snapshot().get(f"{PREFIX}{deployment_id}{SUFFIX}")
    left = seconds_left(found)
    return left is not None and left > 0 and left >= float(ttl)


def _heard(store: Any, deployment_id: Any, value: Any) -> None:
    try:
        binding = _binding_of(store)
        if binding is not None:
            _rest(binding, str(deployment_id), value)
            _charged(binding, str(deployment_id))
    except Exception as error:  # noqa: BLE001 - LiteLLM's own cooldown stands
        tally.failed(error, "a cooldown")


def _permitted(deployment_id: Any, value: Any, ttl: Any) -> tuple[Any, Any] | None:
    """A cooldown as far as the evidence goes, and its seconds; None if too little speaks for it."""
    permit = running.aside().permits
    seconds = ttl if permit is None else permit(str(deployment_id), float(ttl))
    if seconds is None:
        return None
    return ({**value, "cooldown_time": seconds}, seconds) if seconds < ttl else (value, ttl)


def _stays_here(store: Any, deployment_id: Any) -> bool:
    """Tell whether a rest is told to nobody: the native store would tell all who share its Redis."""
    binding = _binding_of(store)
    return shares_redis(store) and binding is not None and binding.engine.untold(str(deployment_id))


def _put_apart(store: Any, deployment_id: Any, value: Any, ttl: Any) -> None:
    """Note a cooldown of our arm of a rollout: LiteLLM's own arm does not hear of it."""
    left = seconds_left(apart.kept(store, [deployment_id])[0])
    if left is not None and left >= float(ttl):
        return
    apart.keep(store, str(deployment_id), value, float(ttl))
    _heard(store, deployment_id, value)


def as_answered(core: Any, ids: Sequence[str], answers: Any) -> Any:
    """LiteLLM's answer to who cools down; in our arm of a rollout what that has found out itself."""
    return apart.kept(core._cooldowns.cooldown_store, ids) if apart.kept_apart() else answers


def _put(original: Any) -> Any:
    def put(self: Any, model_id: Any, value: Any, ttl: Any) -> Any:
        permitted = _permitted(model_id, value, ttl)
        if permitted is None:
            return None
        value, ttl = permitted
        if apart.kept_apart():
            return _put_apart(self, model_id, value, ttl)
        if _shorter(self, model_id, ttl):
            return None
        result = None if _stays_here(self, model_id) else original(self, model_id, value, ttl)
        _heard(self, model_id, value)
        return result

    return put


def _async_put(original: Any) -> Any:
    async def async_put(self: Any, model_id: Any, value: Any, ttl: Any) -> Any:
        permitted = _permitted(model_id, value, ttl)
        if permitted is None:
            return None
        value, ttl = permitted
        if apart.kept_apart():
            return _put_apart(self, model_id, value, ttl)
        if _shorter(self, model_id, ttl):
            return None
        if _stays_here(self, model_id):
            _heard(self, model_id, value)
            return None
        writing = original(self, model_id, value, ttl)
        if not self.has_redis:
            await writing
        _heard(self, model_id, value)
        # With Redis it takes a while, and the next pick should know.
        return await writing if self.has_redis else None

    return async_put


# -- ours into the core's reads ------------------------------------------------------------------------------


def cooling(
    binding: Bound, ids: Sequence[str], answers: Any, ledger: AttemptLedger | None, *, tiers: bool
) -> Sequence[Any]:
    """Who cools down, as the core is to see it.

    Args:
        binding: Of the Router.
        ids: Whom the core asks about.
        answers: LiteLLM's own answer, aligned with `ids`.
        ledger: What the request has tried, None outside a request; where a group rests on the word of another
            caller, it asks anew.
        tiers: Whether an order tier of which the request has tried everybody may be left out.

    Returns:
        The answers, with ours where LiteLLM has none; LiteLLM's own if all would be left out.
    """
    if not isinstance(answers, (list, tuple)) or len(answers) != len(ids):
        return answers  # type: ignore[no-any-return]
    engine = binding.engine
    known = engine.deployments
    failover = getattr(ledger, "failover", None)
    if ledger is not None and failover is not None and failover.policy.disputed:
        # The core's fallbacks come here as well.
        for group in dict.fromkeys(known[id_].name for id_ in ids if id_ in known):
            failover.policy.appeal(group, ledger.caller())
    nobody = answers.count(None) == len(answers)
    if not nobody:
        for id_, value in zip(ids, answers, strict=True):
            # Another process's, which LiteLLM has just read from Redis.
            if value is not None and id_ in known and not known[id_].held & RESTING:
                _rest(binding, id_, value)
    engine.settle()
    tiers = tiers and binding.ordered and ledger is not None and bool(ledger.tried)
    if nobody and not tiers and not engine.anybody_timed:
        return answers
    open_ = [known.get(id_) for id_, value in zip(ids, answers, strict=True) if value is None]
    left_out = {deployment.id for deployment in open_ if deployment is not None and deployment.held & RESTING}
    if tiers and ledger is not None:
        left_out |= _tried_tiers([d for d in open_ if d is not None and d.id not in left_out], ledger)
    if not open_:
        # All rest: LiteLLM's error says when to come again, see `true_seconds`.
        return answers
    if not left_out or len(left_out) == len(open_):
        return answers
    now = engine.clock()
    return [_cooldown(known[id_], now) if id_ in left_out else value for id_, value in zip(ids, answers, strict=True)]


def all_cooling(
    binding: Bound, ids: Sequence[str], answers: Sequence[Any], left_alone: Container[str]
) -> Sequence[Any]:
    """Say of those whom a request leaves alone that they cool down, rest or not; the others' answers stand."""
    now, known = binding.engine.clock(), binding.engine.deployments
    return [
        _cooldown(known[id_], now) if value is None and id_ in left_alone else value
        for id_, value in zip(ids, answers, strict=True)
    ]


def _tried_tiers(candidates: Sequence[Deployment], ledger: AttemptLedger) -> set[str]:
    """Whom to pass over: the lowest order tiers of which everybody was tried, unless that would be all there are."""
    tiers: dict[int | None, list[Deployment]] = {}
    for deployment in candidates:
        tiers.setdefault(deployment.order, []).append(deployment)
    passed: set[str] = set()
    for order in sorted(tiers, key=lambda order: (order is None, order or 0)):
        members = tiers[order]
        if any(ledger.knows(member.id) is None for member in members):
            return passed
        passed.update(member.id for member in members)
    return set()


def _failure_error(original: Any) -> Any:
    def _failure_error(self: Any, step: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        error = original(self, step, model, *args, **kwargs)
        try:
            if type(error).__name__ == "RouterRateLimitError":
                _true_seconds(self, model, error)
        except Exception as ours:  # noqa: BLE001 - LiteLLM's own number stands
            tally.failed(ours, "the time until the first deployment is back")
        return error

    return _failure_error


def _true_seconds(core: Any, model: Any, error: Any) -> None:
    """Have an error say when the first deployment is back, instead of how long a cooldown is."""
    registry, store = core.registry(), NativeRests(core)
    left = [seconds_left(store.read(id_)) for id_ in registry.names(str(registry.resolve(model)), kind="ids")]
    known = [seconds for seconds in left if seconds is not None]
    if not known:
        return
    # A tenth is as exact as a message needs to be; 0 would say that nothing rests.
    told, error.cooldown_time = error.cooldown_time, max(0.1, round(min(known), 1))
    text = str(error.args[0]).replace(f"in {told} seconds", f"in {error.cooldown_time} seconds", 1)
    error.args = (text, *error.args[1:])


def _cooldown(deployment: Deployment, now: float) -> dict[str, Any]:
    left = deployment.resting_until - now if deployment.held & RESTING else _FOR_NOW
    return {
        "exception_received": "rests (fast_router)",
        "status_code": "503",
        "timestamp": time.time(),
        "cooldown_time": max(_FOR_NOW, left),
    }


def heed_holds(patches: PatchSet, band: RustBand, alone: Callable[[], bool]) -> None:
    """Say of whoever is held by its operator that it cools down, to the core's own picks, unless that would be all."""

    def held(core: Any, step: Mapping[str, Any], answers: Any) -> Any:
        ids = ids_of(step) if alone() else None
        if ids is None or not isinstance(answers, (list, tuple)):
            return answers
        try:
            engine = band.keeper.binding(core).engine
            engine.settle()
            known, now = engine.deployments, engine.clock()
            away = [
                value is None and id_ in known and bool(known[id_].held & OPERATOR)
                for id_, value in zip(ids, answers, strict=True)
            ]
            if sum(away) == sum(value is None for value in answers):
                return answers
            return [
                _cooldown(known[id_], now) if is_ else value for id_, value, is_ in zip(ids, answers, away, strict=True)
            ]
        except Exception as error:  # noqa: BLE001 - LiteLLM's own answer stands
            tally.failed(error, "whom an operator holds")
            return answers

    def make(ours: Any) -> Any:
        async def _answer_cache(self: Any, step: Any) -> Any:
            return held(self, step, await ours(self, step))

        return _answer_cache

    def make_sync(ours: Any) -> Any:
        def _answer_cache_sync(self: Any, step: Any) -> Any:
            return held(self, step, ours(self, step))

        return _answer_cache_sync

    patches.replace(band.core, "_answer_cache", make)
    patches.replace(band.core, "_answer_cache_sync", make_sync)


def install(patches: PatchSet, band: RustBand) -> list[str]:
    """Hear of every cooldown that LiteLLM sets."""
    from litellm.redis.stores.router_cooldowns import RouterCooldownStore  # noqa: PLC0415 - LiteLLM is imported

    cooldown_reads.install(patches, band)
    patches.replace(band.core, "_failure_error", _failure_error)
    patches.replace(RouterCooldownStore, "put", _put)
    patches.replace(RouterCooldownStore, "async_put", _async_put)
    return ["cooldowns"]
