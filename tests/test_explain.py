"""Explain names every reason against a deployment, agrees with the picks, and holds no secret."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import fast_router
from fast_router import AdvancedRouter, UnknownModelError, operator_holds
from fast_router.cli import main
from fast_router.observe import process_status
from fast_router.operator_holds import Hold


def entry(i, **params):
    return {
        "model_name": "m",
        "model_info": {"id": f"d{i}"},
        "litellm_params": {"model": "openai/x", "api_base": f"http://gpu{i}:1", "api_key": "sk-secret", **params},
    }


def why(router, id_, **ask):
    return next(row["why"] for row in router.explain("m", **ask)["deployments"] if row["full_id"] == id_)


def test_each_reason_is_named():
    router = AdvancedRouter(
        "usage_based",
        model_list=[
            entry(0, order=1),
            entry(1, order=2),
            entry(2, order=1, max_parallel_requests=1),
            entry(3, order=1, rpm=1),
            entry(4, order=1, tpm=100),
            entry(5, order=1, max_parallel_requests=0),
            entry(6, order=1),
            entry(7, order=1),
        ],
    )
    engine = router.engine
    engine.acquire_deployment(router.deployments["d2"])
    engine.acquire_deployment(router.deployments["d3"])
    router.rest("d6", 30)
    operator_holds.replace("test", [Hold("drain", id="d7", by="me@host", at=time.time())])
    try:
        assert why(router, "d0") == []
        assert why(router, "d0", exclude=["d0"]) == ["excluded by the request"]
        assert why(router, "d1") == ["order 2, and order 1 can serve"]
        assert why(router, "d2") == ["1 calls in flight, 1 at a time are allowed"]
        assert why(router, "d3") == ["this minute is used up: 1 of 1 requests"]
        assert why(router, "d4") == []
        assert why(router, "d4", tokens=500) == ["500 tokens would be too many: 0 of 100 used this minute"]
        assert why(router, "d5") == ["closed: max_parallel_requests is 0"]
        assert why(router, "d6")[0].startswith("rests for 30.0 s more: by order")
        assert why(router, "d7")[0].startswith("held: drain by me@host since")
        assert router.explain("m")["eligible"] == 2
        assert "sk-secret" not in json.dumps(router.explain("m"))
    finally:
        operator_holds.replace("test", [])
    with pytest.raises(UnknownModelError):
        router.explain("n")


def test_what_cache_aware_compares_is_what_it_picks_by():
    router = AdvancedRouter("cache_aware", model_list=[entry(i) for i in range(3)])

    def compared(**ask):
        return {row["full_id"]: row["compared"] for row in router.explain("m", **ask)["deployments"]}

    free = compared(tokens=8000)
    assert {tuple(row.items()) for row in free.values()} == {tuple(free["d0"].items())}
    assert free["d0"]["queued_seconds"] == 0
    assert free["d0"]["uncached_tokens"] == 8000
    assert free["d0"]["expected_seconds"] == pytest.approx(8000 / free["d0"]["tokens_per_second"] + 0.03)
    taken = {router.acquire("m", tokens=4000).id for _ in range(2)}
    busy = compared()
    assert len(taken) == 2
    (idle,) = set(busy) - taken
    assert busy[idle]["queued_seconds"] == 0 < min(busy[one]["queued_seconds"] for one in taken)
    assert min(busy, key=lambda one: busy[one]["expected_seconds"]) == idle == router.acquire("m").id
    assert len(compared(tokens=1)) == 3


MEMBER = st.tuples(st.sampled_from([None, 1, 2]), st.booleans())


@given(st.lists(MEMBER, min_size=1, max_size=6), st.sets(st.integers(0, 5)))
def test_who_is_eligible_is_who_is_picked(deployments, exclude):
    models = [entry(i, order=order) for i, (order, _) in enumerate(deployments)]
    router = AdvancedRouter("power_of_two", model_list=models)
    for i, (_, resting) in enumerate(deployments):
        if resting:
            router.rest(f"d{i}", 60)
    left_out = {f"d{i}" for i in exclude}
    told = {row["full_id"] for row in router.explain("m", exclude=left_out)["deployments"] if row["eligible"]}
    picked = set()
    for _ in range(80):
        try:
            lease = router.acquire("m", exclude=left_out)
        except fast_router.NoDeploymentError:
            break
        picked.add(lease.id)
        lease.release()
    assert picked == told


def test_the_command_says_it_for_each_process(runtime):
    router = AdvancedRouter("least_busy", model_list=[entry(i) for i in range(2)])
    router.rest("d1", 30)
    process_status.start()
    done = CliRunner().invoke(main, ["explain", "m", "--request", "exclude=d0"])
    assert done.exit_code == 0, done.output
    assert "0 of 2 may be picked; compared: in flight, outside" in done.output
    assert "excluded by the request" in done.output
    assert "rests for" in done.output
    done = CliRunner().invoke(main, ["explain", "n"])
    assert (done.exit_code, "there are: m" in done.output) == (2, True)
    assert CliRunner().invoke(main, ["explain", "m", "--request", "tokens=many"]).exit_code == 2


def long_ids():
    """A router whose ids are as LiteLLM makes them; two begin alike."""
    ids = [f"{i}{'ab' * 31}{i}" for i in range(2)] + [f"{0}{'ab' * 31}{2}"]
    models = [{**entry(i), "model_info": {"id": id_}} for i, id_ in enumerate(ids)]
    return AdvancedRouter("least_busy", model_list=models)


@pytest.mark.parametrize("word", ["1abababa", "1aba", "gpu1:1", f"1{'ab' * 31}1"])
def test_the_command_leaves_out_whom_people_name_as_they_do_for_a_rest(runtime, word):
    router = long_ids()
    process_status.start()
    done = CliRunner().invoke(main, ["explain", "m", "--request", f"exclude={word}", "--json"])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.output)[0]["explained"]
    assert [row["full_id"] for row in found["deployments"] if not row["eligible"]] == [f"1{'ab' * 31}1"]
    assert router.explain("m")["eligible"] == 3


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("7777", "nothing is called '7777'"),
        ("7777", "1abababa (gpu1:1)"),
        ("0abab", "several ids begin with '0abab'"),
    ],
)
def test_the_command_refuses_whom_it_does_not_know(runtime, word, says):
    router = long_ids()
    process_status.start()
    done = CliRunner().invoke(main, ["explain", "m", "--request", f"exclude={word}"])
    assert (done.exit_code, says in done.output) == (2, True), done.output
    assert f"--request exclude={word}: " in done.output
    assert router.explain("m")["eligible"] == 3


def test_an_unknown_model_is_told_as_without_a_request(runtime):
    router = long_ids()
    process_status.start()
    done = CliRunner().invoke(main, ["explain", "n", "--request", "exclude=1aba"])
    assert (done.exit_code, "no process has a model 'n'; there are: m" in done.output) == (2, True), done.output
    assert router.explain("m")["eligible"] == 3


def test_what_people_ask_python_about_is_answered():
    assert str(inspect.signature(AdvancedRouter.lease)).startswith("(self, model: 'str', *, exclude:")
    assert dir(fast_router) == sorted(fast_router.__all__)


def test_an_upstream_listens_where_it_is_told():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-m", "fast_router.testing.serve", "--port", str(port)], stdout=subprocess.PIPE, text=True
    ) as child:
        (upstream,) = json.loads(child.stdout.readline())["upstreams"]
        child.terminate()
    assert upstream["url"].endswith(f":{port}")
