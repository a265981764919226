"""`fast-router simulate`: strategies compared on your own fleet, in simulated time."""

from fast_router.cli.simulate.command import simulate

__all__ = ["simulate"]
