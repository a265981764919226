"""The picks: which deployment takes the next attempt, and what is counted about it.

Standard library only. Nothing here knows LiteLLM, HTTP, Redis or asyncio; the clock and the source
of chance are handed in. Everything is safe from several threads: one lock guards an `Engine`.
"""

from __future__ import annotations

from fast_router.engine.ask import Ask
from fast_router.engine.deployment import Deployment
from fast_router.engine.engine import Engine
from fast_router.engine.group import ModelGroup
from fast_router.engine.lease import Lease
from fast_router.engine.strategies import canonical, known_strategies, register_strategy, strategy_class
from fast_router.engine.strategies.base import Strategy

__all__ = [
    "Ask",
    "Deployment",
    "Engine",
    "Lease",
    "ModelGroup",
    "Strategy",
    "canonical",
    "known_strategies",
    "register_strategy",
    "strategy_class",
]
