"""One upstream inside an event loop: the HTTP server, its faults and its records.

`Upstream` and `Fleet` (upstream.py) put it on a thread of its own, `python -m fast_router.testing.serve` in a
process of its own.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import random
import socket
import struct
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fast_router.errors import ConfigurationError
from fast_router.testing import answers
from fast_router.testing.behaviour import Behaviour
from fast_router.testing.kv_publisher import KvPublisher, Spelling
from fast_router.testing.metrics_page import page
from fast_router.testing.prefill import Prefill
from fast_router.testing.records import Records, Seen
from fast_router.testing.shapes import Answer, shape
from fast_router.testing.slots import Slots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

__all__ = ["CONTROL", "UpstreamServer"]

CONTROL = "/_control"
_GARBAGE = "<html><body>502 Bad Gateway</body></html>"
_STREAMS: Mapping[Answer, Callable[[answers.Body, int, str, int, answers.Prompt | None], Iterator[answers.Json]]] = {
    "chat": answers.chat_chunks,
    "completion": answers.completion_chunks,
    "responses": answers.responses_events,
}


class UpstreamServer:
    """An OpenAI-compatible server with faults to order. Belongs to the event loop that starts it.

    Args:
        kind: Name of a ready-made shape (`openai`, `vllm`, `tei`, `mistral`, `albert`).
        models: Models that it says it serves; the first is the one that a request without a model gets.
        behaviour: The orders at the start.
        seed: Seed of the random source that decides faults and jitter.
        api_key: If given, requests need `Authorization: Bearer <api_key>`; anything else is answered 401.
        name: Name for logs and control; by default the shape's.
        tokenizer: How it counts prompts where it has a prefix cache (`prefill_rate`): None for four characters per
            token, or the path of a `tokenizer.json`.
        kv_events: Whether it publishes KV-cache events, and how it spells them: "arrays" or "maps" (`kv_publisher`).
    """

    def __init__(
        self,
        kind: str = "openai",
        *,
        models: Sequence[str] = ("test-model",),
        behaviour: Behaviour | None = None,
        seed: int = 0,
        api_key: str | None = None,
        name: str | None = None,
        tokenizer: str | None = None,
        kv_events: Spelling | None = None,
    ) -> None:
        self.shape = shape(kind)
        self.name = name or kind
        self.models = tuple(models)
        if not self.models:
            raise ConfigurationError(f"upstream {self.name!r} serves no model; give at least one")
        self.behaviour = behaviour or Behaviour()
        self.records = Records()
        self.port = 0
        self.starts = 0
        self._tokenizer = tokenizer
        self._kv_events = kv_events
        self._publisher: KvPublisher | None = None
        # Addresses of events and of missed ones; "" before the first start, the same after every further one.
        self.kv_endpoint = self.kv_replay = ""
        self._prefill = Prefill(self.behaviour, tokenizer)
        self._restarting: asyncio.Task[None] | None = None
        self._seed = seed
        self._rng = random.Random(seed)
        self._api_key = api_key
        self._number = 0
        self._script = list(self.behaviour.script)
        self._slots = Slots(self.behaviour.slots)
        self._ordered = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._stopping = False

    @property
    def url(self) -> str:
        """Address without a path, for example http://127.0.0.1:40123."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen on loopback: on a port from the OS the first time, on the same port after a stop."""
        app = web.Application(client_max_size=64 * 2**20)
        for path, answer in self.shape.posts.items():
            app.router.add_post(path, self._handler(answer))
        app.router.add_get("/health", self._health)
        if self.shape.models:
            app.router.add_get("/v1/models", self._models)
        if self.shape.info:
            app.router.add_get("/info", self._info)
        if self.shape.metrics:
            app.router.add_get("/metrics", self._metrics)
        app.router.add_get(CONTROL, self._control)
        app.router.add_patch(CONTROL, self._control)
        app.router.add_post(CONTROL + "/reset", self._control_reset)
        app.router.add_post(CONTROL + "/restart", self._control_restart)
        if self.shape.metrics == "vllm":
            app.router.add_post("/reset_prefix_cache", self._reset_prefix_cache)
        # handler_cancellation: a client that leaves cancels the handler, which is how an abort is seen.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.01)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True, backlog=1024)
            await site.start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self._stopping = False
        self.starts += 1
        if self._kv_events is not None:
            known = (self.kv_endpoint, self.kv_replay) if self.kv_endpoint else ()
            self._publisher = KvPublisher(self._kv_events, *known)
            self.kv_endpoint, self.kv_replay = self._publisher.endpoint, self._publisher.replay
        self._prefill = Prefill(self.behaviour, self._tokenizer, self._publisher)
        self.port = runner.addresses[0][1]
        self._apply()

    async def stop(self) -> None:
        """Close the port and every connection. Connections to it are refused from now on."""
        if self._runner is None:
            return
        runner, self._runner, self._stopping = self._runner, None, True
        self._apply()
        await runner.cleanup()
        if self._publisher is not None:
            await self._publisher.close()
            self._publisher = None

    async def restart(self) -> None:
        """Stop and start again: every connection is cut, the prefix cache is empty."""
        await self.stop()
        await self.start()

    def order(self, **changes: Any) -> None:
        """Change orders; requests that are waiting or held feel it too.

        Raises:
            ConfigurationError: An order is unknown or makes no sense; nothing is changed.
        """
        self.behaviour = self.behaviour.ordered(**changes)
        if "script" in changes:
            self._script = list(self.behaviour.script)
        self._apply()

    def reset(self) -> None:
        """Forget the records and start the random source and the script again from the beginning."""
        self.records.clear()
        self._rng.seed(self._seed)
        self._script = list(self.behaviour.script)

    def _apply(self) -> None:
        self._slots.resize(self.behaviour.slots)
        self._prefill.apply(self.behaviour)
        if self._publisher is not None:
            self._publisher.silent = self.behaviour.kv_silent
        # Whoever waits for the old one looks at the new orders.
        self._ordered.set()
        self._ordered = asyncio.Event()

    # -- one request ------------------------------------------------------------------------------------

    def _handler(self, answer: Answer) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                async with self._recorded(request) as (seen, body):
                    return await self._answer(request, answer, seen, body)
            except ConnectionResetError:
                # The client has left while it was written to. aiohttp would log that as this handler's error; what it
                # does for a client that leaves meanwhile, it does without a word.
                raise asyncio.CancelledError from None
            raise AssertionError("unreachable: _recorded never swallows an error")

        return handle

    @asynccontextmanager
    async def _recorded(self, request: web.Request) -> AsyncIterator[tuple[Seen, dict[str, Any] | None]]:
        records = self.records
        records.requests += 1
        records.paths[request.path] += 1
        records.in_flight += 1
        records.max_in_flight = max(records.max_in_flight, records.in_flight)
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = Seen(request.path, "", False, headers, {})
        records.seen.append(seen)
        try:
            body = await _read(request)
            if body is not None:
                seen.body = body
                seen.model = str(body.get("model") or "")
                seen.stream = body.get("stream") is True
            yield seen, body
        except (asyncio.CancelledError, ConnectionResetError):
            if not self._stopping:
                seen.aborted = True
                records.aborted += 1
            raise
        finally:
            records.in_flight -= 1
            records.faults[seen.fault] += 1
            if seen.status:
                records.statuses[str(seen.status)] += 1
                if seen.status < 400 and not seen.aborted and seen.fault in {"ok", "garbage"}:
                    records.served += 1

    async def _answer(
        self, request: web.Request, answer: Answer, seen: Seen, body: dict[str, Any] | None
    ) -> web.StreamResponse:
        if self._api_key is not None and not _authorized(request, self._api_key):
            return _error(seen, 401, "Incorrect API key provided.", "invalid_api_key")
        if body is None:
            return _error(seen, 400, "The body is not a JSON object.", "invalid_request_error")
        model = seen.model or self.models[0]
        if self.behaviour.check_model and model not in self.models:
            return _error(seen, 404, f"The model `{model}` does not exist.", "model_not_found")
        # Two draws for every request, whatever its fate: changing one order leaves the other draws alone.
        chance, wobble = self._rng.random(), self._rng.random()
        orders = self.behaviour.towards(seen.headers, body)
        seen.fault = self._script.pop(0) if self._script else orders.fate(chance)
        if seen.fault in {"error", "throttle", "reset"} or (seen.fault == "stream_error" and not seen.stream):
            await _pause(orders.error_latency)
            return self._refuse(request, seen, orders)
        if orders.queue is not None and self._slots.full and self._slots.waiting >= orders.queue:
            return self._busy(seen, orders)
        self.records.waiting += 1
        try:
            await self._slots.enter()
        finally:
            self.records.waiting -= 1
        self.records.serving += 1
        try:
            if seen.fault == "hang":
                await asyncio.get_running_loop().create_future()
            await self._release(seen, body)
            return await self._serve(request, answer, seen, body, model=model, wobble=wobble)
        finally:
            self.records.serving -= 1
            self._slots.leave()

    async def _release(self, seen: Seen, body: dict[str, Any]) -> None:
        while not self._stopping and self.behaviour.towards(seen.headers, body).hold:
            await self._ordered.wait()

    def _refuse(self, request: web.Request, seen: Seen, orders: Behaviour) -> web.StreamResponse:
        if seen.fault == "reset":
            return _reset(request)
        if seen.fault == "throttle":
            return _error(seen, 429, "Rate limit reached.", "rate_limit_exceeded", orders.retry_after)
        return _error(seen, orders.error_status, orders.error_message, "server_error", orders.retry_after)

    def _busy(self, seen: Seen, orders: Behaviour) -> web.StreamResponse:
        after = self.shape.busy_retry_after if orders.retry_after is None else orders.retry_after
        return _error(seen, self.shape.busy_status, self.shape.busy_message, "overloaded", after)

    async def _serve(
        self,
        request: web.Request,
        answer: Answer,
        seen: Seen,
        body: dict[str, Any],
        *,
        model: str,
        wobble: float,
    ) -> web.StreamResponse:
        orders = self.behaviour.towards(seen.headers, body)
        tokens = _tokens(body, orders.tokens)
        await _pause(orders.latency + orders.jitter * wobble)
        with_cache = orders.prefill_rate is not None and answer in _STREAMS
        computed = (
            self._prefill.computed(body, answers.answer_text(tokens), orders, self.records)
            if with_cache
            else nullcontext()
        )
        async with computed as prompt:
            stream = _STREAMS.get(answer) if seen.stream else None
            number = self._number = self._number + 1
            if stream is not None:
                events = stream(body, number, model, tokens, prompt)
                return await self._stream(request, seen, events, orders, tokens, named=answer == "responses")
            await _pause(orders.first_token + orders.per_token * max(0, tokens - 1))
            if seen.fault == "garbage":
                seen.status = 200
                return web.Response(text=_GARBAGE, content_type="application/json")
            content, kind = answers.whole(answer, body, number, model, tokens, prompt)
            return await self._send(request, answer, seen, content, kind, tokens)

    async def _send(
        self, request: web.Request, answer: Answer, seen: Seen, content: bytes, kind: str, tokens: int
    ) -> web.StreamResponse:
        seen.status = 200
        if seen.fault == "cut":
            return await _half(request, content, kind)
        self.records.tokens += tokens if answer in _STREAMS else 0
        return web.Response(body=content, content_type=kind)

    async def _stream(
        self,
        request: web.Request,
        seen: Seen,
        events: Iterator[answers.Json],
        orders: Behaviour,
        tokens: int,
        *,
        named: bool,
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
        )
        await response.prepare(request)
        seen.status = 200
        clock = asyncio.get_running_loop().time
        due = clock() + orders.first_token  # deadlines, not delays: pauses do not add up to a drift
        for sent, event in enumerate(events):
            if sent < tokens:
                await _pause(due - clock())
                due += orders.per_token
            if seen.fault == "cut" and sent >= orders.cut_after:
                return _reset(request, response)
            if seen.fault == "stream_error" and sent >= orders.cut_after:
                await response.write(
                    f"data: {answers.compact(_told(orders.error_status, orders.error_message))}\n\n".encode()
                )
                break
            if seen.fault == "garbage":
                await response.write(f"data: {_GARBAGE}\n\n".encode())
            else:
                head = f"event: {event['type']}\n" if named else ""
                await response.write(f"{head}data: {answers.compact(event)}\n\n".encode())
            if sent < tokens:
                self.records.tokens += 1
        if seen.fault == "cut":
            return _reset(request, response)
        if not named:
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    # -- what is not a model call -----------------------------------------------------------------------

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.behaviour.healthy else 503)

    async def _models(self, request: web.Request) -> web.Response:
        if self._api_key is not None and not _authorized(request, self._api_key):
            return web.json_response({"error": {"message": "Incorrect API key provided."}}, status=401)
        length = self.shape.max_model_len
        extra = {} if length is None else {"max_model_len": length}
        data = [
            {"id": model, "object": "model", "created": 1_700_000_000, "owned_by": self.shape.name, **extra}
            for model in self.models
        ]
        return web.json_response({"object": "list", "data": data})

    async def _info(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "model_id": self.models[0],
                "model_dtype": "float16",
                "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
                "max_concurrent_requests": self.behaviour.slots or 512,
                "max_input_length": 512,
                "max_batch_tokens": 16_384,
                "max_client_batch_size": 32,
                "version": "1.0.0",
            }
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        cache = self._prefill.cache if self.behaviour.prefill_rate is not None else None
        kind = self.shape.metrics or "vllm"
        text = page(kind, self.models[0], self.behaviour, self.records, cache)
        return web.Response(text=text, content_type="text/plain")

    async def _control(self, request: web.Request) -> web.Response:
        if request.method == "PATCH":
            try:
                self.order(**await request.json())
            except (TypeError, ValueError) as error:  # ConfigurationError is a ValueError
                return web.json_response({"error": str(error)}, status=400)
        state = {
            "name": self.name,
            "shape": self.shape.name,
            "starts": self.starts,
            "kv_events": [self.kv_endpoint, self.kv_replay],
            "behaviour": self.behaviour.as_dict(),
            "records": self.records.as_dict(),
        }
        return web.json_response(state)

    async def _control_reset(self, _: web.Request) -> web.Response:
        self.reset()
        return web.json_response({})

    async def _control_restart(self, _: web.Request) -> web.Response:
        # Answered first: the restart cuts this connection, too.
        self._restarting = asyncio.get_running_loop().create_task(self.restart())
        return web.json_response({}, status=202)

    async def _reset_prefix_cache(self, _: web.Request) -> web.Response:
        self._prefill.clear()
        return web.Response()


