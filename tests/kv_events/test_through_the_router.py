"""Chats that litellm.Router sends are matched with the servers' events, as the model's own template renders them."""

from __future__ import annotations

import time

import litellm
import pytest

pytest.importorskip("zmq")
pytest.importorskip("msgspec")

import fast_router
from fast_router.kv_events import follow
from fast_router.testing import Fleet, Spec
from fast_router.testing.behaviour import Behaviour
from tests.support.tokenizer import model_folder

SYSTEM = {"role": "system", "content": "You look at what was computed before and go on from there. " * 60}
TOOLS = [{"type": "function", "function": {"name": "read", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture
def plugin_on():
    fast_router.enable()
    yield
    fast_router.disable()


async def test_chats_are_tied_to_the_blocks_that_servers_tell(plugin_on):
    orders = Behaviour(prefill_rate=1e7, block_size=16, cache_blocks=2000, tokens=1)
    specs = [
        Spec("vllm", name=f"gpu-{n}", behaviour=orders, kv_events="maps", tokenizer=model_folder()) for n in (0, 1)
    ]
    with Fleet(specs) as fleet:
        router = litellm.Router(
            model_list=[
                {
                    "model_name": "m",
                    "litellm_params": {"model": "hosted_vllm/m", "api_base": one.api_base, "api_key": "none"},
                    "model_info": {
                        "id": name,
                        "fast_router": {
                            "kv_events": one.kv_events[0],
                            "kv_replay": one.kv_events[1],
                            "tokenizer": model_folder(),
                        },
                    },
                }
                for name, one in fleet.items()
            ],
            routing_strategy="cache_aware",
            num_retries=0,
        )
        ours = fast_router.advanced_router(router)
        ever = known = 0
        end = time.monotonic() + 30
        number = 0
        while known < 5:
            assert time.monotonic() < end, (ever, known)
            number += 1
            messages = [SYSTEM, {"role": "user", "content": f"Question {number}. " * 30}]
            await router.acompletion(model="m", messages=messages, tools=TOOLS)
            follower = follow._followers.get(model_folder())
            if follower is not None and follower.ties is not None:
                ever = len(follower.ever)
                known = sum(key in follower.ever for key in list(follower.ties.blocks.values()))
        work = [d.work for d in ours.deployments.values()]
        assert all(one is not None for one in work)
