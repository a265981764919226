"""Prometheus metrics say what the routers count, for one process or for all, and Prometheus itself agrees."""

from __future__ import annotations

import gc
import json
import re
import shutil
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fast_router import AdvancedRouter
from fast_router.engine.failover.breaker import BreakerOptions
from fast_router.observe import metrics
from fast_router.observe.families import EDGES

ROOT = Path(__file__).parents[2]


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def router():
    models = [
        {
            "model_name": "scraped",
            "model_info": {"id": name},
            "litellm_params": {
                "model": "openai/x",
                "api_base": f"http://gpu-{name}:8000/?k=sk-secret",
                "api_key": "sk-secret",
            },
        }
        for name in ("a", "b")
    ]
    return AdvancedRouter(model_list=models, clock=Clock())


def used(router):
    clock = router.engine.clock
    policy = router.enable_failover(options=BreakerOptions(cooldown=30, jitter=0))
    for seconds in (0.2, 0.7, 3.0):
        lease = router.acquire("scraped", exclude=["b"])
        clock.now += seconds / 2
        lease.first_token()
        clock.now += seconds / 2
        lease.release()
    for error in (ConnectionError("refused"), TimeoutError("late")):
        router.acquire("scraped", exclude=["a"]).release(error)
    assert policy.state("b").value == "open"
    return router.acquire("scraped", exclude=["b"])


def samples(text, **labels):
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if all(sample.labels.get(name) == value for name, value in labels.items()):
                more = tuple(sample.labels[key] for key in ("kind", "state", "le") if key in sample.labels)
                found[(sample.name, *more)] = sample.value
    return found


def test_a_scrape_says_what_is_counted_and_no_secret(router):
    registry = CollectorRegistry()
    metrics.register(registry)
    lease = used(router)
    text = generate_latest(registry).decode()
    a = samples(text, model="scraped", server="gpu-a:8000", id="a")
    b = samples(text, model="scraped", server="gpu-b:8000", id="b")
    assert (a["fast_router_in_flight",], b["fast_router_in_flight",]) == (1, 0)
    assert (a["fast_router_picks_total",], a["fast_router_successes_total",]) == (4, 3)
    assert (a["fast_router_eligible",], b["fast_router_eligible",], b["fast_router_resting",]) == (1, 0, 1)
    assert b["fast_router_failures_total", "connection"] == b["fast_router_failures_total", "timeout"] == 1
    assert b["fast_router_breaker_changes_total", "open"] == 1
    assert a["fast_router_latency_seconds_count",] == 3
    assert a["fast_router_latency_seconds_sum",] == pytest.approx(3.9)
    assert a["fast_router_first_token_seconds_sum",] == pytest.approx(1.95)
    buckets = [a["fast_router_latency_seconds_bucket", f"{edge}"] for edge in (0.1, 0.25, 1.0, 2.5, 4.0)]
    assert buckets == [0, 1, 2, 2, 3]
    assert "sk-secret" not in text
    assert ("fast_router_build_info",) in samples(text)
    lease.release()


def test_hit_shares_predicted_and_reported():
    entry = {"model_name": "cached", "litellm_params": {"model": "openai/x"}, "model_info": {"id": "one"}}
    router = AdvancedRouter("cache_aware", model_list=[entry])
    text = "The same prompt for both. " * 100
    for cached in (0, 500):
        lease = router.acquire("cached", key=text, tokens=600)
        lease.release(prompt_tokens=600, cached_tokens=cached)
    registry = CollectorRegistry()
    metrics.register(registry)
    found = samples(generate_latest(registry).decode(), model="cached")
    assert found["fast_router_prompt_tokens_total",] == 1200
    # An answer that reports 0 before any has reported more may come from a server that reports nothing.
    assert found["fast_router_reported_prompt_tokens_total",] == 600
    assert found["fast_router_reported_cached_tokens_total",] == 500
    assert 500 < found["fast_router_predicted_cached_tokens_total",] <= 600
    (row,) = router.stats()["models"]["cached"]["deployments"]
    assert row["cache"]["reported_hit_share"] == pytest.approx(500 / 600)
    assert 0.4 < row["cache"]["predicted_hit_share"] <= 0.5


def test_a_router_that_is_gone_is_scraped_no_more(router):
    registry = CollectorRegistry()
    metrics.register(registry)
    router.acquire("scraped").release()
    assert 'model="scraped"' in generate_latest(registry).decode()
    del router
    gc.collect()


def test_registering_twice_is_once():
    registry = CollectorRegistry()
    assert metrics.register(registry) is metrics.register(registry)
    assert generate_latest(registry).decode().count("# TYPE fast_router_picks_total counter") == 1


