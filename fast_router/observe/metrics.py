"""Prometheus metrics, read from the live numbers when somebody scrapes: nothing is counted twice, no pick pays.

    import fast_router
    fast_router.observe.metrics.register()          # into prometheus_client's default registry

In a LiteLLM proxy with its `prometheus` callback they then appear at its /metrics. Names follow Prometheus' rules
(base units, `_total`); labels are those of LiteLLM's own metrics (`requested_model`, `model_id`), so that dashboards
can join the two. With `PROMETHEUS_MULTIPROC_DIR` set, prometheus_client leaves collectors like this one out: scrape the
workers, or read `fast-router status`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fast_router.engine.deployment import RESTING

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import CollectorRegistry

    from fast_router.engine import Deployment

__all__ = ["RouterCollector", "register"]

_LABELS = ["router", "requested_model", "model_id"]


def _latency(deployment: Deployment) -> float | None:
    return deployment.latency


def _first_token(deployment: Deployment) -> float | None:
    return deployment.first_token


def _of_work(name: str) -> Callable[[Deployment], float | None]:
    """Read a number of what `cache_aware` knows; no sample where it does not pick."""

    def value(deployment: Deployment) -> float | None:
        return None if deployment.work is None else getattr(deployment.work, name)

    return value


# name, kind, help, value of a deployment (None: no sample)
_PER_DEPLOYMENT: tuple[tuple[str, str, str, Callable[[Deployment], float | None]], ...] = (
    ("fast_router_in_flight", "gauge", "Open leases: calls that run now.", lambda d: d.in_flight),
    (
        "fast_router_outside_load",
        "gauge",
        "Load known from other processes or the server, requests.",
        lambda d: d.outside,
    ),
    ("fast_router_picks", "counter", "Picks.", lambda d: d.picks),
    ("fast_router_successes", "counter", "Attempts that succeeded.", lambda d: d.successes),
    ("fast_router_failures", "counter", "Attempts that failed.", lambda d: d.failures),
    ("fast_router_eligible", "gauge", "1 if it may be picked now.", lambda d: 0 if d.held else 1),
    ("fast_router_resting", "gauge", "1 while in cooldown.", lambda d: 1 if d.held & RESTING else 0),
    ("fast_router_latency_seconds_per_token", "gauge", "Mean of the last ten attempts.", _latency),
    ("fast_router_first_token_seconds", "gauge", "Mean time to first token of the last ten streams.", _first_token),
    ("fast_router_prompt_tokens", "counter", "Prompt tokens sent (cache_aware).", _of_work("prompt_tokens")),
    (
        "fast_router_predicted_cached_tokens",
        "counter",
        "Prompt tokens sent that were expected to be cached (cache_aware).",
        _of_work("hit_tokens"),
    ),
    (
        "fast_router_reported_prompt_tokens",
        "counter",
        "Prompt tokens of answers that say what was cached (cache_aware).",
        _of_work("reported_total"),
    ),
    (
        "fast_router_reported_cached_tokens",
        "counter",
        "Prompt tokens that answers say were cached (cache_aware).",
        _of_work("reported_tokens"),
    ),
)


class RouterCollector:
    """A prometheus_client collector over every live `AdvancedRouter` of the process."""

    def collect(self) -> Iterator[Metric]:
        """One family per number; called by prometheus_client at each scrape."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

        from fast_router.litellm_plugin.report import status  # noqa: PLC0415
        from fast_router.router import live_routers  # noqa: PLC0415

        routers = live_routers()
        for router in routers:
            router.engine.settle()
        for name, kind, text, value in _PER_DEPLOYMENT:
            family: Any = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(name, text, labels=_LABELS)
            for router in routers:
                for model, group in list(router.groups.items()):
                    for deployment in group.members:
                        sample = value(deployment)
                        if sample is not None:
                            family.add_metric([str(router.number), model, deployment.id], sample)
            yield family
        picks = status()["picks"]
        lanes = CounterMetricFamily(
            "fast_router_lane_picks", "Picks of litellm.Router by lane and reason.", labels=["lane", "reason"]
        )
        lanes.add_metric(["fast", ""], picks["fast"])
        for lane in ("filtered", "delegated"):
            for reason, count in picks[f"{lane}_reasons"].items():
                lanes.add_metric([lane, reason], count)
        yield lanes


def register(registry: CollectorRegistry | None = None) -> RouterCollector:
    """Register the collector and return it.

    Args:
        registry: Where; prometheus_client's default registry if not given.

    Raises:
        ConfigurationError: prometheus_client is not installed; the message says what to install.
    """
    try:
        from prometheus_client import REGISTRY  # noqa: PLC0415
    except ModuleNotFoundError:
        from fast_router.errors import ConfigurationError  # noqa: PLC0415

        msg = "fast_router's metrics need prometheus-client: pip install 'fast-router[metrics]'"
        raise ConfigurationError(msg) from None
    collector = RouterCollector()
    (registry or REGISTRY).register(collector)
    return collector
