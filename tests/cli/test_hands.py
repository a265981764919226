"""Rest, drain, wake and weight from outside: told to every process, kept over restarts, lifted by nobody else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import time

import pytest
from click.testing import CliRunner

from fast_router import AdvancedRouter, operator_holds
from fast_router.cli import main
from fast_router.engine.failover.breaker import BreakerOptions
from fast_router.observe import process_status


def router_of(count=3, **options):
    models = [
        {
            "model_name": "m",
            "model_info": {"id": f"{i}{'ab' * 31}{i}"},
            "litellm_params": {"model": "openai/x", "api_base": f"http://gpu{i}:8000/v1"},
        }
        for i in range(count)
    ]
    return AdvancedRouter(model_list=models, **options)


def run(*words):
    return CliRunner().invoke(main, list(words))


def picked(router, count=60):
    found = set()
    for _ in range(count):
        with router.lease("m") as lease:
            found.add(lease.id[0])
    return found


def test_a_server_rests_until_it_is_woken_and_says_who_when_and_how_long(runtime):
    router = router_of()
    process_status.start()
    done = run("rest", "gpu1:8000", "--for", "30m")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("m on gpu1:8000 (id 1abababa) rests for 30 min 0 s\n1 process told")
    assert picked(router) == {"0", "2"}
    (row,) = [row for row in router.stats()["models"]["m"]["deployments"] if row["server"] == "gpu1:8000"]
    assert row["state"] == "held"
    assert re.fullmatch(r"rest by \S+@\S+ since [\d:]+ until [\d:]+", row["reason"])
    assert 1790 < row["seconds_left"] <= 1800
    assert "held" in run("status").output
    assert run("wake", "gpu1:8000").exit_code == 0
    assert picked(router) == {"0", "1", "2"}
    assert json.loads((runtime / "holds.json").read_text())["holds"] == []


@pytest.mark.parametrize("word", ["1abababa", "1aba", "gpu1", "gpu1:8000", f"1{'ab' * 31}1"])
def test_people_may_say_id_beginning_host_or_server(runtime, word):
    router = router_of()
    process_status.start()
    assert run("rest", word).exit_code == 0
    assert picked(router) == {"0", "2"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rest", "gpu9:8000"], "nothing is called 'gpu9:8000'"),
        (["rest", "gpu9:8000"], "did you mean 'gpu"),
        (["rest", "gpu1:8000", "--model", "n"], "no process has a model 'n'"),
        (["rest", "gpu1:8000", "--for", "soon"], "write 90s, 30m, 2h or 1d"),
        (["rest", "gpu1:8000", "--for", "0s"], "write 90s, 30m, 2h or 1d"),
        (["weight", "gpu1:8000", "heavy"], "no weight"),
        (["weight", "gpu1:8000", "nan"], "no weight"),
    ],
)
def test_a_wrong_word_is_one_line_and_exit_code_2(runtime, words, says):
    router = router_of()
    process_status.start()
    done = run(*words)
    assert (done.exit_code, says in done.output) == (2, True), done.output
    assert picked(router) == {"0", "1", "2"}


def test_the_last_of_a_model_needs_force(runtime):
    router = router_of(2)
    process_status.start()
    assert run("rest", "gpu0").exit_code == 0
    done = run("rest", "gpu1")
    assert done.exit_code == 1
    assert "would leave 'm' without any deployment; --force" in done.output
    assert picked(router) == {"1"}
    assert run("rest", "gpu1", "--force").exit_code == 0
    assert router.engine.peek(router.group("m")) is None


def test_drain_waits_until_the_calls_that_run_have_ended(runtime):
    router = router_of(2)
    process_status.start()
    lease = router.acquire("m", exclude=[f"0{'ab' * 31}0"])
    with subprocess.Popen(
        [sys.executable, "-m", "fast_router.cli", "drain", "gpu1"], stdout=subprocess.PIPE, text=True
    ) as draining:
        assert "drains" in draining.stdout.readline()
        assert "1 process told" in draining.stdout.readline()
        assert "1 in flight" in draining.stdout.readline()
        assert router.stats()["models"]["m"]["deployments"][1]["state"] == "draining"
        assert picked(router, 20) == {"0"}
        lease.release()
        assert draining.stdout.readline().startswith("empty after")
    assert router.stats()["models"]["m"]["deployments"][1]["state"] == "drained"


def test_a_weight_is_set_and_taken_back(runtime):
    router = router_of(2)
    router.set_model_list(
        [{**d.entry, "litellm_params": {**d.entry["litellm_params"], "weight": 1}} for d in router.deployments.values()]
    )
    process_status.start()
    assert run("weight", "gpu1", "0").exit_code == 0
    assert picked(router) == {"0"}
    assert run("weight", "gpu1", "default").exit_code == 0
    assert picked(router) == {"0", "1"}


def test_a_weight_that_the_strategy_does_not_look_at_is_said(runtime):
    router = router_of(2, strategy="least_busy")
    process_status.start()
    done = run("weight", "gpu1", "0.5")
    assert done.exit_code == 0
    assert "m is chosen by least_busy, which looks at no weights" in done.output
    assert "looks at" not in run("weight", "gpu1", "default").output
    assert [d.operator_weight for d in router.deployments.values()] == [None, None]


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_neither_probe_nor_panic_nor_reload_lifts_a_hold_and_its_time_does(runtime):
    clock = Clock()
    router = router_of(3, clock=clock)
    policy = router.enable_failover(options=BreakerOptions(cooldown=5, jitter=0))
    process_status.start()
    held = router.deployments[f"1{'ab' * 31}1"]
    policy.trip(held, "before", seconds=10)
    assert run("rest", "gpu1", "--for", "1h").exit_code == 0
    clock.now += 11
    router.engine.settle()
    policy.wake(held, "its health check succeeded")
    for other in router.deployments.values():
        policy.trip(other, "panic", seconds=5)
    clock.now += 60
    router.engine.settle()
    assert picked(router) == {"0", "2"}
    clock.now += 10  # whoever came back with a small share has its whole one again
    router.set_model_list([d.entry for d in router.deployments.values()])
    assert picked(router) == {"0", "2"}
    clock.now += 3600
    router.engine.settle()
    assert picked(router) == {"0", "1", "2"}


def test_what_is_left_of_a_group_is_not_emptied_by_our_own_rules(runtime):
    router = router_of(3)
    policy = router.enable_failover()
    process_status.start()
    assert run("rest", "gpu0").exit_code == 0
    assert run("rest", "gpu1").exit_code == 0
    assert policy.trip(router.deployments[f"2{'ab' * 31}2"], "it fails", seconds=60) is False
    assert picked(router, 5) == {"2"}


WORKER = """
    import sys
    from fast_router import AdvancedRouter
    from fast_router.observe import process_status
    router = AdvancedRouter(model_list=[
        {"model_name": "m", "id": f"d{i}", "litellm_params": {"api_base": f"http://gpu{i}:8000"}} for i in range(3)])
    assert process_status.start()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(*sorted({router.acquire("m").id for _ in range(60)}), flush=True)
