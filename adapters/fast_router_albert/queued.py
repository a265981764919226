"""Celery routing behind `ModelRouter`: a routing worker chooses, and its reservation lives as long as the call.

Nothing of Celery's is imported before a configuration enables it. Whenever no worker answers, the engine picks.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

from fast_router import extras, settings

if TYPE_CHECKING:
    from fast_router.celery_routing.grant import Grant
    from fast_router.celery_routing.routing import CeleryRouting
    from fast_router.celery_routing.settings import Candidate
    from fast_router.engine import Deployment, Lease
    from fast_router.router import AdvancedRouter

    from .config import AlbertConfig

__all__ = ["Queue", "QueuedLease", "queue_for"]

logger = logging.getLogger("fast_router.albert")


class QueuedLease:
    """The lease of a call whose provider a worker chose: the engine's count and the fleet's reservation in one.

    Args:
        lease: The engine's.
        grant: The worker's.
    """

    __slots__ = ("__weakref__", "_grant", "_lease")

    def __init__(self, lease: Lease, grant: Grant) -> None:
        self._lease = lease
        self._grant = grant

    @property
    def id(self) -> str:
        """The deployment's id."""
        return self._lease.id

    @property
    def open(self) -> bool:
        """True until released."""
        return self._lease.open

    def first_token(self) -> None:
        """The first token has arrived; only the first call counts."""
        self._lease.first_token()
        self._grant.first_token()

    def release(
        self,
        error: BaseException | None = None,
        *,
        completion_tokens: float = 0,
        total_tokens: float = 0,
        cancelled: bool = False,
    ) -> bool:
        """Give both back; True for the first call."""
        self._grant.release(error, completion_tokens=completion_tokens, cancelled=cancelled)
        return self._lease.release(
            error, completion_tokens=completion_tokens, total_tokens=total_tokens, cancelled=cancelled
        )

    def abandon(self) -> None:
        """Give both back from a finaliser."""
        self._grant.release(cancelled=True)
        self._lease.abandon()


class Queue:
    """Asks the workers on behalf of the models of one registry.

    Args:
        routing: Whom to ask.
        engine: The registry's engine, which counts what they grant.
        owned: True if `routing` ends with the registry.
    """

    def __init__(self, routing: CeleryRouting, engine: AdvancedRouter, *, owned: bool) -> None:
        self.routing = routing
        self.owned = owned
        self._router = engine

    async def ask(self, model: str, among: Collection[str], priority: int) -> QueuedLease | None:
        """The lease on the provider that a worker chose; None: pick here.

        Raises:
            ModelBusyError: All providers were at their limit, at every retry (503).
            RoutingTimeoutError: They still were when the time limit was over (504).
        """
        asked = self._candidates(model, among)
        grant = await self.routing.decide(model, _described(asked), priority=priority, strategy=self._strategy(model))
        return self._lease(grant)

    def ask_here(self, model: str, among: Collection[str], priority: int) -> QueuedLease | None:
        """`ask` for synchronous callers; None as well on an event loop, which may not wait."""
        if not self.routing.may_block():
            return None
        asked = self._candidates(model, among)
        return self._lease(
            self.routing.decide_sync(model, _described(asked), priority=priority, strategy=self._strategy(model))
        )

    def _strategy(self, model: str) -> str:
        return self._router.group(model).strategy

    def _candidates(self, model: str, among: Collection[str]) -> list[Deployment]:
        self._router.engine.settle()
        self.routing.follow(self._router.engine)
        return [d for d in self._router.group(model).members if not d.held and d.id in among]

    def _lease(self, grant: Grant | None) -> QueuedLease | None:
        if grant is None:
            return None
        deployment = self._router.deployments.get(str(grant))
        if deployment is None:  # the configuration changed meanwhile
            grant.release(cancelled=True)
            return None
        return QueuedLease(self._router.engine.acquire_deployment(deployment), grant)


def _described(asked: list[Deployment]) -> list[Candidate]:
    from fast_router.celery_routing.process import candidates_of  # noqa: PLC0415

    return candidates_of(asked)


def queue_for(config: AlbertConfig, engine: AdvancedRouter, former: Queue | None = None) -> Queue | None:
    """The queue of a registry, None if neither our own settings nor the file enables Celery.

    Our settings win over the file: `routing: local` there switches a file's Celery off.

    Args:
        config: The registry's configuration.
        engine: The registry's engine.
        former: The queue so far, kept if nothing about it has changed.

    Raises:
        ConfigurationError: Celery is enabled with wrong settings.
    """
    options = settings.current()
    chosen = config.routing_settings()
    if options.routing != "celery" and (not chosen or "routing" in settings.sources()):
        return None
    try:
        from fast_router.celery_routing.process import process_routing  # noqa: PLC0415
        from fast_router.celery_routing.routing import CeleryRouting  # noqa: PLC0415
        from fast_router_albert.celery_options import settings_of  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        logger.warning(
            "%s; until then every process picks for itself",
            extras.needs(f"{config.source}: Celery routing", error.name, "celery"),
        )
        return None
    wanted = settings_of(config)
    shared = process_routing()
    if former is not None and former.routing.settings == wanted:
        return former
    if shared is not None and shared.settings == wanted:
        return Queue(shared, engine, owned=False)
    return Queue(CeleryRouting(wanted), engine, owned=True)
