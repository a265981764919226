"""Several threads, one engine: counts stay exact, nothing breaks."""

from __future__ import annotations

import gc
import random
import sys
import threading
import weakref

import pytest

from fast_router.engine import Deployment, Engine
from tests.engine.contract import STRATEGIES


@pytest.fixture(autouse=True)
def _switch_often():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_counts_are_exact_under_threads_with_cooldown_churn(strategy):
    engine = Engine(rng=random.Random(5))
    members = [Deployment(f"d{i}", "g", {}) for i in range(8)]
    engine.deployments.update({d.id: d for d in members})
    group = engine.compile_group("g", members, strategy)
    start = threading.Barrier(5)
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            start.wait()
            for turn in range(1500):
                lease = engine.acquire(group)
                if lease is not None:
                    lease.release(ValueError() if turn % 7 == 0 else None, completion_tokens=turn % 3)
        except BaseException as error:
            errors.append(error)

    def churn() -> None:
        try:
            start.wait()
            chance = random.Random(9)
            while not done.is_set():
                member = chance.choice(members)
                engine.rest(member, 0.0005)
                engine.wake(chance.choice(members))
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    other = threading.Thread(target=churn)
    for thread in (*workers, other):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    other.join()
    assert not errors
    assert [d.in_flight for d in members] == [0] * 8
    for member in members:
        engine.wake(member)
    tier = group.tiers[None]
    assert set(tier.ready) == set(members)


def test_a_finaliser_that_runs_inside_the_engine_changes_nothing_there():
    """Garbage collection may run at any allocation, so also while the lock is held: it must only leave a note."""
    engine = Engine(rng=random.Random(5))
    members = [Deployment(f"d{i}", "g", {}) for i in range(3)]
    group = engine.compile_group("g", members, "least_busy")

    class Stream:
        pass

    gc.freeze()  # what other tests have loaded need not be looked through two hundred times
    try:
        for _ in range(200):
            stream = Stream()
            stream.itself = stream  # a cycle: only the collector frees it
            lease = engine.acquire(group)
            weakref.finalize(stream, lease.abandon)
            del stream, lease
            with engine.lock:
                gc.collect(0)
                before = [d.in_flight for d in members]
                gc.collect()
                assert [d.in_flight for d in members] == before
        gc.collect()
    finally:
        gc.unfreeze()
    engine.settle()
    assert [d.in_flight for d in members] == [0, 0, 0]
