"""Prometheus metrics, read from the live numbers when somebody scrapes: nothing is counted twice, no pick pays.

For all processes of this user on one address: the option `metrics`, or `fast-router metrics --port 9464` beside them.
For one program, in its own registry:

    import fast_router
    fast_router.observe.metrics.register()          # into prometheus_client's default registry

Labels are `worker` (process id), `model`, `server` and `id` as everywhere. LiteLLM's multiprocess mode
(`PROMETHEUS_MULTIPROC_DIR`) leaves collectors like this one out of its own /metrics; it has no say on our address.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fast_router.observe.families import EDGES, Family, families

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import CollectorRegistry

__all__ = ["RouterCollector", "register", "serve"]


class RouterCollector:
    """A prometheus_client collector.

    Args:
        everybody: Ask every process of this user; else this process alone.
    """

    def __init__(self, *, everybody: bool = False) -> None:
        self._everybody = everybody

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry that wants to know beforehand would have to scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """One family per number; called by prometheus_client at each scrape."""
        merged: dict[str, Family] = {}
        for family in self._families():
            known = merged.setdefault(family["name"], {**family, "samples": []})
            known["samples"] += family["samples"]
        for family in merged.values():
            yield _metric(family)

    def _families(self) -> Iterator[Family]:
        if not self._everybody:
            yield from families()
            return
        from fast_router.observe import asking  # noqa: PLC0415 - it starts no socket by itself

        answers = asking.ask_all({"do": "metrics"})
        silent = sum(1 for each in answers if "families" not in each)
        for answer in answers:
            yield from answer.get("families") or ()
        count = {"labels": [], "help": "Processes that answered.", "kind": "gauge"}
        yield {**count, "name": "fast_router_workers", "samples": [[[], len(answers) - silent]]}
        yield {
            **count,
            "name": "fast_router_workers_silent",
            "help": "Processes that are there and did not answer.",
            "samples": [[[], silent]],
        }


def _metric(family: Family) -> Any:
    from prometheus_client.core import (  # noqa: PLC0415 - an extra
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    metric: Any = kinds[family["kind"]](family["name"], family["help"], labels=family["labels"])
    for labels, value in family["samples"]:
        if family["kind"] == "histogram":
            counts, total = value
            edges = [*map(str, EDGES), "+Inf"]
            metric.add_metric(labels, list(zip(edges, counts, strict=True)), total)
        else:
            metric.add_metric(labels, value)
    return metric


_registered: weakref.WeakKeyDictionary[Any, RouterCollector] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def register(registry: CollectorRegistry | None = None) -> RouterCollector:
    """Register this process's collector and return it; again is the same as once.

    Args:
        registry: Where; prometheus_client's default registry if not given.

    Raises:
        ConfigurationError: prometheus_client is not installed; the message says what to install.
    """
    target = registry or _client().REGISTRY
    with _lock:
        found = _registered.get(target)
        if found is None:
            found = RouterCollector()
            target.register(found)
            _registered[target] = found
        return found


def serve(port: int, address: str = "127.0.0.1") -> tuple[Any, threading.Thread]:
    """Answer Prometheus for every process of this user, from a thread.

    Args:
        port: Where; 0 takes a free one.
        address: Where.

    Returns:
        prometheus_client's server and its thread.

    Raises:
        ConfigurationError: prometheus_client is not installed.
        OSError: The port is taken, or not to be had.
    """
    client = _client()
    registry = client.CollectorRegistry()
    registry.register(RouterCollector(everybody=True))
    server, thread = client.start_http_server(port, addr=address, registry=registry)
    return server, thread


def _client() -> Any:
    try:
        import prometheus_client  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        from fast_router import extras  # noqa: PLC0415 - as above
        from fast_router.errors import ConfigurationError  # noqa: PLC0415 - as above

        raise ConfigurationError(extras.needs("Prometheus's metrics", error.name)) from None
    return prometheus_client
