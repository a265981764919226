"""`ModelRegistry`: every model of a configuration, by id or alias, as the Albert API's own registry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from .config import AlbertConfig, Source, load_config
from .endpoints import ModelType
from .errors import ModelNotFoundError
from .model_router import ModelRouter
from .probe import Probe
from .queued import Queue, queue_for

if TYPE_CHECKING:
    from random import Random

__all__ = ["ModelCard", "ModelCosts", "ModelRegistry"]


class ModelCosts(BaseModel):
    """Money per million tokens."""

    prompt_tokens: float
    completion_tokens: float


class ModelCard(BaseModel):
    """What GET /v1/models says of one model; ``card.id`` and ``card["id"]`` are the same."""

    model_config = ConfigDict(use_enum_values=True)

    id: str
    object: str = "model"
    type: ModelType
    aliases: list[str]
    created: int
    owned_by: str
    max_context_length: int | None
    costs: ModelCosts

    def __getitem__(self, key: str) -> Any:
        try:
            return self.model_dump()[key]
        except KeyError:
            raise KeyError(key) from None


class ModelRegistry(Mapping[str, ModelRouter]):
    """Every model of a configuration: a mapping by id and alias, iterated by id.

    If the configuration enables Celery, its models ask routing workers for providers (see docs/celery.md).

    Args:
        config: The configuration.
        clock: Monotonic seconds, for the engine.
        rng: The source of chance; a seeded one makes the picks repeatable.
    """

    def __init__(
        self,
        config: AlbertConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
    ) -> None:
        from fast_router.router import AdvancedRouter  # noqa: PLC0415 - reading a file needs no engine

        self._router = AdvancedRouter(clock=clock, rng=rng)
        self._created = int(time.time())
        self._models: dict[str, ModelRouter] = {}
        self._ids: dict[str, str] = {}
        self._queue: Queue | None = None
        # Calls may still hold reservations of theirs.
        self._former: list[Queue] = []
        self.reload(config)

    @classmethod
    def from_config(cls, config: AlbertConfig | Source, **options: Any) -> ModelRegistry:
        """A registry of `config`, which may be anything that `load_config` takes.

        Raises:
            AlbertConfigError: The configuration is wrong.
        """
        return cls(config if isinstance(config, AlbertConfig) else load_config(config), **options)

    def reload(self, config: AlbertConfig) -> None:
        """Take over another configuration; what is known of providers that stay (load, rests) stays too."""
        entries = config.model_list
        self._router.set_model_list(entries)
        ids: dict[str, list[str]] = {}
        for entry in entries:
            ids.setdefault(entry["model_name"], []).append(entry["model_info"]["id"])
        queue = queue_for(config, self._router, self._queue)
        if self._queue is not None and queue is not self._queue:
            self._former.append(self._queue)
        models = {model.id: ModelRouter(model, self._router, ids[model.id], queue) for model in config.models}
        names = {alias: model.id for model in config.models for alias in model.aliases}
        self._models, self._ids = models, {**names, **{name: name for name in models}}
        self._queue = queue
        self.config = config

    # -- the mapping -----------------------------------------------------------------------------

    def __getitem__(self, name: str) -> ModelRouter:
        """The model with this id or alias.

        Raises:
            ModelNotFoundError: There is none (404, "Model not found").
        """
        try:
            return self._models[self._ids[name]]
        except (KeyError, TypeError):
            raise ModelNotFoundError from None

    def __call__(self, model: str) -> ModelRouter:
        """As ``registry[model]``: both forms occur in the Albert API."""
        return self[model]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def get(self, name: str, default: Any = None) -> Any:
        """The model with this id or alias, or `default`."""
        model = self._ids.get(name)
        return default if model is None else self._models[model]

    @property
    def models(self) -> list[str]:
        """The ids."""
        return list(self._models)

    @property
    def aliases(self) -> dict[str, str]:
        """Alias → id."""
        return {name: model for name, model in self._ids.items() if name != model}

    @property
    def routing(self) -> Any:
        """The `CeleryRouting` that asks routing workers, None without Celery: ``registry.routing.stats()``."""
        return None if self._queue is None else self._queue.routing

    @property
    def router(self) -> Any:
        """The `AdvancedRouter` that picks: ``registry.router.stats()``."""
        return self._router

    def list(self, model: str | None = None) -> list[ModelCard]:
        """What GET /v1/models returns.

        Args:
            model: Only the model with this id or alias.

        Raises:
            ModelNotFoundError: `model` is none.
        """
        chosen = list(self._models.values()) if model is None else [self[model]]
        return [
            ModelCard(
                id=one.id,
                type=one.type,
                aliases=one.aliases,
                created=one.config.created or self._created,
                owned_by=one.owned_by,
                max_context_length=one.max_context_length,
                costs=ModelCosts(**one.costs),
            )
            for one in chosen
        ]

    # -- servers ---------------------------------------------------------------------------------

    async def probe(self, *, strict: bool = False) -> dict[str, Sequence[Probe]]:
        """Ask every server for its context length and vector size, all at once; the answers by model id.

        Args:
            strict: An unreachable server is an error instead of a line in the answer.

        Raises:
            ProviderNotReachableError: With `strict`, a server did not answer (424).
        """
        models = list(self._models.values())
        found = await asyncio.gather(*(model.probe(strict=strict) for model in models))
        return {model.id: probes for model, probes in zip(models, found, strict=True)}

    async def aclose(self) -> None:
        """Close every connection."""
        await asyncio.gather(*(model.aclose() for model in self._models.values()))
        for queue in (*self._former, self._queue):
            if queue is not None and queue.owned:
                await queue.routing.close()
        self._former.clear()

    def __repr__(self) -> str:
        return f"<ModelRegistry of {len(self._models)} models from {self.config.source}>"
