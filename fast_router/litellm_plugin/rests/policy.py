"""The failover policy of one `litellm.Router`: our breakers beside LiteLLM's cooldowns.

LiteLLM's rules stay LiteLLM's: what rests by its `allowed_fails`, `allowed_fails_policy`, rate limits, refused
keys and error rate is decided by its own code, and our breakers take those rests over. What LiteLLM never rests is
decided here: dead hosts, timeouts and failures in a row. Both are written to LiteLLM's cooldown store, so that
every way to pick, its own included, and every process that shares its Redis sees the same.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from fast_router import settings
from fast_router.deployment_options import options_of
from fast_router.engine.deployment import RESTING
from fast_router.engine.failover.breaker import BreakerOptions, BreakerState, Change
from fast_router.engine.failover.budgets import BudgetOptions
from fast_router.engine.failover.failures import FailureKind
from fast_router.engine.failover.outliers import OutlierOptions
from fast_router.engine.failover.policy import EjectionOptions, FailoverPolicy
from fast_router.engine.failover.retry_after import retry_after_from_error
from fast_router.engine.failover.silence import OpenCall, SilenceOptions
from fast_router.litellm_plugin.picks.binding import bind
from fast_router.litellm_plugin.picks.reasons import may_leave_one
from fast_router.litellm_plugin.request import aside, set_aside
from fast_router.litellm_plugin.rests.health_probes import HealthMonitor
from fast_router.litellm_plugin.router_state import given_now, given_to
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fast_router.engine import Deployment, Lease
    from fast_router.engine.failover.hedging import HedgeOptions, HedgePolicy
    from fast_router.litellm_plugin.bands.methods import Band
    from fast_router.litellm_plugin.request import Failover

__all__ = ["LiteLLMFailover", "explicit_allowed_fails", "note_allowed_fails", "on_silent", "policy_of"]

on_silent: list[Callable[[LiteLLMFailover, Deployment, Callable[[Lease], bool]], None]] = []
"""Called with a deployment that has fallen silent, and which of its leases wait; see `FailoverPolicy`."""

# Hedging that is kept for names which are not the model list's.
_FOREIGN_NAMES = 32
# What a Router retries where nothing is said (the openai package's own number).
_LITELLMS_RETRIES = 2
# Breaker options that `model_info: {fast_router: {…}}` may set for one deployment.
_PER_DEPLOYMENT = {
    "breaker_connection_errors": "consecutive",
    "breaker_server_errors": "consecutive_server",
    "breaker_growth": "growth",
    "breaker_max_cooldown": "max_cooldown",
    "breaker_probe_timeout": "probe_timeout",
    "breaker_slow_start": "slow_start",
}


def policy_of(core: Any, band: Band) -> Failover:
    """Give the failover of a Router's core, made at its first use."""
    binding = bind(core, band)
    found = binding.failover
    if found is None:
        with binding.lock:
            found = binding.failover
            if found is None:
                found = binding.failover = LiteLLMFailover(core, band)
    return found


def explicit_allowed_fails(core: Any) -> bool:
    """Tell whether the user set the Router's `allowed_fails`, be it to LiteLLM's default value."""
    given = given_now(core)
    return given is not None and given.allowed_fails


def note_allowed_fails(core: Any, arguments: Mapping[str, Any]) -> None:
    """Remember that the user set `allowed_fails` (a Router keeps only the value, which may be the default)."""
    if arguments.get("allowed_fails") is not None:
        given_to(core).allowed_fails = True


