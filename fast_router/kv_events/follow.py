"""Servers' own events correct what `cache_aware` takes to be in their caches.

A deployment names its addresses, `model_info: {fast_router: {kv_events: tcp://10.0.0.1:5557, kv_replay:
tcp://10.0.0.1:5558}}`; nothing else is to be switched on. Without a tokenizer events tell how much a cache holds, and
that it was emptied or its server restarted. With one (`tokenizer: /models/name`) they tell what is cached, block by
block. Sockets, decoding and tokens are a daemon thread's; picks see the result and wait for nothing.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from fast_router import extras
from fast_router.deployment_options import DeploymentOptions, options_of
from fast_router.engine.prefix_cache import fleet as fleets
from fast_router.engine.prefix_cache.exact import ExactMirror
from fast_router.errors import ConfigurationError

if TYPE_CHECKING:
    from fast_router.engine.ask import Ask
    from fast_router.engine.prefix_cache.prompt import Prompt
    from fast_router.engine.prefix_cache.work import Work
    from fast_router.kv_events.matching import Ties
    from fast_router.kv_events.server_cache import Change, ServerCache
    from fast_router.kv_events.source import Endpoint, Source
    from fast_router.kv_events.subscriber import Subscriber

__all__ = ["OPTIONS", "Follower", "endpoint_of", "read", "state"]

OPTIONS = ("kv_events", "kv_replay", "kv_topic", "tokenizer")
"""What `model_info.fast_router` says about events."""
_EVER = 1 << 17
_BREATH = 0.05
_WAITING = 256  # prompts that wait to be tokenised: the newest count, since what is repeated comes again


def endpoint_of(said: DeploymentOptions, where: str) -> Endpoint | None:
    """Read a deployment's addresses.

    Args:
        said: Its `model_info.fast_router`.
        where: What to call it in messages.

    Raises:
        ConfigurationError: An address is none, or the extra is not installed; the message says what to do.
    """
    given: dict[str, str] = {name: value for name in OPTIONS if (value := getattr(said, name)) is not None}
    if not given:
        return None
    for name, value in given.items():
        if name in ("kv_events", "kv_replay") and not value.startswith(("tcp://", "ipc://")):
            raise ConfigurationError(f"{where}: {name} is {value!r}; give an address such as tcp://10.0.0.1:5557")
    if "kv_events" not in given:
        raise ConfigurationError(f"{where}: {next(iter(given))} is of no use without kv_events")
    try:
        from fast_router.kv_events.source import Endpoint  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigurationError(extras.needs(f"{where}: kv_events", error.name, "kv-events")) from None
    return Endpoint(given["kv_events"], given.get("kv_replay"), given.get("kv_topic", ""))


class Follower:
    """Follows the servers of one tokenizer.

    Args:
        tokenizer: A model's folder, None where blocks are counted only.

    Raises:
        ConfigurationError: There is no tokenizer there.
    """

    def __init__(self, tokenizer: str | None) -> None:
        from fast_router.kv_events.subscriber import Subscriber  # noqa: PLC0415

        self.ties: Ties | None = None
        if tokenizer is not None:
            from fast_router.kv_events.matching import Ties  # noqa: PLC0415
            from fast_router.kv_events.tokenizer import LocalTokenizer  # noqa: PLC0415

            self.ties = Ties(LocalTokenizer(tokenizer))
        self.subscriber: Subscriber = Subscriber(exact=tokenizer is not None)
        # Blocks that any server ever told, oldest first.
        self.ever: OrderedDict[int, None] = OrderedDict()
        self._prompts: deque[tuple[Prompt, Ask, Source]] = deque(maxlen=_WAITING)
        self._asked = False

    def enqueue(self, prompt: Prompt, ask: Ask, source: Source) -> None:
        """Have a prompt tokenised on the subscriber's thread, soon."""
        self._prompts.append((prompt, ask, source))
        if not self._asked:
            self._asked = True
            self.subscriber.call(self._tokenise)

    def _tokenise(self) -> None:
        self._asked = False
        while self.ties is not None and self._prompts:
            prompt, ask, source = self._prompts.popleft()
            said = (ask.key or "", None) if ask.source is None else ask.source()
            if source.cache.size and said is not None and said[0]:
                text, chat = said
                self.ties.tie(prompt.hashes, prompt.ends, text, chat, source.cache.size)

    def follow(self, work: Work, endpoint: Endpoint) -> None:
        """Follow a deployment's server, as long as the deployment is there. Called under the engine's lock.

        Args:
            work: What `cache_aware` knows of it.
            endpoint: Where the server tells its events.
        """
        name = str(id(work))
        source = self.subscriber.follow(name, endpoint, _Told(work, self, name).changed)
        if self.ties is not None:
            work.mirror = ExactMirror(work.mirror, self.ties.blocks, source.cache, self.ever, work.backlog)
            work.heard = _Heard(self, source).sent


