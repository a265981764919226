"""`ModelClient` and its kinds: an ``openai.AsyncOpenAI`` per server, with the Albert API's additions.

Every client is a complete OpenAI client (``client.chat.completions.create(…)``) and can `forward` a request of the
API unchanged. A client that a `ModelRouter` handed out holds the lease of its pick: the first call uses it, later
calls take leases of their own on the same server, and outcomes are reported to the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import httpx
import openai

from .convert import NO_KEY, basic_header
from .counted import CallLease, CountedStream, give_back, hold_until_collected
from .endpoints import DEFAULT_URLS, ENDPOINT_TABLES, Endpoint, ProviderType, endpoint_of
from .forward import Target, forward
from .probe import Probe, probe
from .schema import DEFAULT_TIMEOUT, Provider, clean_url

if TYPE_CHECKING:
    from typing_extensions import Self

    from fast_router.engine import Deployment, Engine

__all__ = [
    "AlbertModelClient",
    "AlbertModelProvider",
    "MistralModelClient",
    "MistralModelProvider",
    "ModelClient",
    "ModelProvider",
    "OpenAIModelClient",
    "OpenAIModelProvider",
    "TeiModelClient",
    "TeiModelProvider",
    "VllmModelClient",
    "VllmModelProvider",
    "client_for",
]


@dataclass(frozen=True, repr=False)
class _Place:
    """A client's place in a router: its engine and its deployment."""

    engine: Engine
    deployment: Deployment


def _nothing() -> None:
    """A client without a lease has none to hand over."""


