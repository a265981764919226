"""For a LiteLLM whose routing code is unknown: nothing is patched, its public filter hook is used.

`CustomLogger.async_filter_deployments` lets a callback narrow the candidates of each request. Where that is
certainly safe, it is narrowed to one: the least busy of them, random among equals. Certainly safe means that no
later step of LiteLLM's could want one of the others: no order, no tags, no key in the request that changes the
candidates, no pre-call checks in any Router.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from fast_router.engine import Deployment
from fast_router.litellm_plugin.status import LOGGER, tally
from fast_router.router import AdvancedRouter

if TYPE_CHECKING:
    from fast_router.engine import Lease
    from fast_router.litellm_plugin.patching import PatchSet

__all__ = ["install"]

_OPEN = 10_000  # calls whose end is awaited; the oldest are given up beyond that
_DECIDING = frozenset(
    {
        "_target_order",
        "_excluded_deployment_ids",
        "_retry_skipped_deployment_ids",
        "_router_weights",
        "routing_strategy",
        "enable_tag_filtering",
    }
)


class _Narrower:
    """Picks for the callback, and counts by LiteLLM's success and failure events."""

    def __init__(self) -> None:
        self.router = AdvancedRouter("least_busy")
        self._open: OrderedDict[str, Lease] = OrderedDict()
        self._lock = Lock()

    def narrow(self, healthy: Sequence[Any], request_kwargs: Mapping[str, Any] | None) -> list[Any]:
        """One of `healthy`, or all of them where one would be too few for what comes after."""
        kwargs = request_kwargs or {}
        everybody = list(healthy)
        if len(everybody) < 2 or not _DECIDING.isdisjoint(kwargs) or not all(_plain(d) for d in everybody):
            return everybody
        engine = self.router.engine
        by_id = {str(entry["model_info"]["id"]): entry for entry in everybody}
        members = []
        with self._lock:
            for id_, entry in by_id.items():
                if id_ not in engine.deployments:
                    engine.deployments[id_] = Deployment(id_, str(entry.get("model_name")), entry)
                members.append(engine.deployments[id_])
        fewest = min(d.in_flight for d in members)
        idle = [d for d in members if d.in_flight == fewest]
        chosen = idle[int(engine.rng.random() * len(idle))]
        call_id = kwargs.get("litellm_call_id")
        if isinstance(call_id, str):
            self._begin(call_id, chosen)
        return [by_id[chosen.id]]

    def _begin(self, call_id: str, deployment: Deployment) -> None:
        lease = self.router.engine.acquire_deployment(deployment)
        with self._lock:
            # A retry under the same id: the former attempt is over.
            former = self._open.pop(call_id, None)
            self._open[call_id] = lease
            oldest = self._open.popitem(last=False)[1] if len(self._open) > _OPEN else None
        for ended in (former, oldest):
            if ended is not None:
                ended.release(cancelled=True)

    def ended(self, call_id: Any, error: BaseException | None) -> None:
        """A call has ended."""
        with self._lock:
            lease = self._open.pop(call_id, None) if isinstance(call_id, str) else None
        if lease is not None:
            lease.release(error)


def _plain(entry: Any) -> bool:
    if not isinstance(entry, dict) or "id" not in (entry.get("model_info") or {}):
        return False
    params, info = entry.get("litellm_params") or {}, entry.get("model_info") or {}
    keys = ("order", "tags", "tag_regex", "weight", "rpm", "tpm")
    return all(params.get(key) is None and info.get(key) is None for key in keys)


def _checks_before_calls(litellm: Any) -> bool:
    # Routers register bound methods for their own bookkeeping; that is how they can be found.
    owners = [getattr(callback, "__self__", None) for callback in litellm._async_success_callback]
    return any(getattr(owner, "enable_pre_call_checks", False) for owner in owners if owner is not None)


def _handler(litellm: Any, base: Any, narrower: _Narrower) -> Any:
    class FastRouterFilter(base):  # type: ignore[misc]
        """Narrows the candidates to our pick."""

        async def async_filter_deployments(
            self,
            model: Any,  # noqa: ARG002 - the signature is the base class's
            healthy_deployments: Any,
            messages: Any,  # noqa: ARG002
            request_kwargs: Any = None,
            parent_otel_span: Any = None,  # noqa: ARG002
        ) -> Any:
            try:
                if not isinstance(healthy_deployments, list) or _checks_before_calls(litellm):
                    return healthy_deployments
                narrowed = narrower.narrow(healthy_deployments, request_kwargs)
                tally.count(tally.filtered if len(narrowed) == 1 else tally.delegated, "unknown LiteLLM")
                return narrowed
            except Exception as error:  # noqa: BLE001 - LiteLLM goes on with its own candidates
                tally.failed(error, "the public filter")
                return healthy_deployments

        async def async_log_success_event(self, kwargs: Any, *_: Any) -> None:
            narrower.ended(kwargs.get("litellm_call_id"), None)

        async def async_log_failure_event(self, kwargs: Any, *_: Any) -> None:
            error = kwargs.get("exception")
            narrower.ended(kwargs.get("litellm_call_id"), error if isinstance(error, Exception) else None)

    return FastRouterFilter()


def install(patches: PatchSet, problem: str) -> list[str]:
    """Register the callback if LiteLLM has that hook; one warning says what is the matter and what to do."""
    import litellm  # noqa: PLC0415 - it is imported

    try:
        from litellm.integrations.custom_logger import CustomLogger  # noqa: PLC0415

        usable = hasattr(CustomLogger, "async_filter_deployments") and isinstance(litellm.callbacks, list)
    except ImportError:
        usable = False
    LOGGER.warning(
        "fast_router: %s. %s Upgrade fast-router, pin litellm to a supported version (1.83.14 to 1.109), or set "
        "FAST_ROUTER_ENABLED=0.",
        problem,
        "Only its public filter hook is used: fewest calls in flight, no failover."
        if usable
        else "LiteLLM is left as it is.",
    )
    if not usable:
        return []
    handler = _handler(litellm, CustomLogger, _Narrower())
    litellm.callbacks.append(handler)

    def undo() -> None:
        for callbacks in (
            litellm.callbacks,
            litellm.success_callback,
            litellm.failure_callback,
            litellm._async_success_callback,
            litellm._async_failure_callback,
        ):
            while handler in callbacks:
                callbacks.remove(handler)

    patches.on_restore(undo)
    return ["public hook"]
