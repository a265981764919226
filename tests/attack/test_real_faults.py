"""Servers that really fail are found as fast as ever, whether many callers meet them or one alone.

`python -m tests.attack.test_real_faults [FAULT…]` prints how many picks the broken servers got.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys

import pytest

import fast_router
from fast_router.engine.deployment import RESTING
from tests.attack.doors import EVE, GOOD, RouterDoor, entries
from tests.attack.upstreams import MEMBERS, fleet
from tests.support.waiting import until

REQUESTS = 30
# What is ordered of the broken server, and how many of 30 requests may meet it.
FAULTS = {
    "dead": (None, 3),
    "resets": ({"reset_rate": 1.0}, 3),
    "answers 500": ({"error_rate": 1.0}, 6),
    "answers 503": ({"error_rate": 1.0, "error_status": 503}, 6),
    "answers 429": ({"throttle_rate": 1.0, "retry_after": 30}, 2),
    "refuses its key": ({"error_rate": 1.0, "error_status": 401}, 3),
    "lacks the model": ({"error_rate": 1.0, "error_status": 404}, 3),
    "hangs": ({"hang_rate": 1.0}, 4),
    "answers garbage": ({"garbage_rate": 1.0}, 6),
}
CALLERS = {"one caller": (GOOD,), "three callers": (GOOD, "sk-second", "sk-third")}


@contextlib.contextmanager
def broken(upstream, orders):
    """Let a server fail for the length of the block."""
    if orders is None:
        upstream.stop()
    else:
        rules = upstream.behaviour.rules
        upstream.order(rules=[], **orders)
    try:
        yield
    finally:
        if orders is None:
            upstream.start()
        else:
            upstream.order(rules=rules, **{name: 0 if name.endswith("_rate") else None for name in orders
                                           if name != "error_status"})  # fmt: skip


def picks(door, group):
    deployments = fast_router.advanced_router(door.router).deployments
    return {name: deployments[f"{group}-{name}"].picks for name in MEMBERS}


async def measure(door, group, upstreams, failing, orders, callers, requests=REQUESTS, **request):
    """Send requests past broken servers; how many picks each of the three got, and what failed."""
    for _ in range(12):
        assert (await door.chat(group)).error is None
    before = picks(door, group)
    with contextlib.ExitStack() as stack:
        for name in failing:
            stack.enter_context(broken(upstreams[name], orders))
        answers = [await door.chat(group, by=callers[n % len(callers)], **request) for n in range(requests)]
        after = picks(door, group)
    return {name: after[name] - before[name] for name in MEMBERS}, [a.error for a in answers if a.error]


@pytest.mark.python_core
@pytest.mark.parametrize("callers", CALLERS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_broken_server_is_found_after_a_few_requests(upstreams, door_to, fault, callers):
    orders, most = FAULTS[fault]
    door = door_to(entries(upstreams, "real", {"timeout": 0.3}))
    calls, failed = await measure(door, "real", upstreams, "b", orders, CALLERS[callers])
    assert calls["b"] <= most, calls
    # LiteLLM does not try a 404 elsewhere.
    assert len(failed) <= (calls["b"] if fault == "lacks the model" else 0), failed


@pytest.mark.python_core
@pytest.mark.parametrize("callers", CALLERS)
@pytest.mark.parametrize("fault", ["dead", "answers 500", "refuses its key"])
async def test_a_whole_outage_is_not_multiplied_and_ends_with_it(upstreams, door_to, fault, callers):
    door = door_to(entries(upstreams, "outage"), cooldown_time=1)
    calls, failed = await measure(door, "outage", upstreams, MEMBERS, FAULTS[fault][0], CALLERS[callers])
    assert len(failed) == REQUESTS
    assert sum(calls.values()) <= 3 * REQUESTS
    await asyncio.sleep(1.2)
    answers = [await door.chat("outage") for _ in range(12)]
    assert not [answer.error for answer in answers if answer.error]


@pytest.mark.python_core
@pytest.mark.parametrize("callers", CALLERS)
@pytest.mark.parametrize("orders", [{"cut_rate": 1.0}, {"stream_error_rate": 1.0, "error_status": 500}], ids=str)
async def test_a_server_whose_streams_break_is_found(upstreams, door_to, orders, callers):
    door = door_to(entries(upstreams, "streams"))
    calls, failed = await measure(door, "streams", upstreams, "b", orders, CALLERS[callers], stream=True)
    assert calls["b"] <= 6, calls
    assert len(failed) <= calls["b"], failed


@pytest.mark.python_core
@pytest.mark.parametrize("callers", CALLERS)
async def test_a_group_without_quota_says_so_at_once(upstreams, door_to, callers):
    """A request that every member refuses for half a minute is not held for half a minute, nor is the next."""
    door = door_to(entries(upstreams, "quota"))
    orders = FAULTS["answers 429"][0]
    work = measure(door, "quota", upstreams, MEMBERS, orders, CALLERS[callers], requests=4)
    _, failed = await asyncio.wait_for(work, 20)
    assert len(failed) == 4


@pytest.mark.parametrize("sync", [False, True])
async def test_a_real_fault_lasts_no_longer_for_what_one_caller_was_told(upstreams, door_to, sync):
    """Asked to stay away for ten minutes at every server; the others' failures are no word for that."""
    door = door_to(entries(upstreams, "told"), cooldown_time=0.2, sync=sync)
    engine = fast_router.advanced_router(door.router).engine

    def rests():
        engine.settle()
        return {id_: d.resting_until - engine.clock() for id_, d in engine.deployments.items() if d.held & RESTING}

    for at in range(6):
        await door.chat("told", "end-user-429", by=EVE)
        with broken(upstreams[MEMBERS[at % 3]], {"error_rate": 1.0}):
            assert not [answer.error for answer in [await door.chat("told") for _ in range(4)] if answer.error]
        # Whoever asks next finds out whether a rest on one caller's word is true.
        assert (await door.chat("told", by="sk-second")).error is None
        assert all(seconds < 60 for seconds in rests().values()), rests()
        await until(lambda: not rests())


async def _table(faults: list[str]) -> None:
    logging.disable(logging.CRITICAL)
    with fleet() as upstreams:
        for fault in faults:
            orders = FAULTS[fault][0]
            for callers, keys in CALLERS.items():
                row = []
                for failing in ("b", MEMBERS):
                    for _ in range(3):
                        door = RouterDoor(entries(upstreams, "real", {"timeout": 0.3}))
                        if failing == "b":
                            calls, failed = await measure(door, "real", upstreams, failing, orders, keys)
                            row.append(f"{calls['b']}{'!' if failed else ''}")
                        elif fault != "hangs":
                            calls, failed = await measure(door, "real", upstreams, failing, orders, keys)
                            row.append(f"{sum(calls.values())}")
                        door.close()
                print(f"{fault:16} {callers:14} one broken: {row[:3]}  all broken: {row[3:]}", flush=True)


if __name__ == "__main__":
    asyncio.run(_table(sys.argv[1:] or list(FAULTS)))
