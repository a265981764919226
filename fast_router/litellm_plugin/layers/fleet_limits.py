"""Strict limits: each pick is admitted in Redis, where the whole fleet's limits are kept together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_router.cluster import state_of
from fast_router.cluster.shared_state import without_redis
from fast_router.cluster.shared_state.redis_link import redis_of
from fast_router.engine.deployment import SPENT
from fast_router.litellm_plugin.tally import tally
from fast_router.settings import current as settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fast_router.engine import Deployment, Lease, ModelGroup
    from fast_router.litellm_plugin.patching import PatchSet
    from fast_router.litellm_plugin.picks.binding import Binding

from fast_router.litellm_plugin.layers.stack import Around, Installed, Pick, plug
from fast_router.litellm_plugin.patching import PatchSet
from fast_router.litellm_plugin.request import here

__all__ = ["has_redis", "install", "is_spent", "note_alone", "too_many"]


def has_redis(core: Any) -> bool:
    """Whether a Router has a Redis to share over."""
    return bool(settings().redis_url) or redis_of(core) is not None


def install(patches: PatchSet) -> list[str]:
    """Have each pick admitted in Redis."""
    plug(patches, None, Around.PICK, "strict limits", Installed(lambda _binding, _core: True, _around))
    return ["strict limits"]


def note_alone(binding: Binding | None, core: Any) -> None:
    """Say that `limits: strict` has no Redis, if it has none."""
    if binding is not None and state_of(binding.router) is None and not has_redis(core):
        without_redis.note(binding.router)


def _around(inner: Pick, binding: Binding) -> Pick:
    async def admitted(lane: Any, core: Any, *args: Any) -> Any:
        state = state_of(binding.router)
        if state is None or state.limits is None:
            chosen = await inner(lane, core, *args)
            note_alone(binding, core)
            return chosen
        refusals = 0
        while True:
            try:
                chosen = await inner(lane, core, *args)
            except Exception:
                _count_refusal(binding, core, args, tried=bool(refusals))
                raise
            deployment, lease = _picked(binding, chosen)
            if deployment is None or lease is None:
                return chosen
            admission = await state.limits.admit([deployment])
            if admission is None:
                return chosen
            if admission.deployment is not None:
                state.limits.bind(admission, lease)
                return chosen
            _give_up(lease)
            state.limits.refused(deployment, admission.retry_after)
            refusals += 1
            if refusals > min(len(binding.engine.deployments), 10):
                tally.event("refused", args[0] if args else deployment.name)
                raise too_many(args[0] if args else deployment.name, admission.retry_after)

    return admitted


def is_spent(group: ModelGroup) -> bool:
    """Whether a group has nothing to pick, and a limit of its minute is a reason."""
    return all(member.held for member in group.members) and any(member.held & SPENT for member in group.members)


def _count_refusal(binding: Binding, core: Any, args: Sequence[Any], *, tried: bool) -> None:
    try:
        model = args[0]
        group = binding.plan_for(core, model).group
        if tried or (group is not None and is_spent(group)):
            tally.event("refused", model)
    except Exception as error:  # noqa: BLE001 - LiteLLM's error must reach the caller
        tally.failed(error, "the count of a refusal")


def _picked(binding: Binding, chosen: Any) -> tuple[Deployment | None, Lease | None]:
    """The deployment that LiteLLM or we picked, and the lease that the running attempt holds on it."""
    deployment = binding.known(chosen)
    attempt = here.get().attempt
    if attempt is None or deployment is None or attempt.lease is None:
        return deployment, None
    held = (attempt.lease, *(attempt.more or ()))
    return deployment, next((lease for lease in held if lease.deployment is deployment and lease.open), None)


def _give_up(lease: Lease) -> None:
    lease.release(cancelled=True)
    attempt = here.get().attempt
    if attempt is not None and attempt.lease is lease:
        lease.deployment.attempts.discard(attempt)
        attempt.lease = None


def too_many(model: object, retry_after: float | None) -> Exception:
    """The refusal as LiteLLM's error."""
    from litellm.exceptions import RateLimitError  # noqa: PLC0415

    when = f" Try again in {retry_after:.0f} seconds." if retry_after else ""
    error: Exception = RateLimitError(
        message=f"Every deployment of {model} is at its limit in the whole fleet.{when}",
        llm_provider="",
        model=str(model),
    )
    return error