class LiteLLMFailover:
    """One Router's breakers, tied to its settings and its cooldown store.

    Attributes:
        policy: The engine's side.
        hedges: Each model's hedging, with the options that it was made with.
        health: The active probes.
    """

    def __init__(self, core: Any, band: Band) -> None:
        self._core = weakref.ref(core)
        self._band = band
        self._router = bind(core, band).router
        options = settings.current()
        self._writing = False
        self.policy = FailoverPolicy(
            self._router.engine,
            self.members,
            options=self._options,
            ejection=EjectionOptions(options.breaker_max_share, options.breaker_panic),
            budget=BudgetOptions(options.retry_budget_ratio, options.retry_budget_per_second),
            outliers=OutlierOptions(interval=options.outlier_interval) if options.outlier_interval else None,
            silence=SilenceOptions(options.breaker_silence) if options.breaker_silence else None,
            calls=_open_calls,
            decides=self._decides,
            filtered=self._filtered,
            retry_after=self._retry_after,
            why=self._why,
            on_silent=self._silent,
            on_change=self._changed,
        )
        self._router.failover = self.policy
        self.hedges: dict[str, tuple[HedgeOptions, HedgePolicy]] = {}
        self.health = HealthMonitor(self)
        self.health.start()

    def make_room(self, model: str) -> None:
        """Forget the hedging of an older name, if `model` is one more that nobody configured, as under a `*`."""
        groups = self._router.groups
        if model not in groups:
            foreign = [name for name in self.hedges if name not in groups]
            for name in foreign[: max(0, len(foreign) + 1 - _FOREIGN_NAMES)]:
                self.hedges.pop(name, None)

    # What the policy asks.

    def members(self, deployment: Deployment) -> Sequence[Deployment]:
        """Give the group that a deployment belongs to."""
        group = self._router.groups.get(deployment.name)
        if group is not None and deployment in group.members:
            return group.members
        # A group of another name (alias, routing group, wildcard): its tiers know their members.
        found = {member: None for strategy in deployment.strategies for member in strategy.members}
        return tuple(found) or (deployment,)

    def _options(self, deployment: Deployment) -> BreakerOptions:
        current = settings.current()
        core = self._core()
        cooldown = _own_cooldown(deployment)
        if cooldown is None:
            cooldown = self._band.read(core, "cooldown_time", default=5.0) if core is not None else 5.0
        values: dict[str, Any] = {
            "consecutive": current.breaker_connection_errors,
            "consecutive_server": current.breaker_server_errors,
            "growth": current.breaker_growth,
            "max_cooldown": current.breaker_max_cooldown,
            "probe_timeout": current.breaker_probe_timeout,
            "slow_start": current.breaker_slow_start,
        }
        values.update({_PER_DEPLOYMENT[name]: value for name, value in options_of(deployment.entry).breaker.items()})
        allowed = self._allowed_fails(deployment)
        # Rates, rate limits, refused keys and missing models are LiteLLM's to judge.
        return BreakerOptions(
            cooldown=float(cooldown or 0.0),
            jitter=0.0,
            error_rate=1.0,
            immediate=frozenset(),
            allowed_fails=allowed,
            **values,
        )

    def knows(self, name: str) -> bool:
        """Tell whether deployments stand under that very name."""
        return name in self._router.groups

    def own_retries(self) -> int:
        """Give how often the Router itself lets a request be retried."""
        core = self._core()
        value = None if core is None else self._band.read(core, "num_retries", default=None)
        return value if isinstance(value, int) else _LITELLMS_RETRIES

    def _allowed_fails(self, deployment: Deployment) -> int | None:
        own = _info(deployment).get("allowed_fails")
        if own is not None:
            return int(own)
        core = self._core()
        if core is None or not _counts_fails(self._band, core):
            return None
        value = self._band.read(core, "allowed_fails", default=None)
        return None if value is None else int(value)

    def _decides(self, deployment: Deployment, _error: BaseException, kind: FailureKind) -> bool:
        core = self._core()
        if core is None or not settings.current().breaker:
            return False
        if self._band.read(core, "disable_cooldowns", default=False) or not self._options(deployment).cooldown:
            return False
        if deployment.id in (self._band.read(core, "provider_default_deployment_ids", default=()) or ()):
            return False
        info = _info(deployment)
        counted = (
            info.get("allowed_fails") is not None
            or info.get("allowed_fails_policy") is not None
            or _counts_fails(self._band, core)
        )
        # Where the user counts fails, LiteLLM counts them; it leaves out connection errors alone.
        return kind is FailureKind.CONNECTION if counted else True

    def _filtered(self, deployment: Deployment) -> bool:
        core = self._core()
        return core is not None and may_leave_one(self._band, core, [m.entry for m in self.members(deployment)])

    @staticmethod
    def _retry_after(deployment: Deployment, error: BaseException) -> float | None:
        # A deployment's own cooldown_time goes before any header, as in LiteLLM.
        return None if _own_cooldown(deployment) is not None else retry_after_from_error(error)

    def _why(self, deployment: Deployment) -> str:
        core = self._core()
        rests = None if core is None else self._band.keeper.rest_store(core)
        found = None if rests is None else rests.read(deployment.id)
        status = None if found is None else found.get("status_code")
        return "a cooldown" if status is None else f"LiteLLM's cooldown after status {status}"

    def retries_of(self, request: Mapping[str, Any], deployment: Deployment) -> int:
        """Give how often LiteLLM would retry a request after a timeout of a deployment."""
        core, params = self._core(), deployment.entry.get("litellm_params") or {}
        given = request.get("num_retries")
        for value in (given, params.get("num_retries")):
            if isinstance(value, int):
                break
        else:
            value = self.own_retries()
        policy = None if core is None or given == 0 else self._retry_policy(core, request, deployment.name)
        said = policy.get("TimeoutErrorRetries") if isinstance(policy, dict) else None
        return said if isinstance(said, int) else value

    def _retry_policy(self, core: Any, request: Mapping[str, Any], name: str) -> Any:
        of_groups = request.get("model_group_retry_policy") or self._band.read(
            core, "model_group_retry_policy", default=None
        )
        found = of_groups.get(name) if isinstance(of_groups, dict) else None
        if found is None:
            found = self._band.read(core, "retry_policy", default=None)
        return found if found is None or isinstance(found, dict) else vars(found)

    # What follows from a change.

    def _silent(self, deployment: Deployment, admits: Callable[[Lease], bool]) -> None:
        for told in on_silent:
            told(self, deployment, admits)

    def _changed(self, deployment: Deployment, change: Change) -> None:
        try:
            self._write(deployment, change)
        except Exception as error:  # noqa: BLE001 - LiteLLM's store is a copy: ours stands without it
            tally.failed(error, "writing a cooldown")
        self._router.changes.breaker(deployment, change, self.members(deployment))

    def _write(self, deployment: Deployment, change: Change) -> None:
        core = self._core()
        rests = None if core is None else self._band.keeper.rest_store(core)
        if rests is None or (change.new is BreakerState.HALF_OPEN and not change.early):
            return
        now = self._router.engine.clock()
        if change.new is BreakerState.OPEN:
            if not change.ordered and deployment.held & RESTING:
                status = 500 if change.failure is None else _STATUS.get(change.failure, 500)
                outer = aside()
                # What LiteLLM may make of a failure is no measure of our own rests, and stays in a context for a while.
                set_aside(outer._replace(permits=None))
                try:
                    rests.write(deployment.id, max(0.0, deployment.resting_until - now), status, change.reason)
                finally:
                    set_aside(outer)
        elif change.old is BreakerState.OPEN:
            # Back before its deadline: nobody else should hold it either.
            rests.clear(deployment.id)