class ModelClient(openai.AsyncOpenAI):
    """One server behind a model.

    Args:
        model: What the server calls the model.
        api_url: Its address; a trailing /v1 is dropped. The kind's own default if there is one.
        api_key: Its key, "EMPTY" if it needs none.
        timeout: Seconds to wait for an answer.
        basic_auth: The Authorization header to send instead of the key.
        http_client: A connection pool to share.

    Attributes:
        ENDPOINT_TABLE: Endpoint → path on this kind of server, None where it has no such endpoint.
        TYPE: The kind of server.
    """

    TYPE: ClassVar[ProviderType] = ProviderType.OPENAI
    ENDPOINT_TABLE: ClassVar[Mapping[Endpoint, str | None]] = ENDPOINT_TABLES[ProviderType.OPENAI]

    def __init__(
        self,
        *,
        model: str,
        api_url: str | None = None,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        basic_auth: str | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        url = clean_url(api_url or DEFAULT_URLS.get(self.TYPE, ""))
        key = api_key or NO_KEY
        super().__init__(
            api_key=key,
            base_url=f"{url}/v1",
            timeout=timeout,
            max_retries=0,  # a second try is the router's decision, and may be on another server
            default_headers={"Authorization": basic_auth} if basic_auth else None,
            http_client=http_client or httpx.AsyncClient(timeout=timeout, follow_redirects=True),
        )
        self.api_url = url
        self.model = model
        self.max_context_length: int | None = None
        self.vector_size: int | None = None
        self._seconds = float(timeout)
        header = basic_auth or (f"Bearer {key}" if key != NO_KEY else None)
        self._target = Target(
            self.TYPE,
            url,
            model,
            {"Authorization": header} if header else {},
            self.ENDPOINT_TABLE,
            tuple(secret for secret in (api_key, basic_auth) if secret and secret != NO_KEY),
        )
        self._place: _Place | None = None
        self._lease: CallLease | None = None
        self._hand_over: Callable[[], object] = _nothing
        self._bare = dict(self.__dict__)

    # -- leases ----------------------------------------------------------------------------------

    def _placed(self, engine: Engine, deployment: Deployment) -> Self:
        """Remember the engine that counts this client's calls."""
        self._place = _Place(engine, deployment)
        self._bare["_place"] = self._place
        return self

    def _with(self, lease: CallLease) -> Self:
        """This client for one pick: the same server and connections, and the pick's lease."""
        twin = object.__new__(type(self))
        # The bare state lacks `chat`, `embeddings` and so on, which remember the client they were made for.
        twin.__dict__.update(self._bare, _bare=self._bare, _lease=lease)
        twin._hand_over = hold_until_collected(twin, lease)
        return twin

    def _take(self) -> CallLease | None:
        """The pick's lease for the first call, a lease of its own for every later one."""
        lease, self._lease = self._lease, None
        if lease is not None and lease.open:
            self._hand_over()  # from here on the call ends the lease, not the client
            return lease
        if self._place is not None:
            return self._place.engine.acquire_deployment(self._place.deployment)
        return None

    def release(self) -> None:
        """Give the pick back unused; an unused client does so by itself when it is collected."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release(cancelled=True)

    def __await__(self) -> Generator[Any, None, Self]:
        """``await router.get_client(…)`` works as well, for code that awaits it."""
        yield from ()
        return self

    # -- calls -----------------------------------------------------------------------------------

    async def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """Every call of the OpenAI client goes through here; the lease ends with it."""
        lease = self._take()
        try:
            result: Any = await super().request(cast_to, options, stream=stream, stream_cls=stream_cls)
        except BaseException as error:
            give_back(lease, error)
            raise
        response = getattr(result, "response", None)
        body = response.stream if isinstance(response, httpx.Response) else None
        if stream and lease is not None and response is not None and isinstance(body, httpx.AsyncByteStream):
            response.stream = CountedStream(body, lease)
            return result
        give_back(lease, answer=result)
        return result

    async def forward(
        self,
        endpoint: str | Endpoint,
        *,
        method: str = "POST",
        json: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        files: Any = None,
        stream: bool = False,
    ) -> httpx.Response:
        """Send a request of the API to this server.

        Args:
            endpoint: ``chat/completions``, ``/v1/rerank`` …
            method: HTTP method.
            json: JSON body; `model` is filled in.
            data: Form fields beside `files`.
            files: Files, as httpx takes them.
            stream: Return with the headers; read the body with ``aiter_lines()`` and close it with ``aclose()``.

        Raises:
            FastRouterError: The documented answers, see `fast_router_albert.forward.forward`.
        """
        return await forward(
            self._client,
            self._target,
            endpoint_of(endpoint),
            lease=self._take(),
            method=method,
            json=json,
            data=data,
            files=files,
            stream=stream,
            timeout=self._seconds,
        )

    async def probe(self, *, vectors: bool | None = None) -> Probe:
        """Ask the server for its context length and vector size, and remember them; never raises.

        Args:
            vectors: Whether to ask for one embedding; by default only servers that are made for it.
        """
        ask = self.TYPE is ProviderType.TEI if vectors is None else vectors
        found = await probe(self._client, self._target, vectors=ask)
        self.max_context_length = self._bare["max_context_length"] = found.max_context_length
        self.vector_size = self._bare["vector_size"] = found.vector_size
        return found

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model!r} at {self.api_url}>"


class OpenAIModelClient(ModelClient):
    """OpenAI, and servers that speak its protocol (Ollama, WhisperX)."""


class AlbertModelClient(ModelClient):
    """Another Albert API or OpenGateLLM."""

    TYPE = ProviderType.ALBERT
    ENDPOINT_TABLE = ENDPOINT_TABLES[ProviderType.ALBERT]


class VllmModelClient(ModelClient):
    """A vLLM server."""

    TYPE = ProviderType.VLLM
    ENDPOINT_TABLE = ENDPOINT_TABLES[ProviderType.VLLM]


class TeiModelClient(ModelClient):
    """A Text Embeddings Inference server."""

    TYPE = ProviderType.TEI
    ENDPOINT_TABLE = ENDPOINT_TABLES[ProviderType.TEI]


class MistralModelClient(ModelClient):
    """Mistral's API, hosted or on premises."""

    TYPE = ProviderType.MISTRAL
    ENDPOINT_TABLE = ENDPOINT_TABLES[ProviderType.MISTRAL]


# OpenGateLLM's word for the same thing.
ModelProvider = ModelClient
OpenAIModelProvider = OpenAIModelClient
AlbertModelProvider = AlbertModelClient
VllmModelProvider = VllmModelClient
TeiModelProvider = TeiModelClient
MistralModelProvider = MistralModelClient

_KINDS: dict[ProviderType, type[ModelClient]] = {
    kind.TYPE: kind
    for kind in (OpenAIModelClient, AlbertModelClient, VllmModelClient, TeiModelClient, MistralModelClient)
}


def client_for(provider: Provider, http_client: httpx.AsyncClient | None = None) -> ModelClient:
    """The client of a configured provider."""
    key = provider.key.value.get_secret_value() if provider.key is not None else None
    return _KINDS[provider.type](
        model=provider.model_name or "",
        api_url=provider.url,
        api_key=key,
        timeout=provider.timeout,
        basic_auth=basic_header(provider) if provider.basic_auth is not None else None,
        http_client=http_client,
    )
