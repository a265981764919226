"""The demonstration, run as a user runs it but shorter: real servers, real requests, three processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fast_router.cli import demo

pytestmark = [pytest.mark.proxy, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def ran():
    command = [sys.executable, "-m", "fast_router.cli.demo", "--requests", "60", "--rate", "40", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_every_request_is_accounted_for(ran):
    assert [run["plugin"] for run in ran["runs"]] == [False, True, True]
    for run in ran["runs"]:
        assert run["answered"] + run["failed"] == 60
        # Retries make more arrivals than requests, never fewer.
        assert sum(run["requests_by_deployment"].values()) >= 60
        assert set(run["requests_by_deployment"]) == {"steady-1", "steady-2", "slow", "flaky"}
        assert run["latency"]["p50"] >= 0.06  # what the fastest server takes
        assert run["first_token"]["p50"] > 0


@pytest.mark.slow
def test_the_plugin_picked_in_its_runs(ran):
    alone, *ours = ran["runs"]
    assert "picks" not in alone
    for run in ours:
        assert run["picks"]["fast"] + run["lane"]["requests"] >= 60
    assert all(run["pick_seconds"] > 0 for run in ran["runs"])


@pytest.mark.slow
def test_calls_at_once_are_spread_by_ours(ran):
    alone, busy, ewma = ran["runs"]
    assert busy["burst"] == [10, 10, 10, 10]
    assert sum(alone["burst"]) == sum(ewma["burst"]) == 40


@pytest.mark.slow
def test_the_verdict_is_one_line_that_names_each_measure_once(ran):
    alone, ours, _ = ran["runs"]
    line = demo._verdict(alone, ours)
    assert "\n" not in line
    assert [line.count(name) for name in ("failed requests", "latency p95", "cost of a pick", "spread of 40")] == [
        1
    ] * 4
    better = {**alone, "failed": alone["failed"] + 1, "cpu_seconds": alone["cpu_seconds"] / 2}
    won, _, rest = demo._verdict({**alone, "failed": alone["failed"] + 2}, better).partition("; nobody: ")
    assert won.endswith("fast_router: failed requests, CPU per request")
    assert "LiteLLM:" not in rest


def test_a_machine_that_is_too_slow_is_said():
    def run(late):
        return SimpleNamespace(result={"late": {"p95": late}})

    assert demo._overcharged([run(0.001), run(None)], 40.0) == ""
    said = demo._overcharged([run(0.001), run(0.7)], 40.0)
    assert "40 requests a second" in said
    assert "700 ms" in said
    assert "--rate 20" in said


def test_a_wrong_option_is_one_line():
    command = [sys.executable, "-m", "fast_router.cli.demo", "--requests", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 2
    assert "--requests" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_to_copy_installs_what_the_proxy_lacks(monkeypatch):
    there = demo._missing_packages()
    assert there == [], "this environment has the proxy's packages"
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "websockets" else object())
    (line,) = demo._missing_packages()
    program, *rest = line.split(maxsplit=1)
    assert Path(program).name == "pip"
    assert rest == ["install -r " + os.path.relpath(Path(__file__).parents[2] / "scripts" / "proxy_1.110.txt")]