class _Heard:
    """Takes a server's prompts to the tokenizer."""

    def __init__(self, follower: Follower, source: Source) -> None:
        self._follower = follower
        self._source = source

    def sent(self, prompt: Prompt, ask: Ask) -> None:
        """A prompt is sent: tokenise it, elsewhere. Called under the engine's lock."""
        self._follower.enqueue(prompt, ask, self._source)


class _Told:
    """What one server's events change about one deployment. On the subscriber's thread."""

    def __init__(self, work: Work, follower: Follower, name: str) -> None:
        self._work = ref(work, lambda _: follower.subscriber.leave(name))
        self._ever = follower.ever

    def changed(self, change: Change, cache: ServerCache) -> None:
        """Leave it where the engine reads it, under its lock."""
        work = self._work()
        if work is None:
            return
        self._ever.update(dict.fromkeys(change.appeared))
        while len(self._ever) > _EVER:
            self._ever.popitem(last=False)
        if change.cleared:
            work.news.append(work.forget)
        # It breathes a little, with what running requests need: that is no news.
        if cache.capacity is not None and abs(cache.capacity - (work.capacity or 0.0)) > _BREATH * cache.capacity:
            work.news.append(partial(work.holds, cache.capacity))


_followers: dict[str | None, Follower] = {}
_known: WeakKeyDictionary[Work, Endpoint] = WeakKeyDictionary()
_process = os.getpid()


def read(said: DeploymentOptions, where: str) -> None:
    """Read what a deployment says of its events, and have it followed from the moment `cache_aware` knows it.

    Args:
        said: Its `model_info.fast_router`.
        where: What to call it in messages.

    Raises:
        ConfigurationError: An address is none, a tokenizer cannot be read, or the extra is not installed.
    """
    if endpoint_of(said, where) is None:
        return
    _follower(said.tokenizer)
    if _joined not in fleets.on_members:
        fleets.on_members.append(_joined)


def _follower(tokenizer: str | None) -> Follower:
    global _process  # noqa: PLW0603
    if _process != os.getpid():
        # A fork has the dicts and not the threads.
        _followers.clear()
        _known.clear()
        _process = os.getpid()
    follower = _followers.get(tokenizer)
    if follower is None:
        follower = _followers[tokenizer] = Follower(tokenizer)
    return follower


def _joined(works: Sequence[Work]) -> None:
    """Deployments are together in a group of `cache_aware`. Called under the engine's lock."""
    for work in works:
        said = options_of(work.deployment.entry)
        endpoint = endpoint_of(said, work.deployment.id)
        if endpoint is None:
            continue
        follower = _follower(said.tokenizer)
        if _known.get(work) != endpoint:
            _known[work] = endpoint
            follower.follow(work, endpoint)


def state(work: Work) -> dict[str, Any] | None:
    """Tell how following a deployment's server goes, for status and metrics; None where it is not followed."""
    for follower in _followers.values():
        source = follower.subscriber.sources().get(str(id(work)))
        if source is not None:
            cache = source.cache
            return {
                "blocks": len(cache),
                "capacity_tokens": cache.capacity,
                **{name: getattr(source.state, name) for name in source.state.__slots__},
            }
    return None
