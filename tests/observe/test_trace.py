"""A trace notes picks, candidates and outcomes while it is on, and leaves nothing behind when it is off."""

from __future__ import annotations

import os
import threading

import pytest
from click.testing import CliRunner

from fast_router import AdvancedRouter
from fast_router.cli import main
from fast_router.observe import answers, process_status
from fast_router.observe.trace import trace


@pytest.fixture(autouse=True)
def _no_trace():
    trace._kept.clear()
    yield
    trace.off()


@pytest.fixture
def router():
    return AdvancedRouter("least_busy", model_list=[{"model_name": "m", "id": f"d{i}"} for i in range(3)])


def test_candidates_choice_and_outcome_are_noted(router):
    before = dict(vars(router.engine))
    trace.on([router], 60)
    router.rest("d2", 60)
    first = router.acquire("m", exclude=["d1"])
    router.acquire("m", exclude=["d0"]).release(ConnectionError("secret"))
    first.first_token()
    first.release()
    one, two = trace.read()
    assert (one["picked"], one["outcome"], one["of"]) == ("d0", "ok", 3)
    assert [(each["id"], each["in_flight"]) for each in one["candidates"]] == [("d0", 0), ("d1", 0)]
    assert one["first_token"] is not None
    assert (two["picked"], two["outcome"]) == ("d1", "ConnectionError")
    assert "secret" not in str(trace.read())
    trace.off()
    assert vars(router.engine).keys() == before.keys()
    assert "acquire" not in vars(router.engine)
    router.acquire("m").release()
    assert len(trace.read()) == 2
    assert trace.read("n") == []


def test_it_ends_by_itself_and_a_hundred_threads_do_it_no_harm(router):
    trace.on([router], 0.3)

    def work():
        for _ in range(50):
            router.acquire("m").release()

    threads = [threading.Thread(target=work) for _ in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    timer = trace._timer
    if timer is not None:
        timer.join(10)
    assert not trace.active
    assert sum(d.in_flight for d in router.deployments.values()) == 0


def test_the_command_switches_it_on_and_shows_it(runtime, router):
    process_status.start()
    run = CliRunner().invoke
    assert run(main, ["trace"]).exit_code == 1
    done = run(main, ["trace", "--on", "60s"])
    assert "1 process notes picks for 1 min 0 s" in done.output
    router.acquire("m").release()
    done = run(main, ["trace"])
    assert "3 of 3: d0, d1, d2; each: in flight 0, outside 0\n" in done.output
    assert run(main, ["trace", "--off"]).exit_code == 0
    assert not trace.active


def test_servers_are_named_and_no_line_is_wider_than_a_hundred_columns(runtime):
    entries = [
        {"model_name": "assistant", "id": f"{i:02x}" * 32, "endpoint": f"http://10.0.0.{i}:8000/v1"}
        for i in range(10, 20)
    ]
    router = AdvancedRouter("peak_ewma", model_list=entries)
    process_status.start()
    CliRunner().invoke(main, ["trace", "--on", "60s"])
    with router.lease("assistant") as lease:
        router.acquire("assistant", exclude=[lease.id]).release(TimeoutError())
    lines = CliRunner().invoke(main, ["trace"]).output.splitlines()
    assert lines[0] == f"model assistant, process {os.getpid()}"
    assert lines[1].split() == ["at", "picked", "outcome", "seconds", "1st", "token"]
    picked = lease.entry["endpoint"].removeprefix("http://").removesuffix("/v1")
    assert f"  {picked} ({lease.id[:8]})" in lines[2]
    assert "10 of 10: 10.0.0.10:8000, " in lines[3]
    assert " and 4 more; each: in flight 0, outside 0" in " ".join(map(str.strip, lines[3:6]))
    assert "TimeoutError" in "".join(lines)
    assert max(map(len, lines)) <= 100


def test_litellms_picks_are_traced_too():
    import litellm

    import fast_router

    fast_router.enable()
    params = {"model": "openai/x", "api_base": "http://gpu0:1", "api_key": "k"}
    made = litellm.Router(model_list=[{"model_name": "m", "litellm_params": params, "model_info": {"id": "d0"}}])
    mine = fast_router.advanced_router(made)
    messages = [{"role": "user", "content": "secret words"}]
    made.completion("m", messages=messages, mock_response="hello")
    trace.on([mine], 60)
    made.completion("m", messages=messages, mock_response="hello")
    trace.off()
    made.completion("m", messages=messages, mock_response="hello")
    (row,) = trace.read()
    assert (row["picked"], row["outcome"]) == ("d0", "ok")
    assert "secret words" not in str(row)


def test_a_router_that_has_had_no_request_yet_is_traced():
    import litellm

    import fast_router

    fast_router.enable()
    params = {"model": "openai/x", "api_base": "http://gpu0:1", "api_key": "k"}
    made = litellm.Router(model_list=[{"model_name": "m", "litellm_params": params, "model_info": {"id": "first"}}])
    answers.answer({"do": "trace", "on": 60}, 0.0)
    made.completion("m", messages=[{"role": "user", "content": "words"}], mock_response="hello")
    assert [row["picked"] for row in trace.read("m")] == ["first"]


def test_what_cache_aware_compared_was_of_this_prompt():
    router = AdvancedRouter("cache_aware", model_list=[{"model_name": "m", "id": f"d{i}"} for i in range(3)])
    prompt = "a long beginning, " * 1500
    first = router.acquire("m", key=prompt, stream=True)
    first.first_token()
    first.release()
    trace.on([router], 60)
    second = router.acquire("m", key=prompt)
    (noted,) = trace.read()
    left = {each["id"]: each["uncached_tokens"] for each in noted["candidates"]}
    assert noted["picked"] == second.id == first.id
    assert min(left, key=left.get) == first.id
    assert left[first.id] < 0.1 * max(left.values())
