"""What operators look at: Prometheus metrics. The status is `fast_router.status()` and `fast-router status`."""