def _open_calls(deployment: Deployment) -> Iterator[OpenCall]:
    for attempt in tuple(deployment.attempts):
        lease, ledger = attempt.lease, attempt.ledger
        # A request that could go nowhere else is not like those that others of the group have answered.
        if lease is not None and not attempt.foreign and not getattr(lease, "bound", False):
            voice = attempt if ledger is None else ledger.case.voice
            yield OpenCall(lease.started, lease.seconds_to_first_token is not None, voice)


_STATUS = {
    FailureKind.RATE_LIMIT: 429,
    FailureKind.AUTH: 401,
    FailureKind.NOT_FOUND: 404,
    FailureKind.TIMEOUT: 408,
}


def _info(deployment: Deployment) -> Mapping[str, Any]:
    info = deployment.entry.get("model_info")
    return info if isinstance(info, dict) else {}


def _own_cooldown(deployment: Deployment) -> float | None:
    """Give a deployment's own `cooldown_time` in seconds (model_info before litellm_params, as in LiteLLM)."""
    for source in (_info(deployment), deployment.entry.get("litellm_params")):
        value = source.get("cooldown_time") if isinstance(source, dict) else None
        if isinstance(value, (int, float)) and value >= 0:
            return float(value)
    return None


def _counts_fails(band: Band, core: Any) -> bool:
    """Tell whether the Router counts fails by its own rule rather than by rates."""
    import litellm  # noqa: PLC0415

    if band.read(core, "allowed_fails_policy", default=None) is not None:
        return True
    value = band.read(core, "allowed_fails", default=None)
    if value is None:
        return False
    given = band.read(core, "explicit_allowed_fails")
    if given is None and band.has("explicit_allowed_fails"):
        given = getattr(core, band.slot("explicit_allowed_fails"))
    explicit = explicit_allowed_fails(core) or given is not None
    return explicit or value != litellm.allowed_fails
