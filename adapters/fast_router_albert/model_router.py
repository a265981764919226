"""`ModelRouter`: one model as the Albert API knows it, whose providers are picked by our engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import httpx

from fast_router.errors import NoDeploymentError

from .clients import ModelClient, client_for
from .endpoints import ENDPOINT_TYPES, Endpoint, ModelType, endpoint_of
from .errors import EndpointNotServedError, ModelBusyError, ProviderNotReachableError, WrongModelTypeError, busy
from .probe import Probe
from .schema import Model

if TYPE_CHECKING:
    from fast_router.router import AdvancedRouter

    from .queued import Queue

__all__ = ["ModelRouter"]

_DOCUMENTED_400 = frozenset({"D3b", "D6"})
"""Dialects whose documentation gives 400 for a wrong model type; the API's source says 422."""


class ModelRouter:
    """One model and the servers behind it; `ModelRegistry` makes them.

    Args:
        model: What the configuration says.
        engine: The engine that picks; it has the model's deployments already.
        ids: The deployments' ids, in the order of the model's providers.
        queue: Who asks routing workers first, None without Celery.

    Attributes:
        id: The model's name.
        type: Its type, for example ``text-generation``.
        aliases: Its other names.
        owned_by: Its owner, as GET /v1/models says.
    """

    def __init__(self, model: Model, engine: AdvancedRouter, ids: list[str], queue: Queue | None = None) -> None:
        self.id = model.id
        self.type = model.type
        self.aliases = list(model.aliases)
        self.owned_by = model.owned_by
        self.config = model
        self._router = engine
        self._queue = queue
        self._clients = {
            deployment_id: client_for(provider)._placed(engine.engine, engine.deployments[deployment_id])
            for deployment_id, provider in zip(ids, model.providers, strict=True)
        }

    @property
    def providers(self) -> list[ModelClient]:
        """Its clients, one per server, in the order of the configuration."""
        return list(self._clients.values())

    clients = providers

    @property
    def strategy(self) -> str:
        """Canonical name of the strategy that picks."""
        return self.config.strategy

    @property
    def max_context_length(self) -> int | None:
        """Tokens that each of its providers takes: the smallest one known, None before any is known."""
        known = [self.config.context_length, *(client.max_context_length for client in self._clients.values())]
        return min((length for length in known if length), default=None)

    @property
    def vector_size(self) -> int | None:
        """Length of its embeddings, None if not known."""
        sizes = [self.config.vector_size, *(client.vector_size for client in self._clients.values())]
        return next((size for size in sizes if size), None)

    @property
    def costs(self) -> dict[str, float]:
        """Money per million tokens: the dearest of its providers."""
        prompt, completion = self.config.highest_costs
        return {"prompt_tokens": prompt, "completion_tokens": completion}

    # -- picks -----------------------------------------------------------------------------------

    def get_client(self, endpoint: str | Endpoint = Endpoint.CHAT_COMPLETIONS, *, priority: int = 0) -> ModelClient:
        """A client of the provider that takes the next call; the call counts from now on.

        When every provider is at its limit, it tries again as often as the configuration says; it sleeps between
        the tries, so inside an event loop it does not try again: `acquire_client` does. With Celery a routing worker
        picks, except inside an event loop.

        Args:
            endpoint: What the client is for, with or without slash and /v1.
            priority: With Celery: its place in the queue, higher goes first.

        Raises:
            ValueError: There is no such endpoint.
            WrongModelTypeError: The model's type does not serve it (422; 400 where the dialect documents that).
            EndpointNotServedError: None of its servers has it (400).
            ModelBusyError: Every provider is at its limit (503, with `retry_after` in seconds).
            RoutingTimeoutError: With Celery: they still were when its time limit was over (504).
        """
        skip = self._unfit(endpoint)
        if self._queue is not None:
            granted = self._queue.ask_here(self.id, self._clients.keys() - skip, priority)
            if granted is not None:
                return self._clients[granted.id]._with(granted)
        retries = 0 if _in_event_loop() else self.config.retries
        for _ in range(retries):
            client = self._pick(skip)
            if client is not None:
                return client
            time.sleep(self.config.retry_countdown)
        return self._last_pick(skip)

    get_provider = get_client

    async def acquire_client(
        self, endpoint: str | Endpoint = Endpoint.CHAT_COMPLETIONS, *, priority: int = 0
    ) -> ModelClient:
        """As `get_client`, and waits between the configured retries without blocking the event loop."""
        skip = self._unfit(endpoint)
        if self._queue is not None:
            granted = await self._queue.ask(self.id, self._clients.keys() - skip, priority)
            if granted is not None:
                return self._clients[granted.id]._with(granted)
        for _ in range(self.config.retries):
            client = self._pick(skip)
            if client is not None:
                return client
            await asyncio.sleep(self.config.retry_countdown)
        return self._last_pick(skip)

    acquire_provider = acquire_client

    def _unfit(self, endpoint: str | Endpoint) -> frozenset[str]:
        """Ids of providers without this endpoint."""
        wanted = endpoint_of(endpoint)
        if self.type not in ENDPOINT_TYPES[wanted]:
            serves = sorted(f"/v1/{e.value}" for e in Endpoint if self.type in ENDPOINT_TYPES[e] and e != "models")
            kind = self.type.value
            raise WrongModelTypeError(
                f"Wrong model type: {self.id} is {kind} and serves {', '.join(serves)}, not /v1/{wanted.value}",
                status_code=400 if self.config.dialect in _DOCUMENTED_400 else 422,
            )
        unfit = frozenset(i for i, client in self._clients.items() if client.ENDPOINT_TABLE.get(wanted) is None)
        if len(unfit) == len(self._clients):
            raise EndpointNotServedError(f"no provider of {self.id} serves /v1/{wanted.value}")
        return unfit

    def _pick(self, skip: frozenset[str]) -> ModelClient | None:
        try:
            return self._last_pick(skip)
        except ModelBusyError:
            return None

    def _last_pick(self, skip: frozenset[str]) -> ModelClient:
        try:
            lease = self._router.acquire(self.id, exclude=skip)
        except NoDeploymentError as error:
            raise busy(error.retry_after) from None
        return self._clients[lease.id]._with(lease)

    # -- calls -----------------------------------------------------------------------------------

    async def forward(
        self,
        endpoint: str | Endpoint,
        *,
        json: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        files: Any = None,
        stream: bool = False,
        priority: int = 0,
    ) -> httpx.Response:
        """Pick a provider, waiting as configured, and forward one request to it; see `ModelClient.forward`."""
        client = await self.acquire_client(endpoint, priority=priority)
        return await client.forward(endpoint, json=json, data=data, files=files, stream=stream)

    async def probe(self, *, strict: bool = False) -> list[Probe]:
        """Ask each server for its context length and vector size.

        Args:
            strict: An unreachable server is an error.

        Raises:
            ProviderNotReachableError: With `strict`, a server did not answer (424).
        """
        vectors = self.type is ModelType.TEXT_EMBEDDINGS_INFERENCE
        clients = self.providers
        found = await asyncio.gather(*(client.probe(vectors=vectors) for client in clients))
        if strict:
            for client, probe in zip(clients, found, strict=True):
                if not probe.reachable:
                    msg = f"a provider of {self.id} is not reachable: {client.api_url}: {probe.problem}"
                    raise ProviderNotReachableError(msg)
        return found

    async def aclose(self) -> None:
        """Close its connections."""
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    def __repr__(self) -> str:
        return f"<ModelRouter {self.id!r}: {self.type.value}, {len(self._clients)} providers, {self.strategy}>"


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
