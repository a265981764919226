"""What `enable` installs: a name, and the module that does it, imported only then."""

from __future__ import annotations

__all__ = ["FEATURES", "RUST_FEATURES"]


FEATURES = (
    ("attempts", "fast_router.litellm_plugin.layers.lease"),
    ("selection", "fast_router.litellm_plugin.picks.lanes"),
    ("cooldowns", "fast_router.litellm_plugin.rests.mirror"),
    ("operator_holds", "fast_router.litellm_plugin.rests.by_operator"),
    ("strategies", "fast_router.litellm_plugin.picks.strategies_by_name"),
    ("failover", "fast_router.litellm_plugin.layers.request_ledger"),
    ("admission", "fast_router.litellm_plugin.layers.quality_limits"),
    ("bookkeeping", "fast_router.litellm_plugin.overhead"),
    ("model_list", "fast_router.litellm_plugin.model_list.calls"),
    ("process_status", "fast_router.observe.process_status"),
    ("shared_state", "fast_router.litellm_plugin.fleet.shared_state"),
    ("celery_routing", "fast_router.litellm_plugin.layers.routing_worker_gate"),
)
"""What `enable` installs, in this order: a name, and a module with `install(patches, band)`."""


RUST_FEATURES = (
    ("attempts", "fast_router.litellm_plugin.bands.rust.attempts"),
    ("selection", "fast_router.litellm_plugin.bands.rust.steps"),
    ("cooldowns", "fast_router.litellm_plugin.bands.rust.rests"),
    ("strategies", "fast_router.litellm_plugin.bands.rust.strategies_by_name"),
    ("failover", "fast_router.litellm_plugin.bands.rust.failover"),
    ("admission", "fast_router.litellm_plugin.bands.rust.limits"),
    ("lane", "fast_router.litellm_plugin.bands.rust.lane"),
    ("bookkeeping", "fast_router.litellm_plugin.overhead"),
    ("model_list", "fast_router.litellm_plugin.model_list.calls"),
    ("process_status", "fast_router.observe.process_status"),
    ("shared_state", "fast_router.litellm_plugin.fleet.shared_state"),
)
"""The same for a LiteLLM whose core is not written in Python: it walks, we steer it."""
