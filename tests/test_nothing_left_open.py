"""What this package opens it closes, each in a process that does nothing else.

Within the suite `ResourceWarning` is ignored (pyproject.toml says why): there it would come in whatever test runs when
garbage is collected.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tests.support.plugin import run_python

# A warning that is an error, raised while an object is freed, has nowhere to go but here.
BEFORE = """
import gc, sys
left = []
sys.unraisablehook = lambda found: left.append(repr(found.exc_value))
def main():
"""
AFTER = """
main()
gc.collect()
assert not left, left
print("closed")
"""

THINGS = {
    "a leak, as a control": """
        import socket
        socket.socket()
    """,
    "servers for tests": """
        import httpx
        from fast_router.testing import Fleet
        with Fleet(2) as fleet, httpx.Client() as client:
            for server in fleet.values():
                body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
                assert client.post(server.api_base + "/chat/completions", json=body).status_code == 200
                assert client.post(server.api_base + "/chat/completions", json={**body, "stream": True}).text
                server.restart()
    """,
    "the direct API": """
        from fast_router import AdvancedRouter
        router = AdvancedRouter("least_busy", model_list=[{"model_name": "m", "id": f"d{i}"} for i in range(3)])
        router.enable_failover()
        for _ in range(20):
            router.acquire("m").release()
    """,
    "the status socket": """
        from fast_router import AdvancedRouter
        from fast_router.observe import asking, process_status
        router = AdvancedRouter(model_list=[{"model_name": "m", "id": "d"}])
        assert process_status.start()
        assert len(asking.processes()) == 1
        process_status.stop()
    """,
    "the address of the metrics": """
        import urllib.request
        from fast_router.observe import metrics
        server, thread = metrics.serve(0)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
            assert b"fast_router" in answer.read()
        server.shutdown()
        server.server_close()
        thread.join()
    """,
    "Albert's registry": """
        import asyncio
        from fast_router.testing import Upstream
        from fast_router_albert import ModelRegistry
        async def probe(url):
            provider = {"type": "vllm", "url": url, "model_name": "served"}
            model = {"name": "m", "type": "text-generation", "providers": [provider]}
            registry = ModelRegistry.from_config({"models": [model]})
            assert (await registry.probe())["m"][0].reachable
            await registry.aclose()
        with Upstream("vllm", models=("served",)) as upstream:
            asyncio.run(probe(upstream.url))
    """,
    "an order of an operator's": """
        from fast_router import operator_holds
        operator_holds.replace("file", [])
    """,
}


@pytest.mark.parametrize("thing", THINGS)
def test_it_is_closed(thing, runtime):
    program = BEFORE + textwrap.indent(textwrap.dedent(THINGS[thing]), "    ") + AFTER
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if thing.endswith("control"):
        assert "ResourceWarning" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout == "closed\n"
        assert "ResourceWarning" not in done.stderr


SHORT = """
import importlib.machinery, json, sys, time
import litellm

class Slowly:
    def find_spec(self, name, path=None, target=None):
        if name != "fast_router.observe.answers":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module
        def slowly(module):
            time.sleep(1)
            run(module)
            print(json.dumps("imported"), flush=True)
        spec.loader.exec_module = slowly
        return spec

sys.meta_path.insert(0, Slowly())
import fast_router.auto
litellm.Router
"""


def test_a_program_that_ends_at_once_does_not_end_the_thread_within_an_import():
    """Python would end it with the lock held under which LiteLLM's finalizers import: the program never ended."""
    assert run_python(SHORT, FAST_ROUTER_STATUS="1") == "imported"