"""


def worker():
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    return child


def ask(child):
    child.stdin.write("\n")
    child.stdin.flush()
    return child.stdout.readline().split()


def test_every_worker_is_told_and_one_that_starts_later_knows(runtime):
    workers = [worker(), worker()]
    try:
        done = run("rest", "gpu2")
        assert "2 processes told" in done.output
        assert [ask(each) for each in workers] == [["d0", "d1"]] * 2
        for each in workers:
            each.kill()
            each.communicate()
        workers = [worker()]
        assert ask(workers[0]) == ["d0", "d1"]
        assert "d2" in run("status").output
        assert run("wake", "d2").exit_code == 0
        assert ask(workers[0]) == ["d0", "d1", "d2"]
    finally:
        for each in workers:
            each.kill()
            each.communicate()


def test_orders_of_other_versions_and_half_written_files_do_no_harm(runtime):
    now = time.time()
    good = {"action": "rest", "id": "d0", "at": now}
    bad = [
        None,
        7,
        {},
        {"action": "jump", "id": "d0"},
        {"action": "rest"},
        {**good, "until": "soon"},
        {**good, "id": 7},
    ]
    bad += [{**good, "until": now - 1}, {**good, "until": float("nan")}, {**good, "action": "weight"}]
    bad += [{**good, "action": "weight", "weight": -1}, {**good, "at": True}]
    assert [hold.id for hold in operator_holds.parse({"holds": [*bad, {**good, "new_in_a_later_version": 1}]})] == [
        "d0"
    ]
    for text in ("", "{", "[]", '{"holds": 7}'):
        (runtime / "holds.json").write_text(text)
        assert operator_holds.read(runtime) == []
    assert runtime.stat().st_mode & 0o077 == 0
