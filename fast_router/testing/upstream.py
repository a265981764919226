"""Upstreams on a thread (`Upstream`, `Fleet`) or in a process of their own (`Fleet(subprocess=True)`).

Both look the same: `.url`, `.api_base`, `.order(...)`, `.records`, `.reset()`, `.wait_for(...)`. A test that wants
to look closely takes the thread; a benchmark takes the process, so that the server's work is not counted as
the client's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from fast_router.errors import ConfigurationError, FastRouterError
from fast_router.testing.behaviour import Behaviour
from fast_router.testing.kv_publisher import Spelling
from fast_router.testing.records import Records
from fast_router.testing.server import CONTROL, UpstreamServer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Fleet", "Spec", "Upstream", "UpstreamFace"]

T = TypeVar("T")
_PATIENCE = 30.0


@dataclass(frozen=True)
class Spec:
    """What an upstream of a fleet is to be.

    Attributes:
        kind: Name of a ready-made shape.
        name: Its name in the fleet; by default `<kind>-<position>`.
        models: Models that it serves.
        behaviour: Its orders at the start.
        seed: Seed of its random source; by default its position in the fleet.
        api_key: Key that requests need, None for none.
        tokenizer: How prompts are counted by a server with a prefix cache, see `UpstreamServer`.
        kv_events: Whether it publishes KV-cache events, and in which spelling: "arrays" or "maps".
    """

    kind: str = "openai"
    name: str | None = None
    models: Sequence[str] = ("test-model",)
    behaviour: Behaviour = field(default_factory=Behaviour)
    seed: int | None = None
    api_key: str | None = field(default=None, repr=False)
    tokenizer: str | None = None
    kv_events: Spelling | None = None


class UpstreamFace(ABC):
    """What tests and benchmarks see of an upstream, wherever it runs."""

    name: str

    @property
    @abstractmethod
    def url(self) -> str:
        """Address without a path."""

    @property
    def api_base(self) -> str:
        """Address with /v1, as the `api_base` of LiteLLM's `openai/` and `hosted_vllm/` models wants it."""
        return self.url + "/v1"

    @property
    @abstractmethod
    def behaviour(self) -> Behaviour:
        """The orders it works under now."""

    @property
    @abstractmethod
    def records(self) -> Records:
        """What it has seen."""

    @abstractmethod
    def order(self, **changes: Any) -> None:
        """Change orders; they hold when this returns.

        Raises:
            ConfigurationError: An order is unknown or makes no sense; nothing is changed.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget the records and start the random source again from its seed."""

    @property
    @abstractmethod
    def kv_events(self) -> tuple[str, str]:
        """Addresses of its KV-cache events and of missed ones; empty texts where it publishes none."""

    @abstractmethod
    def restart(self) -> None:
        """Cut every connection, forget the prefix cache, listen again at the same address."""

    def wait_for(self, condition: Callable[[Records], bool], *, timeout: float = 10.0) -> Records:
        """Wait until the records fulfil a condition; a barrier for tests, instead of a sleep.

        Args:
            condition: For example `lambda seen: seen.in_flight == 3`.
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: It did not come true; the message shows the records.
        """
        deadline = time.monotonic() + timeout
        while not condition(records := self.records):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"upstream {self.name!r}: not so within {timeout:g} s; its records: {records.as_dict()}"
                )
            time.sleep(0.002)
        return records

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold every request in flight for the length of the block."""
        self.order(hold=True)
        try:
            yield
        finally:
            self.order(hold=False)


class _LoopThread:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fast_router-upstreams", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def wait(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine on the loop and return what it returns."""

        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(_PATIENCE)

    def call(self, work: Callable[[], T]) -> T:
        """Run a function on the loop and return what it returns."""

        async def run() -> T:
            return work()

        return self.wait(run)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_PATIENCE)
        self.loop.close()


