"""What our engine knows, in the form in which LiteLLM's strategies keep it: for their own choices after us.

Written when the plugin goes, and whenever one of them chooses by itself while it is on. What a strategy would have
noted by itself is put in its place: the last samples of latency, the use of this minute, the calls in flight.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from fast_router.litellm_plugin.picks.replaced_selectors import Replaced, replaced
from fast_router.litellm_plugin.tally import tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fast_router.engine import Deployment, ModelGroup
    from fast_router.litellm_plugin.picks.binding import Binding

__all__ = ["HandBack"]

_IN_FLIGHT_TTL = 60 * 60
_MINUTE_TTL = 60


class HandBack:
    """Writes to the cache of one of LiteLLM's strategy objects.

    Args:
        kinds: Class of strategy object → our strategy's name. Others are left alone.
        latency_word: Under which key a version keeps its samples of latency.
        local_now: The time by which LiteLLM names the minutes of its maps.
        utc_now: The time by which it names those of its counters.
    """

    def __init__(
        self,
        kinds: dict[type, str],
        latency_word: str = "latency",
        local_now: Callable[[], datetime] = datetime.now,
        utc_now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._kinds = kinds
        self._latency = latency_word
        self._local_now = local_now
        self._utc_now = utc_now
        self._ways: dict[str, Callable[[Any, Replaced, Binding], None]] = {
            "least_busy": self._least_busy,
            "latency_based": self._latencies,
            "cost_based": self._costs,
            "usage_based": self._usage,
        }

    def __call__(self, selector: Any) -> None:
        """Write everything that `selector` would know by now; an error of ours is counted and goes no further."""
        try:
            note = replaced(selector)
            binding = None if note is None else note.binding()
            strategy = self._kinds.get(type(selector))
            if note is None or binding is None or strategy is None or selector.router_cache.redis_cache is not None:
                return
            binding.engine.settle()
            with binding.engine.lock:
                self._ways[strategy](selector, note, binding)
        except Exception as error:  # noqa: BLE001 - LiteLLM goes on with what it has
            tally.failed(error, "handing a strategy its figures back")

    @staticmethod
    def _groups(binding: Binding, strategy: str) -> Iterator[tuple[str, ModelGroup]]:
        for plan in binding.compiled():
            if plan.group is not None and plan.group.strategy == strategy:
                yield plan.model, plan.group

    def _minute(self) -> str:
        return self._local_now().strftime("%Y-%m-%d-%H-%M")

    @staticmethod
    def _used(member: Deployment) -> dict[str, float]:
        return {"tpm": int(member.minute_tokens), "rpm": int(member.minute_requests)}

    def _latencies(self, selector: Any, _: Replaced, binding: Binding) -> None:
        minute = self._minute()
        most = selector.routing_args.max_latency_list_size
        for model, group in self._groups(binding, "latency_based"):
            key = f"{model}_map"
            known = selector.router_cache.get_cache(key=key, local_only=True) or {}
            for member in group.members:
                if member.latencies or member.first_tokens:
                    entry = known.setdefault(member.id, {})
                    entry[self._latency] = list(member.latencies[-most:])
                    if member.first_tokens:
                        entry["time_to_first_token_seconds"] = list(member.first_tokens[-most:])
                    entry[minute] = self._used(member)
            if known:
                selector.router_cache.set_cache(key=key, value=known, ttl=selector.routing_args.ttl)

    def _costs(self, selector: Any, _: Replaced, binding: Binding) -> None:
        minute = self._minute()
        for model, group in self._groups(binding, "cost_based"):
            key = f"cost_map:{model}"
            known = selector.router_cache.get_cache(key=key, local_only=True) or {}
            for member in group.members:
                if member.successes:
                    known.setdefault(member.id, {})[minute] = self._used(member)
            if known:
                selector.router_cache.set_cache(key=key, value=known)

    def _usage(self, selector: Any, _: Replaced, binding: Binding) -> None:
        minute = self._utc_now().strftime("%H-%M")
        for _model, group in self._groups(binding, "usage_based"):
            for member in group.members:
                if member.minute_tokens:
                    model = (member.entry.get("litellm_params") or {}).get("model")
                    key = f"{member.id}:{model}:tpm:{minute}"
                    selector.router_cache.set_cache(
                        key=key, value=int(member.minute_tokens), local_only=True, ttl=_MINUTE_TTL
                    )

    def _least_busy(self, selector: Any, note: Replaced, binding: Binding) -> None:
        with note.lock:
            calls = dict(note.calls)
        kept = selector.router_cache.in_memory_cache.cache_dict
        for model, group in self._groups(binding, "least_busy"):
            for member in group.members:
                key = f"{model}_request_count:{member.id}"
                # A call that was given up ends without LiteLLM saying so; one that was picked may not have begun.
                count = min(calls.get((model, member.id), 0), member.in_flight)
                if count or key in kept:
                    selector.router_cache.set_cache(key=key, value=count, local_only=True, ttl=_IN_FLIGHT_TTL)
