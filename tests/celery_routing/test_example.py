"""The example runs as it is: two workers, two proxies, three upstreams, one of each killed on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.services, pytest.mark.proxy, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "examples" / "celery" / "run.py"


@pytest.mark.timeout(400)
def test_every_request_is_answered(amqp_url, redis_url):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(EXAMPLE)],
        env={**os.environ, "FAST_ROUTER_CELERY_BROKER_URL": amqp_url, "FAST_ROUTER_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "chosen by a routing worker" in done.stdout