class Upstream(UpstreamFace):
    """A real HTTP server on a background thread. A context manager.

    `stop` and `start` may be repeated: the port stays the same, so a stopped upstream is a dead server at a
    known address that comes back.

    Args:
        kind: Name of a ready-made shape (`openai`, `vllm`, `tei`, `mistral`, `albert`).
        models: Models that it says it serves.
        seed: Seed of the random source that decides faults and jitter.
        api_key: If given, requests need it.
        name: Its name, by default the shape's.
        tokenizer: How prompts are counted by a server with a prefix cache, see `UpstreamServer`.
        kv_events: Whether it publishes KV-cache events, see `UpstreamServer`.
        thread: The loop to run on; by default one of its own.
        behaviour: The orders at the start.
        orders: Single orders, on top of `behaviour`.

    Example:
        >>> with Upstream(latency=0.2, error_rate=0.1) as upstream:
        ...     upstream.api_base
        ...     upstream.order(error_rate=0)
    """

    def __init__(
        self,
        kind: str = "openai",
        *,
        models: Sequence[str] = ("test-model",),
        seed: int = 0,
        api_key: str | None = None,
        name: str | None = None,
        tokenizer: str | None = None,
        kv_events: Spelling | None = None,
        thread: _LoopThread | None = None,
        behaviour: Behaviour | None = None,
        **orders: Any,
    ) -> None:
        self._given = thread
        self._thread: _LoopThread | None = None
        self._server = UpstreamServer(
            kind,
            models=models,
            behaviour=(behaviour or Behaviour()).ordered(**orders),
            seed=seed,
            api_key=api_key,
            name=name,
            tokenizer=tokenizer,
            kv_events=kv_events,
        )
        self.name = self._server.name

    @property
    def url(self) -> str:
        """Address without a path; known once it was started."""
        return self._server.url

    @property
    def port(self) -> int:
        """Its port; 0 before the first start."""
        return self._server.port

    @property
    def kv_events(self) -> tuple[str, str]:
        """Addresses of its KV-cache events and of missed ones; known once it was started."""
        return self._server.kv_endpoint, self._server.kv_replay

    @property
    def running(self) -> bool:
        """Whether it listens."""
        return self._thread is not None

    @property
    def behaviour(self) -> Behaviour:
        """The orders it works under now."""
        return self._server.behaviour

    @property
    def records(self) -> Records:
        """What it has seen: the live object, which goes on counting."""
        return self._server.records

    def start(self) -> Self:
        """Start listening. Started twice is started once."""
        if self._thread is None:
            thread = self._given or _LoopThread()
            try:
                thread.wait(self._server.start)
            except BaseException:
                if thread is not self._given:
                    thread.close()
                raise
            self._thread = thread
        return self

    def stop(self) -> None:
        """Stop listening and cut every connection. Connecting is refused until the next `start`."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        thread.wait(self._server.stop)
        if thread is not self._given:
            thread.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def order(self, **changes: Any) -> None:
        """Change orders; they hold when this returns."""
        self._on_loop(lambda: self._server.order(**changes))

    def reset(self) -> None:
        """Forget the records and start the random source again from its seed."""
        self._on_loop(self._server.reset)

    def restart(self) -> None:
        """Cut every connection, forget the prefix cache, listen again at the same address."""
        if self._thread is None:
            self.start()
        else:
            self._thread.wait(self._server.restart)

    def _on_loop(self, work: Callable[[], None]) -> None:
        if self._thread is None:
            work()
        else:
            self._thread.call(work)


class _Remote(UpstreamFace):
    """An upstream in another process, ordered over HTTP."""

    def __init__(self, name: str, url: str, client: httpx.Client) -> None:
        self.name = name
        self._url = url
        self._client = client

    @property
    def url(self) -> str:
        return self._url

    @property
    def behaviour(self) -> Behaviour:
        return Behaviour(**self._state()["behaviour"])

    @property
    def records(self) -> Records:
        return Records.from_dict(self._state()["records"])

    def order(self, **changes: Any) -> None:
        answer = self._client.patch(self._url + CONTROL, json=changes)
        if answer.status_code == 400:
            raise ConfigurationError(str(answer.json()["error"]))
        answer.raise_for_status()

    def reset(self) -> None:
        self._client.post(self._url + CONTROL + "/reset").raise_for_status()

    @property
    def kv_events(self) -> tuple[str, str]:
        events, replay = self._state()["kv_events"]
        return events, replay

    def restart(self) -> None:
        before = self._state()["starts"]
        self._client.post(self._url + CONTROL + "/restart").raise_for_status()
        deadline = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(httpx.TransportError):
                if self._state()["starts"] > before:
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"upstream {self.name!r} did not come back within {_PATIENCE:g} s")
            time.sleep(0.005)

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._client.get(self._url + CONTROL).raise_for_status().json()
        return state


class Fleet(Mapping[str, UpstreamFace]):
    """Several upstreams that share one thread, or one process of their own. A context manager.

    Args:
        specs: What to start; a number means so many of the default.
        subprocess: Whether they get a process of their own. It ends with this one, however this one ends.
    """

    def __init__(self, specs: Sequence[Spec] | int = 1, *, subprocess: bool = False) -> None:
        wanted = [Spec() for _ in range(specs)] if isinstance(specs, int) else list(specs)
        self._specs = [_named(spec, place) for place, spec in enumerate(wanted)]
        names = [spec.name or "" for spec in self._specs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigurationError(f"two upstreams of a fleet are called {twice[0]!r}; give each its own name")
        self._subprocess = subprocess
        self._members: dict[str, UpstreamFace] = {}
        self._exit = contextlib.ExitStack()

    def start(self) -> Self:
        """Start them all. Started twice is started once."""
        if not self._members:
            with contextlib.ExitStack() as undo:
                self._members = self._in_process(undo) if self._subprocess else self._on_thread(undo)
                self._exit = undo.pop_all()
        return self

    def stop(self) -> None:
        """Stop them all."""
        self._members = {}
        self._exit.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __getitem__(self, name: str) -> UpstreamFace:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def reset(self) -> None:
        """Reset every member."""
        for member in self._members.values():
            member.reset()

    def _on_thread(self, undo: contextlib.ExitStack) -> dict[str, UpstreamFace]:
        thread = _LoopThread()
        undo.callback(thread.close)
        members: dict[str, UpstreamFace] = {}
        for spec in self._specs:
            member = Upstream(
                spec.kind,
                models=spec.models,
                seed=spec.seed or 0,
                api_key=spec.api_key,
                name=spec.name,
                tokenizer=spec.tokenizer,
                kv_events=spec.kv_events,
                thread=thread,
                behaviour=spec.behaviour,
            )
            members[member.name] = undo.enter_context(member)
        return members

    def _in_process(self, undo: contextlib.ExitStack) -> dict[str, UpstreamFace]:
        # Specs go in over stdin, not the command line: they may hold a key. The pipe stays open; its end
        # (our close, or our death) is what ends the process.
        process = subprocess.Popen(
            [sys.executable, "-m", "fast_router.testing.serve", "--specs-from-stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        undo.callback(_end, process)
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both were asked for")
        process.stdin.write(json.dumps([_plain(spec) for spec in self._specs]) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise FastRouterError(f"the upstream process ended at its start (exit {process.wait(_PATIENCE)})")
        client = undo.enter_context(httpx.Client(timeout=_PATIENCE, trust_env=False))
        return {one["name"]: _Remote(one["name"], one["url"], client) for one in json.loads(line)["upstreams"]}


def _named(spec: Spec, place: int) -> Spec:
    return replace(spec, name=spec.name or f"{spec.kind}-{place}", seed=place if spec.seed is None else spec.seed)


def _plain(spec: Spec) -> dict[str, Any]:
    return {
        "kind": spec.kind,
        "name": spec.name,
        "models": list(spec.models),
        "seed": spec.seed,
        "api_key": spec.api_key,
        "tokenizer": spec.tokenizer,
        "kv_events": spec.kv_events,
        "behaviour": spec.behaviour.as_dict(),
    }


def _end(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
