"""Real upstreams and real servers for tests, benchmarks and demonstrations.

`Upstream` is an OpenAI-compatible HTTP server on loopback whose latency, faults and width are orders that may
change while it runs; `Fleet` is several of them, on a thread or in a process of their own; `servers` starts a
private Redis or RabbitMQ. Nothing here is needed to route requests.
"""

from __future__ import annotations

from fast_router.testing.behaviour import Behaviour
from fast_router.testing.records import Records, Seen
from fast_router.testing.rules import Rule
from fast_router.testing.shapes import SHAPES
from fast_router.testing.upstream import Fleet, Spec, Upstream, UpstreamFace

__all__ = ["SHAPES", "Behaviour", "Fleet", "Records", "Rule", "Seen", "Spec", "Upstream", "UpstreamFace"]
