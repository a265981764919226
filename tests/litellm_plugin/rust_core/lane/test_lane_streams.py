"""A chat stream of the lane gives back what it holds, whichever way it ends; that it reads alike is in `test_walks`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import litellm
import pytest
from litellm import Router

import fast_router

pytestmark = [
    pytest.mark.skipif(
        not hasattr(Router, "from_config") or fast_router.status()["band"] != "1.110", reason="this core is Python"
    ),
    pytest.mark.usefixtures("plugin"),
]

MESSAGES = [{"role": "user", "content": "hello"}]


class Provider:
    """A stream of three chunks; `told` keeps how it ended. With `hang` the second one never comes."""

    def __init__(self, *, hang: bool = False) -> None:
        self.hang = hang
        self.told: list[str] = []
        self.waits = asyncio.Event()
        self.real = litellm.acompletion

    async def __call__(self, **kwargs: Any) -> Any:
        response: Any = await self.real(
            model="openai/x", messages=MESSAGES, stream=True, mock_response="one two three four", api_key="k"
        )
        inner = response.completion_stream

        async def chunks() -> Any:
            try:
                count = 0
                async for chunk in inner:
                    count += 1
                    if self.hang and count > 1:
                        self.waits.set()
                        await asyncio.Event().wait()
                    yield chunk
                self.told.append("read")
            except GeneratorExit:
                self.told.append("closed")
                raise
            except asyncio.CancelledError:
                self.told.append("cancelled")
                raise

        response.completion_stream = chunks()
        return response


def limit_of(made: Router) -> int:
    found = vars(made)["_core"]._cache.in_memory_cache.cache_dict["only_max_parallel_requests_client"]
    return int(found.in_flight)


def in_flight(made: Router) -> int:
    router = fast_router.advanced_router(made)
    router.engine.settle()  # what was dropped is given back by whoever looks next
    return router.deployments["only"].in_flight


@pytest.fixture
async def made():
    params = {"model": "openai/x", "api_key": "k", "max_parallel_requests": 2}
    router = Router(model_list=[{"model_name": "m", "litellm_params": params, "model_info": {"id": "only"}}])
    yield router
    router.discard()


async def begun(made: Router) -> Any:
    before = fast_router.status()["lane"]["requests"]
    stream = await made.acompletion(model="m", messages=MESSAGES, stream=True)
    assert fast_router.status()["lane"]["requests"] == before + 1
    assert (limit_of(made), in_flight(made)) == (1, 1)
    return stream


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_read_to_its_end(made, monkeypatch):
    provider = Provider()
    monkeypatch.setattr(litellm, "acompletion", provider)
    stream = await begun(made)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "one two three four"
    assert provider.told == ["read"]
    assert (limit_of(made), in_flight(made)) == (0, 0)
    assert [chunk async for chunk in stream] == []


@pytest.mark.parametrize("chunks", [0, 1, 2])
async def test_closed_by_its_caller(made, monkeypatch, chunks):
    provider = Provider()
    monkeypatch.setattr(litellm, "acompletion", provider)
    stream = await begun(made)
    for _ in range(chunks):
        await stream.__anext__()
    await stream.aclose()
    await settled()
    assert in_flight(made) == 0
    if chunks:
        # LiteLLM's generator gives the slot back, and one that was never begun has nothing to close.
        assert limit_of(made) == 0
        assert provider.told == ["closed"]


async def test_dropped_half_read(made, monkeypatch):
    monkeypatch.setattr(litellm, "acompletion", Provider())
    stream = await begun(made)
    await stream.__anext__()
    del stream
    gc.collect()
    await settled()
    assert (limit_of(made), in_flight(made)) == (0, 0)


async def test_cancelled_while_it_waits(made, monkeypatch):
    provider = Provider(hang=True)
    monkeypatch.setattr(litellm, "acompletion", provider)
    stream = await begun(made)

    async def read() -> None:
        async for _ in stream:
            pass

    reader = asyncio.create_task(read())
    await provider.waits.wait()
    reader.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reader
    await settled()
    assert reader.cancelled()
    assert (limit_of(made), in_flight(made)) == (0, 0)
    assert provider.told == ["cancelled"]


async def test_a_success_is_counted_once(made, monkeypatch):
    monkeypatch.setattr(litellm, "acompletion", Provider())
    for _ in range(3):
        stream = await begun(made)
        async for _ in stream:
            pass
    await settled()
    assert vars(made)["_core"]._cache.in_memory_cache.cache_dict["only:successes"] == 3


async def test_one_reader_at_a_time(made, monkeypatch):
    provider = Provider(hang=True)
    monkeypatch.setattr(litellm, "acompletion", provider)
    stream = await begun(made)
    await stream.__anext__()
    reader = asyncio.create_task(stream.__anext__())
    await provider.waits.wait()
    with pytest.raises(RuntimeError):
        await stream.__anext__()
    await stream.aclose()  # LiteLLM notes that it could not
    assert (limit_of(made), in_flight(made)) == (1, 1)
    reader.cancel()
    await asyncio.wait([reader])
    assert (limit_of(made), in_flight(made)) == (0, 0)
    assert provider.told == ["cancelled"]


async def test_a_pause_ends_it(made, monkeypatch):
    provider = Provider(hang=True)
    monkeypatch.setattr(litellm, "acompletion", provider)
    fast_router.configure(stream_idle_timeout=5)
    stream = await begun(made)
    source = vars(stream)["_async_generator"]
    assert source.idle == 5
    source.idle = 0.01
    await stream.__anext__()
    with pytest.raises(litellm.Timeout):
        await stream.__anext__()
    await settled()
    assert (limit_of(made), in_flight(made)) == (0, 0)
    assert [chunk async for chunk in stream] == []


async def test_closed_after_its_end_and_read_after_its_close(made, monkeypatch):
    monkeypatch.setattr(litellm, "acompletion", Provider())
    stream = await begun(made)
    await stream.__anext__()
    source = vars(stream)["_async_generator"]
    await source.aclose()
    assert [chunk async for chunk in source] == []
    await source.aclose()
    assert (limit_of(made), in_flight(made)) == (0, 0)
