"""One sentence answers an operator: which server, since when, why, who serves meanwhile, when it is tried again."""

from __future__ import annotations

import time

import pytest

from fast_router import AdvancedRouter
from fast_router.cli.trouble import troubles
from fast_router.engine.failover.breaker import BreakerOptions
from fast_router.observe.summary import summarise


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def router(clock):
    models = [{"model_name": "m", "id": f"d{i}", "endpoint": f"gpu{i}:8000"} for i in range(6)]
    made = AdvancedRouter("least_busy", model_list=models, clock=clock)
    made.enable_failover(options=BreakerOptions(cooldown=5, jitter=0))
    return made


def fail(router, id_, times=2):
    others = [other for other in router.deployments if other != id_]
    for _ in range(times):
        router.acquire("m", exclude=others).release(ConnectionError())


def sentences(*routers, most=5):
    documents = [{"pid": pid, "routers": [router.stats()]} for pid, router in enumerate(routers)]
    return troubles(summarise(documents)["groups"], time.time(), most)


def test_all_is_said_and_nothing_while_all_is_well(router, clock):
    assert sentences(router) == []
    fail(router, "d1")
    clock.now += 2
    (found,) = sentences(router)
    head, moment, *rest = found.split("; ")
    assert head == "m on gpu1:8000 (id d1): resting"
    assert moment.startswith("since ")
    assert moment.endswith(" (0.0 s)")
    assert rest == [
        "next try in 3.0 s",
        "2 connection errors or timeouts in a row",
        "meanwhile gpu0:8000, gpu2:8000, gpu3:8000 and 2 more",
    ]


def test_workers_that_see_it_otherwise_are_counted(router, clock):
    healthy = AdvancedRouter(
        "least_busy", model_list=[{"model_name": "m", "id": "d1", "endpoint": "gpu1:8000"}], clock=clock
    )
    fail(router, "d1")
    (found,) = sentences(router, healthy)
    assert found.startswith("m on gpu1:8000 (id d1): resting in 1 of 2 workers; since ")


def test_a_due_one_says_what_is_awaited_and_the_rest_is_counted(router, clock):
    for number in range(6):
        fail(router, f"d{number}")
    clock.now += 10
    found = sentences(router, most=2)
    assert len(found) == 3
    assert "its next call is the try" in found[0]
    assert found[-1] == "… and 4 more"
