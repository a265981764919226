"""A mistake in what is ours ends LiteLLM's real proxy by one line, in whatever way it starts."""

from __future__ import annotations

import pytest

from tests.launch.wrapped import ONE, WAYS
from tests.support.proxy import PATIENCE

pytestmark = [pytest.mark.proxy, pytest.mark.timeout(500)]

MISTAKES = {
    "launcher": ("fast_router: {rollout: some}\n", "'some'"),
    "launcher and gunicorn": ("fast_router: {strategi: shuffle}\n", "did you mean 'strategy'?"),
    "startup hook": ("router_settings: {routing_strategy: peak_ewmaa}\n", "did you mean 'peak_ewma'?"),
    "callback in the YAML": ("fast_router: {max_weit: 2}\n", "did you mean 'max_wait'?"),
    "asgi under uvicorn": (
        "fast_router: {experiment: {strategy: cach_aware, share: 20}}\n",
        "did you mean 'cache_aware'?",
    ),
    "asgi under gunicorn": ("fast_router: {max_wait: soon}\n", "'soon'"),
}
ENDS = {
    ("startup hook", "one"): 2,
    ("callback in the YAML", "one"): 2,
    ("asgi under uvicorn", "one"): 2,
    # The launcher looks before there are workers.
    ("launcher", "several"): 2,
    ("launcher and gunicorn", "several"): 2,
    # What uvicorn and gunicorn themselves say when a worker cannot start.
    ("asgi under uvicorn", "several"): 0,
    ("asgi under gunicorn", "several"): 3,
}
QUICK = {("launcher", "several"), ("launcher and gunicorn", "several"), ("asgi under uvicorn", "one")}
"""In which LiteLLM's proxy is not loaded, or once."""


@pytest.mark.parametrize(
    ("way", "workers"), [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in ENDS]
)
def test_a_mistake_ends_a_proxy_by_one_line_however_it_starts(start, way, workers):
    _, extra, environment = WAYS[way]
    command = ONE[way] if workers == "one" else WAYS[way][0]
    mistake, said = MISTAKES[way]
    proxy = start(command, extra=extra + mistake, **environment)
    assert proxy.process.wait(PATIENCE) == ENDS[way, workers]
    told = proxy.log.read_text()
    assert "Traceback" not in told
    errors = {line for line in told.splitlines() if line.startswith("Error: ")}
    assert len(errors) == 1, told
    assert said in errors.pop()