def test_two_routers_with_one_deployment_are_one_series(router):
    other = AdvancedRouter(model_list=[d.entry for d in router.deployments.values()])
    router.acquire("scraped", exclude=["b"])
    other.acquire("scraped", exclude=["b"])
    registry = CollectorRegistry()
    metrics.register(registry)
    text = generate_latest(registry).decode()
    assert samples(text, model="scraped", id="a")["fast_router_in_flight",] == 2
    lines = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines))


def test_the_metrics_are_there_as_documented_and_cost_nothing_before():
    code = (
        "import sys, fast_router\n"
        "heavy = {'fast_router.observe', 'fast_router.engine', 'prometheus_client', 'litellm'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "fast_router.observe.metrics.register()\n"
        "assert hasattr(fast_router.cluster, 'attach')\n"
        "assert not hasattr(fast_router, 'nonsense') and not hasattr(fast_router.observe, 'nonsense')\n"
        "from prometheus_client import generate_latest\n"
        "print('fast_router_lane_picks_total' in generate_latest().decode())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=False)
    assert (done.stdout.strip(), done.stderr) == ("True", "")


WORKER = """
    import sys
    from fast_router import AdvancedRouter
    from fast_router.observe import process_status
    router = AdvancedRouter(model_list=[{"model_name": "m", "id": "d", "endpoint": "gpu:1"}])
    router.acquire("m").release()
    assert process_status.start()
    print("ready", flush=True)
    sys.stdin.readline()
"""


def workers(count, **env):
    import os

    code = textwrap.dedent(WORKER)
    made = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
        for _ in range(count)
    ]
    for each in made:
        assert each.stdout.readline() == "ready\n"
    return made


def end(made):
    for each in made:
        each.communicate("\n")


def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read().decode()


def patiently(url):
    for _ in range(200):
        try:
            return get(url)
        except urllib.error.URLError:
            time.sleep(0.1)
    return get(url)


def test_all_workers_are_on_one_address(runtime):
    made = workers(2)
    try:
        server, thread = metrics.serve(0)
        text = get(f"http://127.0.0.1:{server.server_port}/metrics")
        server.shutdown()
        server.server_close()
        thread.join(5)
    finally:
        end(made)
    picks = [line for line in text.splitlines() if line.startswith("fast_router_picks_total")]
    assert {re.search(r'worker="(\d+)"', line)[1] for line in picks} == {str(each.pid) for each in made}
    assert {line.rpartition(" ")[2] for line in picks} == {"1.0"}
    assert "fast_router_workers 2.0" in text


def test_the_option_has_one_worker_answer_for_all_whatever_litellms_registry_does(runtime):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"FAST_ROUTER_METRICS": "1", "FAST_ROUTER_METRICS_PORT": str(port), "PROMETHEUS_MULTIPROC_DIR": str(runtime)}
    made = workers(2, **env)
    try:
        text = patiently(f"http://127.0.0.1:{port}/metrics")
    finally:
        end(made)
    assert text.count("fast_router_picks_total{") == 2


def series_in(expression):
    return set(re.findall(r"\bfast_router_[a-z_]+", expression))


def known_series(text):
    found = set()
    for family in text_string_to_metric_families(text):
        if family.name.startswith("fast_router_"):
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
            found |= {family.name + suffix for suffix in suffixes}
    return found


def expressions():
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text())
    panels = [p for panel in dashboard["panels"] for p in (panel, *panel.get("panels", ()))]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    assert len(found) > 10
    return found


def all_series():
    registry = CollectorRegistry()
    registry.register(metrics.RouterCollector())
    return known_series(generate_latest(registry).decode()) | {"fast_router_workers", "fast_router_workers_silent"}


def test_the_dashboard_and_the_rules_ask_for_series_that_exist():
    known = all_series()
    rules = (ROOT / "docs" / "prometheus-rules.yml").read_text()
    asked = set().union(*map(series_in, expressions())) | series_in(rules)
    assert asked
    assert asked - known == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here (Debian: prometheus)")
def test_prometheus_itself_takes_rules_expressions_and_scrape(router, tmp_path):
    def promtool(*words, **more):
        return subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=250, check=False, **more)

    done = promtool("check", "rules", str(ROOT / "docs" / "prometheus-rules.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    asked = [
        {"record": f"e{number}", "expr": expression.replace("$__rate_interval", "1m").replace("$__range", "1h")}
        for number, expression in enumerate(expressions())
    ]
    rules = tmp_path / "rules.yml"
    rules.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": asked}]}))
    done = promtool("check", "rules", str(rules))
    assert done.returncode == 0, done.stdout + done.stderr
    lease = used(router)
    registry = CollectorRegistry()
    registry.register(metrics.RouterCollector())
    done = promtool("check", "metrics", input=generate_latest(registry).decode())
    assert done.returncode == 0, done.stdout + done.stderr
    lease.release()


def test_the_buckets_told_are_a_part_of_those_kept():
    from fast_router.engine.histogram import BOUNDS

    assert set(EDGES) <= set(BOUNDS)
