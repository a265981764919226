"""With shared state an order reaches every host, is taken back from any, and outlives a loss of Redis."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time

import pytest

from tests.support.waiting import until_sync

pytestmark = [pytest.mark.services]

HOST = """
    import sys
    from fast_router import AdvancedRouter, cluster
    from fast_router.observe import process_status
    router = AdvancedRouter(model_list=[
        {"model_name": "m", "id": f"d{i}", "litellm_params": {"api_base": f"http://gpu{i}:8000"}} for i in range(3)])
    state = cluster.attach(router, url=sys.argv[1])
    assert process_status.start()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(*sorted({router.acquire("m").id for _ in range(60)}), flush=True)
"""


class Host:
    """A machine: a runtime directory of its own, and one worker."""

    def __init__(self, url):
        self.url = url
        self.directory = tempfile.mkdtemp(prefix="fr-")
        self.environ = {**os.environ, "FAST_ROUTER_RUNTIME_DIR": self.directory}
        self.start()

    def start(self):
        code = textwrap.dedent(HOST)
        self.worker = subprocess.Popen(
            [sys.executable, "-c", code, self.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environ,
        )
        assert self.worker.stdout.readline() == "ready\n"

    def picks(self):
        self.worker.stdin.write("\n")
        self.worker.stdin.flush()
        return self.worker.stdout.readline().split()

    def until(self, expected):
        until_sync(lambda: self.picks() == expected, every=0.05, told=self.picks)

    def order(self, *words):
        done = subprocess.run(
            [sys.executable, "-m", "fast_router.cli", *words],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def stop(self):
        self.worker.kill()
        self.worker.communicate()

    def close(self):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def hosts(redis_url):
    made = [Host(redis_url), Host(redis_url)]
    yield made
    for each in made:
        each.close()


def test_an_order_reaches_every_host_and_is_taken_back_from_any(hosts):
    one, other = hosts
    one.order("rest", "gpu1:8000")
    one.until(["d0", "d2"])
    other.until(["d0", "d2"])
    # It is in force after a restart of both, and the other host may end it for good.
    for each in hosts:
        each.stop()
        each.start()
        each.until(["d0", "d2"])
    other.order("wake", "gpu1:8000")
    for each in hosts:
        each.until(["d0", "d1", "d2"])
    one.stop()
    one.start()
    time.sleep(0.5)
    one.until(["d0", "d1", "d2"])


def test_an_order_outlives_the_loss_of_what_redis_knew(hosts, redis_server):
    one, other = hosts
    one.order("rest", "gpu2:8000")
    other.until(["d0", "d1"])
    redis_server.command("FLUSHALL")
    time.sleep(6)  # longer than the pause between two readings
    one.until(["d0", "d1"])
    other.until(["d0", "d1"])
