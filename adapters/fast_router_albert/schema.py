"""The one shape behind all dialects: pydantic models of a provider, a model and what a limit means."""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

from fast_router.errors import UnknownStrategyError

from .endpoints import DEFAULT_URLS, ModelType, ProviderType

__all__ = ["BasicAuth", "Metric", "Model", "Provider", "Secret", "Strategy", "clean_url"]

MAX_NAME = 64
DEFAULT_TIMEOUT = 300.0


class Metric(str, Enum):
    """What a quality-of-service limit looks at."""

    INFLIGHT = "inflight"
    TTFT = "ttft"
    LATENCY = "latency"
    PERFORMANCE = "performance"


def clean_url(text: str) -> str:
    """A server's address without trailing slash and without /v1, the form that every dialect comes down to.

    Raises:
        PydanticCustomError: It is no address of an HTTP server.
    """
    text = text.strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise PydanticCustomError("url", "not a well-formed URL") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise PydanticCustomError("url", "not an http:// or https:// URL")
    if port == 0 or re.search(r"[\s<>{}|\\^`\"]", text):
        raise PydanticCustomError("url", "not a well-formed URL")
    if parts.username is not None or parts.password is not None:
        raise PydanticCustomError("url_secret", "a URL with a user name or password in it")
    if parts.query or parts.fragment:
        raise PydanticCustomError("url", "a URL with a query (?) or a fragment (#)")
    path = parts.path.rstrip("/")
    while path.endswith("/v1"):
        path = path[: -len("/v1")].rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise PydanticCustomError("finite_number", "not a finite number")
    return value


def _no_bool(value: object) -> object:
    # YAML's yes/no/on/off would pass as 1 and 0.
    if isinstance(value, bool):
        raise PydanticCustomError("number", "yes/no where a number is needed")
    return value


def _strategy(value: str) -> str:
    from fast_router.engine.strategies import canonical  # noqa: PLC0415 - the engine is not needed to import this

    try:
        return canonical(value)
    except UnknownStrategyError:
        raise PydanticCustomError("strategy", "no known strategy") from None


def _name(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("empty", "empty")
    if value != value.strip() or any(ord(char) < 32 for char in value):
        raise PydanticCustomError("name", "a name with blanks around it or control characters in it")
    return value


Number = Annotated[float, BeforeValidator(_no_bool), AfterValidator(_finite)]
Cost = Annotated[Number, Field(ge=0)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_name)]
Url = Annotated[str, AfterValidator(clean_url)]
Strategy = Annotated[str, AfterValidator(_strategy)]
Zone = Annotated[str, Field(pattern="^[A-Z]{3}$")]
Count = Annotated[int, BeforeValidator(_no_bool), Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class BasicAuth(_Part):
    """User name and password of a server behind HTTP basic authentication."""

    username: str
    password: SecretStr


class Secret(_Part):
    """A key, and where it came from.

    Attributes:
        value: The key itself.
        variable: Name of the environment variable that alone holds it, None if none does.
        default: True if `variable` is not set, and `value` is the default that the file gives.
        mixed: True if it is made of text and variables; such a key cannot be written without writing the secret.
    """

    value: SecretStr
    variable: str | None = None
    default: bool = False
    mixed: bool = False


class Provider(_Part):
    """One server behind a model.

    Attributes:
        type: What kind of server it is.
        url: Its address without /v1 and without trailing slash; the type's default if the file gives none.
        key: Its API key, None if it needs none.
        basic_auth: User name and password instead of a key.
        timeout: Seconds to wait for an answer.
        model_name: What the server calls the model; None where a flat (D0) file leaves it to the server.
        cost_prompt_tokens: Money per million prompt tokens; None: the model's.
        cost_completion_tokens: Money per million completion tokens; None: the model's.
        hosting_zone: ISO 3166 alpha-3 country, or WOR for the world.
        total_params: Billions of parameters, None if not given.
        active_params: Billions of active parameters, None if not given.
        qos_metric: What `qos_limit` limits.
        qos_limit: inflight: requests at a time, 0 closes the provider. ttft and latency: milliseconds.
            performance: milliseconds per completion token. None: no limit.
        qos_enforced: False if the file only asks for a line in the log.
        max_context_length: Tokens, None if not known.
        vector_size: Length of its embeddings, None if not known.
    """

    type: ProviderType
    url: Url = ""
    key: Secret | None = None
    basic_auth: BasicAuth | None = None
    timeout: Annotated[Number, Field(gt=0)] = DEFAULT_TIMEOUT
    model_name: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_name)] | None = None
    cost_prompt_tokens: Cost | None = None
    cost_completion_tokens: Cost | None = None
    hosting_zone: Zone = "WOR"
    total_params: Cost | None = None
    active_params: Cost | None = None
    qos_metric: Metric | None = None
    qos_limit: Cost | None = None
    qos_enforced: bool = True
    max_context_length: Count | None = None
    vector_size: Count | None = None

    def model_post_init(self, _context: Any) -> None:
        """Fill in the type's default URL."""
        if not self.url:
            object.__setattr__(self, "url", DEFAULT_URLS.get(self.type, ""))

    @property
    def closed(self) -> bool:
        """True if its operator shut it: a limit of 0 requests at a time."""
        return self.qos_limit == 0 and self.qos_metric in {None, Metric.INFLIGHT}

    @property
    def max_parallel_requests(self) -> int | None:
        """Most requests at a time, None for no such limit."""
        if self.qos_metric is not Metric.INFLIGHT or self.qos_limit is None or not self.qos_enforced:
            return None
        return int(self.qos_limit)