async def _read(request: web.Request) -> dict[str, Any] | None:
    """Return the JSON body, or the form's text fields; None for a body that is neither."""
    if request.content_type.startswith("multipart/"):
        form = await request.post()
        return {name: value for name, value in form.items() if isinstance(value, str)}
    try:
        body = json.loads(await request.read())
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _authorized(request: web.Request, api_key: str) -> bool:
    return hmac.compare_digest(request.headers.get("Authorization", "").encode(), f"Bearer {api_key}".encode())


def _tokens(body: Mapping[str, Any], ordered: int) -> int:
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        limit = body.get(name)
        if isinstance(limit, int) and limit > 0:
            ordered = min(ordered, limit)
    return ordered


def _told(status: int, message: str) -> answers.Json:
    return {"error": {"message": message, "type": "server_error", "param": None, "code": status}}


def _error(seen: Seen, status: int, message: str, code: str, retry_after: float | str | None = None) -> web.Response:
    seen.status = status
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after}"}
    body = {"error": {"message": message, "type": code, "param": None, "code": code}}
    return web.json_response(body, status=status, headers=headers)


async def _half(request: web.Request, content: bytes, kind: str) -> web.StreamResponse:
    """Promise the whole body, send half of it, reset."""
    response = web.StreamResponse(headers={"Content-Type": kind, "Content-Length": str(len(content))})
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    return _reset(request, response)


def _reset(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Reset the connection (RST, not FIN): linger 0 makes the kernel drop what is unsent."""
    transport = request.transport
    if transport is not None:
        plain: socket.socket | None = transport.get_extra_info("socket")
        if plain is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return response or web.Response()


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)
