"""A rest and the return from it are logged at one level, with server, reason, length and who serves meanwhile."""

from __future__ import annotations

import logging

import pytest

from fast_router import AdvancedRouter
from fast_router.engine.failover.breaker import BreakerOptions


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def router(clock):
    models = [
        {
            "model_name": "m",
            "model_info": {"id": f"d{i}"},
            "litellm_params": {
                "model": "openai/x",
                "api_base": f"http://gpu{i}:8000/v1?key=sk-secret",
                "api_key": "sk-secret",
            },
        }
        for i in range(3)
    ]
    router = AdvancedRouter(model_list=models, clock=clock, wall=clock)
    router.enable_failover(options=BreakerOptions(cooldown=5, jitter=0, slow_start=0))
    return router


def fail(router, id_):
    others = [other for other in router.deployments if other != id_]
    router.acquire("m", exclude=others).release(ConnectionError("refused"))


def test_a_rest_and_a_return_are_told_at_one_level(router, clock, caplog):
    caplog.set_level(logging.INFO, "fast_router")
    fail(router, "d1")
    assert caplog.records == []
    fail(router, "d1")
    clock.now += 7
    router.engine.settle()
    lease = router.acquire("m", exclude=["d0", "d2"])
    clock.now += 0.5
    lease.release()
    rest, trial, back = caplog.records
    assert rest.getMessage() == (
        "m on gpu1:8000 (id d1) rests for 5.0 s: 2 connection errors or timeouts in a row; "
        "meanwhile gpu0:8000, gpu2:8000 (2 of 3)"
    )
    assert trial.getMessage() == "m on gpu1:8000 (id d1) may come back: cooldown over, one probe may try"
    assert back.getMessage() == "m on gpu1:8000 (id d1) is back after 7.5 s: the probe succeeded; 3 of 3 serve now"
    assert (rest.levelname, trial.levelname, back.levelname) == ("WARNING", "INFO", "WARNING")
    assert [each["what"].split()[0] for each in router.changes.recent] == ["rests", "may", "is"]
    assert router.changes.counts == {("m", "d1", "open"): 1, ("m", "d1", "half_open"): 1, ("m", "d1", "closed"): 1}
    assert "sk-secret" not in caplog.text + str(list(router.changes.recent))


def test_a_probe_that_fails_is_told_and_the_time_away_counts_from_the_first_rest(router, clock, caplog):
    fail(router, "d1")
    fail(router, "d1")
    began = clock.now
    clock.now += 6
    router.engine.settle()
    fail(router, "d1")
    (row,) = [row for row in router.stats()["models"]["m"]["deployments"] if row["id"] == "d1"]
    assert (row["state"], row["since"], row["reason"]) == ("resting", began, "the probe failed (connection)")
    clock.now += 20
    router.engine.settle()
    router.acquire("m", exclude=["d0", "d2"]).release()
    assert "is back after 26.0 s" in caplog.text
    assert router.changes.since("d1") is None


def test_that_nothing_else_serves_is_said(router, caplog):
    router.rest("d0", 60)
    router.rest("d2", 60)
    assert "d2" in caplog.records[-1].getMessage()
    assert "(1 of 3)" in caplog.records[-1].getMessage()
    router.rest("d1", 60)
    assert "nothing else serves" in caplog.records[-1].getMessage()
