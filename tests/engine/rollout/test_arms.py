import json
import math
import random
import threading

import pytest

from fast_router.engine.rollout.arms import Arms
from fast_router.engine.rollout.assignment import Assignment
from fast_router.observe.arms import rollouts


def arms(share=0.5, measure="latency"):
    return Arms("litellm", "fast_router", Assignment(share, "rollout", random.Random(5)), measure, lambda: 1000.0)


def test_each_arm_counts_its_own_requests():
    both = arms()
    both.ended(both.new, 0.2, attempts={"a": 1})
    both.ended(both.new, 1.0, failed=True, attempts={"a": 2, "b": 1})
    both.ended(both.old, 0.4, first_token=0.1, attempts={"b": 1})
    both.ended(both.old, 9.0, cancelled=True, attempts={"b": 1})
    old, new = both.report()["arms"]
    assert (old["arm"], old["requests"], old["failures"], old["cancelled"], old["retries"]) == ("litellm", 1, 0, 1, 0)
    assert (new["arm"], new["requests"], new["failures"], new["cancelled"], new["retries"]) == (
        "fast_router",
        2,
        1,
        0,
        2,
    )
    assert new["busiest"] == 0.75
    assert old["first_token"]["p50"] is not None
    assert new["first_token"]["p50"] is None


def test_a_failure_or_a_caller_that_left_is_no_latency():
    both = arms()
    both.ended(both.new, 30.0, failed=True)
    both.ended(both.new, 30.0, cancelled=True)
    assert both.report()["arms"][1]["latency"] == {"p50": None, "p95": None, "p99": None}


def test_a_report_is_json_whatever_was_counted():
    for measure in ("latency", "first_token", "failures"):
        both = arms(measure=measure)
        json.dumps(both.report(), allow_nan=False)
        for number in range(60):
            arm = both.new if number % 2 else both.old
            both.ended(arm, 0.0, failed=arm is both.new, first_token=0.0)
        json.dumps(both.report(), allow_nan=False)


def test_the_verdict_says_who_is_better_by_how_much():
    both, rng = arms(), random.Random(3)
    for _ in range(400):
        arm = both.arm(None)
        both.ended(arm, math.exp(rng.gauss(0.0, 0.3)) * (0.5 if arm is both.new else 1.0))
    report = both.report()
    assert report["differs"]
    assert report["verdict"].startswith("fast_router has less latency than litellm: ×0.")
    assert report["ratio"]["low"] < 0.5 < report["ratio"]["high"] < 0.6


def test_only_the_named_measure_is_tested():
    both = arms(measure="failures")
    for number in range(400):
        both.ended(both.new if number % 2 else both.old, 0.1 if number % 2 else 10.0)
    assert not both.report()["differs"]
    assert "too few" in both.report()["verdict"]


def test_threads_lose_no_request():
    both, together = arms(), threading.Barrier(4)

    def count():
        together.wait()
        for _ in range(500):
            both.ended(both.new, 0.1, attempts={"a": 2})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (both.new.requests, both.new.retries, both.new.log_latency.count) == (2000, 2000, 2000)


def test_the_arms_of_several_processes_say_what_one_would_have_said():
    parts, whole, rng = [arms(), arms(), arms()], arms(), random.Random(9)
    for number in range(300):
        new, seconds, failed = rng.random() < 0.5, rng.lognormvariate(-1.0, 0.5), rng.random() < 0.1
        for each in (parts[number % 3], whole):
            arm = each.new if new else each.old
            each.ended(arm, seconds, failed=failed, first_token=seconds / 3, attempts={f"d{number % 2}": 1 + failed})
    (together,) = rollouts([{"rollout": {"rollout": 50.0, **part.report()}} for part in parts] + [{}])
    said = whole.report()
    assert together.pop("workers") == 3
    assert together["verdict"] == said["verdict"]
    assert together["ratio"] == pytest.approx(said["ratio"])
    for ours, theirs in zip(together["arms"], said["arms"], strict=True):
        assert ours.pop("spread") == pytest.approx(theirs.pop("spread"))
        ours.pop("sums")
        theirs.pop("sums")
        assert ours == theirs
