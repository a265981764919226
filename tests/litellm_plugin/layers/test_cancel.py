"""A caller who goes away in any moment of a request leaves nothing behind: no lease, no probe, no place in a line."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from fast_router import settings
from fast_router.litellm_plugin.picks.binding import existing
from fast_router.litellm_plugin.switch import switch as _switch
from fast_router.testing import Fleet
from tests.support.plugin import MESSAGES, calm, failover_of, over, until

pytestmark = pytest.mark.usefixtures("plugin")
logging.getLogger("LiteLLM Router").setLevel(logging.CRITICAL)
HEDGED = {"hedge_percent": 100, "hedge_delay": 0.0}
# So many turns of the event loop more from one cancelled request to the next, until they are over before it comes.
STRIDE = 3
COMPLETE = 3


@pytest.fixture(scope="module")
def servers():
    with Fleet(3) as running:
        yield list(running.values())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("options", [{}, {"max_wait": 5}, HEDGED, {"max_wait": 5, **HEDGED}], ids=str)
@pytest.mark.parametrize("faults", [{}, {"script": ("error", "ok") * 500}, {"script": ("reset", "cut", "ok") * 400}])
async def test_cancelled_anywhere_nothing_is_left(servers, faults, options, stream):
    settings.configure(**options)
    for server in calm(servers):
        server.order(cut_after=0, **faults)
    router = over(servers, each={"max_parallel_requests": 2}, cooldown_time=0.05)

    async def call():
        response = await router.acompletion(model="m", messages=MESSAGES, stream=stream)
        if stream:
            async for _ in response:
                pass

    core = _switch.band.core_of(router)
    policy = failover_of(router).policy
    turns = complete = 0
    while complete < COMPLETE:
        if options.get("max_wait"):
            for deployment in list(policy.engine.deployments.values()):
                policy.engine.rest(deployment, 0.002)  # so that the request stands in line first
        task = asyncio.create_task(call())
        for _ in range(turns):
            await asyncio.sleep(0)
        complete += task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        turns += STRIDE
    deployments = list(policy.engine.deployments.values())

    def left():
        gc.collect()
        policy.engine.settle()
        return [(d.in_flight, d.talking, d.held) for d in deployments if d.in_flight or d.talking or d.held]

    await until(lambda: not left(), told=left)
    waiting = existing(core).waiting
    if waiting is not None:
        assert [len(queue) or queue.busy for queue, _ in waiting._queues.values()] == [False] * len(waiting._queues)
        assert [outage.active or len(outage) for outage in waiting._outages.values()] == [0] * len(waiting._outages)
    for server in servers:
        server.order(script=())
    await call()
