"""For a LiteLLM whose routing code is unknown: nothing is patched, its public filter hook is used.

`CustomLogger.async_filter_deployments` lets a callback narrow the candidates of each request. Where that is
certainly safe, it is narrowed to one: the least busy of them, random among equals. Certainly safe means that no
later step of LiteLLM's could want one of the others: no order, no tags, no key in the request that changes the
candidates, no pre-call checks in any Router. Where Routers cannot be seen (LiteLLM's Rust core registers nothing
that leads to them) nobody knows about the last, and the candidates stay as they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from fast_router.engine import Deployment
from fast_router.litellm_plugin.tally import LOGGER, tally
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

    def __init__(self, litellm: Any) -> None:
        self._litellm = litellm
        self.router = AdvancedRouter("least_busy")
        self._open: OrderedDict[str, Lease] = OrderedDict()
        self._lock = Lock()

    def _routers(self) -> list[Any]:
        # Routers register bound methods for their own bookkeeping; that is how they can be found.
        owners = (getattr(callback, "__self__", None) for callback in self._litellm._async_success_callback)
        return [owner for owner in owners if hasattr(owner, "enable_pre_call_checks")]

    def sees_routers(self) -> bool:
        """True if LiteLLM lets the Routers of this process be found."""
        return bool(self._routers())

    def may_narrow(self) -> bool:
        """True if certainly no Router checks deployments after the filters."""
        routers = self._routers()
        return bool(routers) and not any(router.enable_pre_call_checks for router in routers)

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
        name = next(_names(kwargs), None)
        if name is not None:
            self._begin(name, chosen)
        return [by_id[chosen.id]]

    def _begin(self, name: str, deployment: Deployment) -> None:
        lease = self.router.engine.acquire_deployment(deployment)
        with self._lock:
            # A retry under the same name: the former attempt is over.
            former = self._open.pop(name, None)
            self._open[name] = lease
            oldest = self._open.popitem(last=False)[1] if len(self._open) > _OPEN else None
        for ended in (former, oldest):
            if ended is not None:
                ended.release(cancelled=True)

    def ended(self, kwargs: Mapping[str, Any], error: BaseException | None) -> None:
        """A call has ended."""
        with self._lock:
            found = [self._open.pop(name) for name in _names(kwargs) if name in self._open]
        for lease in found:
            lease.release(error)


def _names(kwargs: Mapping[str, Any]) -> Iterator[str]:
    """What a call can be known by at its pick and at its end; a Router gives it a call id only within the call."""
    for key in ("litellm_call_id", "litellm_trace_id"):
        if isinstance(kwargs.get(key), str):
            yield kwargs[key]


def _plain(entry: Any) -> bool:
    if not isinstance(entry, dict) or "id" not in (entry.get("model_info") or {}):
        return False
    params, info = entry.get("litellm_params") or {}, entry.get("model_info") or {}
    keys = ("order", "tags", "tag_regex", "weight", "rpm", "tpm")
    return all(params.get(key) is None and info.get(key) is None for key in keys)


def _handler(base: Any, narrower: _Narrower) -> Any:
    class FastRouterFilter(base):  # type: ignore[misc]
        """Narrows the candidates to our pick."""

        def __init__(self) -> None:
            super().__init__()
            self.narrower = narrower

        async def async_filter_deployments(
            self,
            model: Any,  # noqa: ARG002 - the signature is the base class's
            healthy_deployments: Any,
            messages: Any,  # noqa: ARG002
            request_kwargs: Any = None,
            parent_otel_span: Any = None,  # noqa: ARG002
        ) -> Any:
            try:
                if not isinstance(healthy_deployments, list) or not narrower.may_narrow():
                    return healthy_deployments
                narrowed = narrower.narrow(healthy_deployments, request_kwargs)
                tally.count(tally.filtered if len(narrowed) == 1 else tally.delegated, "unknown LiteLLM")
                return narrowed
            except Exception as error:  # noqa: BLE001 - LiteLLM goes on with its own candidates
                tally.failed(error, "the public filter")
                return healthy_deployments

        # LiteLLM calls these by keyword: the names are the base class's.
        async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:  # noqa: ARG002
            narrower.ended(kwargs, None)

        async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:  # noqa: ARG002
            error = kwargs.get("exception")
            narrower.ended(kwargs, error if isinstance(error, Exception) else None)

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
        "fast_router: %s. %s Upgrade fast-router, pin litellm to a supported version (1.83.14 to 1.110), or set "
        "FAST_ROUTER_ENABLED=0.",
        problem,
        "Only its public filter hook is used, where that is certainly safe: fewest calls in flight, no failover."
        if usable
        else "LiteLLM is left as it is.",
    )
    if not usable:
        return []
    handler = _handler(CustomLogger, _Narrower(litellm))
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
