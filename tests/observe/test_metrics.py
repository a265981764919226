"""Prometheus metrics say what the routers count."""

from __future__ import annotations

import gc
import subprocess
import sys

from prometheus_client import CollectorRegistry, generate_latest

from fast_router import AdvancedRouter
from fast_router.observe.metrics import register


def test_a_scrape_shows_every_deployment_of_every_live_router_and_no_secret():
    registry = CollectorRegistry()
    register(registry)
    router = AdvancedRouter(
        model_list=[
            {"model_name": "m", "model_info": {"id": name}, "litellm_params": {"model": "x", "api_key": "sk-secret"}}
            for name in ("a", "b")
        ]
    )
    lease = router.acquire("m", exclude=["b"])
    router.rest("b", 30)
    text = generate_latest(registry).decode()
    lines = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"}
    # Other tests' routers may be alive still, under the same ids.
    mine = {k: v for k, v in lines.items() if f'router="{router.number}"' in k}
    assert sum(v for k, v in mine.items() if k.startswith("fast_router_in_flight")) == 1
    assert sum(v for k, v in mine.items() if k.startswith("fast_router_resting")) == 1
    assert sum(v for k, v in mine.items() if k.startswith("fast_router_picks_total")) == 1
    assert any(k.startswith("fast_router_lane_picks_total") for k in lines)
    assert "sk-secret" not in text
    lease.release()
    label = f'router="{router.number}"'
    del router, lease
    gc.collect()
    assert label not in generate_latest(registry).decode()


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr) == ("True", "")
