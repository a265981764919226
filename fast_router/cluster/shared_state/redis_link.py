"""Where the shared state lives: Redis clients made from our own URL or from LiteLLM's Redis settings.

LiteLLM knows many ways to a Redis (host and port, URL, cluster, sentinel, TLS, cloud identities). We do not
repeat them: its own builder makes our client, with our timeouts and without retries, because the background
loop has its own.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fast_router import extras
from fast_router.errors import ConfigurationError

if TYPE_CHECKING:
    from fast_router.cluster.shared_state.options import ClusterOptions

__all__ = ["Link", "Target", "find_target", "redis_of"]


@dataclass(frozen=True)
class Target:
    """A Redis that clients can be made for.

    Attributes:
        name: Host, port and database; safe to print.
        make: Makes a client; call it in the loop that uses it.
        namespace: LiteLLM's key namespace, None for none.
        database: Number of the database (pub/sub does not keep databases apart, so the channel's name does).
        litellm: True if LiteLLM uses this very Redis.
        cluster: True for a Redis cluster, where one command cannot touch keys of several slots.
    """

    name: str
    make: Callable[[], Any]
    namespace: str | None = None
    database: int = 0
    litellm: bool = False
    cluster: bool = False


class Link:
    """An open connection: one client for commands and one subscription."""

    def __init__(self, client: Any, subscription: Any, extra: Any = None) -> None:
        self.client = client
        self.subscription = subscription
        self._extra = extra

    @classmethod
    async def open(cls, target: Target, channel: str) -> Link:
        """Connect and subscribe.

        Raises:
            redis.RedisError, OSError, TimeoutError: Redis does not answer.
        """
        client = target.make()
        extra = None
        try:
            if _is_cluster(client):
                await client.initialize()
                # Classic publish is broadcast over the whole cluster: any one node will do.
                extra = _node_client(client)
                subscription = extra.pubsub()
            else:
                subscription = client.pubsub()
            await subscription.subscribe(channel)
        except BaseException:
            await _close(client)
            if extra is not None:
                await _close(extra)
            raise
        return cls(client, subscription, extra)

    async def publish(self, channel: str, payload: bytes) -> None:
        """Publish one message."""
        await (self._extra or self.client).publish(channel, payload)

    async def commands(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send `commands` in one round trip; an error answer stands in the place of its result.

        Raises:
            redis.RedisError, OSError, TimeoutError: Redis does not answer.
        """
        if self._extra is not None:
            published = [c for c in commands if c[0] == "PUBLISH"]
            for command in published:
                await self._extra.execute_command(*command)
            rest = [c for c in commands if c[0] != "PUBLISH"]
            answers = iter(await self._pipeline(rest) if rest else [])
            return [0 if c[0] == "PUBLISH" else next(answers) for c in commands]
        return await self._pipeline(commands)

    async def _pipeline(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        pipeline = self.client.pipeline() if _is_cluster(self.client) else self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers

    async def close(self) -> None:
        """Close everything; never raises."""
        await _close(self.subscription)
        await _close(self.client)
        sentinels = getattr(getattr(self.client, "connection_pool", None), "sentinel_manager", None)
        for sentinel in getattr(sentinels, "sentinels", ()):
            await _close(sentinel)
        if self._extra is not None:
            await _close(self._extra)


def find_target(options: ClusterOptions, litellm_router: object | None) -> Target | None:
    """The Redis to use: the options' URL, else the Router's own; None if there is none.

    Raises:
        ConfigurationError: The URL cannot be used, or the redis package is missing.
    """
    cache = redis_of(litellm_router)
    if options.url:
        return _from_url(options.url, options.timeout)
    return None if cache is None else _from_litellm(cache, options.timeout)


def redis_of(litellm_router: object | None) -> Any | None:
    """LiteLLM's Redis cache behind a Router or its core (`RedisCache`, `RedisClusterCache`), None if it has none."""
    for name in ("_core_cache", "_cache", "cache"):
        found = getattr(getattr(litellm_router, name, None), "redis_cache", None)
        if found is not None:
            return found
    return None


def _from_url(url: str, timeout: float) -> Target:
    redis = _redis()
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.lower().partition("+")
    if scheme not in {"redis", "rediss", "unix"} or kind not in {"", "cluster"}:
        raise ConfigurationError(
            f"the Redis URL begins with {parts.scheme!r}: use redis://, rediss://, unix://, redis+cluster:// or "
            "rediss+cluster://"
        )
    plain = url.replace(f"{parts.scheme}://", f"{scheme}://", 1)
    try:
        port = parts.port or 6379
        database = int(parts.path.strip("/") or 0) if scheme != "unix" else 0
    except ValueError as error:
        raise ConfigurationError(f"the Redis URL of host {parts.hostname!r} has a wrong port or database") from error

    def make() -> Any:
        client_class = redis.RedisCluster if kind else redis.Redis
        extra = {} if kind else {"retry": _no_retry()}
        return client_class.from_url(plain, socket_timeout=timeout, socket_connect_timeout=timeout, **extra)

    where = parts.path if scheme == "unix" else f"{parts.hostname or 'localhost'}:{port}/{database}"
    return Target(name=where, make=make, database=database, cluster=bool(kind))


def _from_litellm(cache: Any, timeout: float) -> Target:
    _redis()
    build: Callable[..., Any] = importlib.import_module("litellm._redis").get_redis_async_client
    kwargs = dict(cache.redis_kwargs)
    for name in ("connection_pool", "service_logger_obj", "max_connections"):
        kwargs.pop(name, None)
    kwargs["socket_timeout"] = timeout
    kwargs["socket_connect_timeout"] = timeout

    def make() -> Any:
        client = build(**kwargs)
        if not _is_cluster(client):
            client.set_retry(_no_retry())
        return client

    return Target(
        name=_describe(kwargs),
        make=make,
        namespace=getattr(cache, "namespace", None),
        database=_database(kwargs),
        litellm=True,
        cluster=bool(kwargs.get("startup_nodes")),
    )


def _describe(kwargs: Mapping[str, Any]) -> str:
    if kwargs.get("url"):
        parts = urlsplit(str(kwargs["url"]))
        return f"{parts.hostname or 'localhost'}{parts.path}"
    nodes = kwargs.get("startup_nodes") or kwargs.get("sentinel_nodes")
    if nodes:
        return f"{len(nodes)} nodes ({kwargs.get('service_name') or 'cluster'})"
    return f"{kwargs.get('host') or 'from the environment'}:{kwargs.get('port') or 6379}/{_database(kwargs)}"


def _database(kwargs: Mapping[str, Any]) -> int:
    try:
        if kwargs.get("url"):
            return int(urlsplit(str(kwargs["url"])).path.strip("/") or 0)
        return int(kwargs.get("db") or 0)
    except ValueError:
        return 0


def _redis() -> Any:
    try:
        return importlib.import_module("redis.asyncio")
    except ImportError as error:
        raise ConfigurationError(extras.needs("shared state", "redis")) from error


def _no_retry() -> Any:
    retry = importlib.import_module("redis.asyncio.retry").Retry
    return retry(importlib.import_module("redis.backoff").NoBackoff(), 0)


def _is_cluster(client: Any) -> bool:
    return hasattr(client, "nodes_manager")


def _node_client(cluster: Any) -> Any:
    redis = _redis()
    node = cluster.get_default_node() or next(iter(cluster.get_nodes()))
    # A node's connection arguments are those of a plain client, once the cluster's own are left out.
    taken = {
        name: value
        for name, value in node.connection_kwargs.items()
        if name
        in {
            "username",
            "password",
            "credential_provider",
            "socket_timeout",
            "socket_connect_timeout",
            "socket_keepalive",
            "health_check_interval",
        }
        or name.startswith("ssl_")
    }
    secure = "SSL" in getattr(node.connection_class, "__name__", "")
    return redis.Redis(host=node.host, port=node.port, ssl=secure, retry=_no_retry(), **taken)


async def _close(thing: Any) -> None:
    close = getattr(thing, "aclose", None) or thing.close
    with contextlib.suppress(Exception):  # it is going away either way
        await close()