class Model(_Part):
    """One model as users of the API see it (the Albert API's model, OpenGateLLM's router).

    Attributes:
        id: Its name for users.
        type: What it does.
        aliases: Other names for it.
        owned_by: What GET /v1/models says about its owner.
        strategy: Canonical name of the strategy that picks its provider.
        providers: The servers behind it.
        cost_prompt_tokens: Money per million prompt tokens, None if the file says nothing.
        cost_completion_tokens: Money per million completion tokens, None if the file says nothing.
        max_context_length: Tokens; None: the smallest of its providers.
        vector_size: Length of its embeddings, None if not known.
        created: Unix time, seconds.
        retries: How often a request tries again when every provider is at its limit.
        retry_countdown: Seconds between these tries.
        dialect: The dialect that its keys belong to, D0 to D6.
    """

    id: Name
    type: ModelType
    aliases: tuple[Name, ...] = ()
    owned_by: str = "Albert API"
    strategy: Strategy = "simple_shuffle"
    providers: tuple[Provider, ...]
    cost_prompt_tokens: Cost | None = None
    cost_completion_tokens: Cost | None = None
    max_context_length: Count | None = None
    vector_size: Count | None = None
    created: int = 0
    retries: Annotated[int, BeforeValidator(_no_bool), Field(ge=0)] = 0
    retry_countdown: Cost = 0.0
    dialect: str = "D5"

    def costs(self, provider: Provider) -> tuple[float, float] | None:
        """Money per million prompt and per million completion tokens on `provider`, None if nothing says it."""
        prompt, completion = provider.cost_prompt_tokens, provider.cost_completion_tokens
        prompt = self.cost_prompt_tokens if prompt is None else prompt
        completion = self.cost_completion_tokens if completion is None else completion
        return None if prompt is None and completion is None else (prompt or 0.0, completion or 0.0)

    @property
    def highest_costs(self) -> tuple[float, float]:
        """What a user is told the model costs: the dearest provider's, as in the API."""
        both = [self.costs(provider) or (0.0, 0.0) for provider in self.providers]
        return max(prompt for prompt, _ in both), max(completion for _, completion in both)

    @property
    def context_length(self) -> int | None:
        """Tokens that every provider takes: the smallest known, None if none is known."""
        known = [self.max_context_length, *(provider.max_context_length for provider in self.providers)]
        return min((length for length in known if length), default=None)
