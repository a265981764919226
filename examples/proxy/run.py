"""Start LiteLLM's proxy under `fast-router run`, send requests through it, and look at the picks.

python examples/proxy/run.py
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from fast_router.testing import Fleet, Spec

HERE = Path(__file__).parent
FAST_ROUTER = [sys.executable, "-m", "fast_router.cli"]
LITELLM = str(Path(sys.executable).parent / "litellm")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(url: str, proxy: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while proxy.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health/liveliness", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit("the proxy did not start; its output says why")


def main() -> None:
    master_key, port = "sk-" + secrets.token_hex(32), free_port()
    url = f"http://127.0.0.1:{port}"
    with (
        Fleet([Spec(name="first"), Spec(name="second")]) as fleet,
        tempfile.TemporaryDirectory(prefix="fr-") as runtime,
    ):
        environment = os.environ | {
            "FIRST_API_BASE": fleet["first"].api_base,
            "SECOND_API_BASE": fleet["second"].api_base,
            "LITELLM_MASTER_KEY": master_key,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            # Only so that the status below shows this proxy and no other.
            "FAST_ROUTER_RUNTIME_DIR": runtime,
        }
        command = [*FAST_ROUTER, "run", "--", LITELLM, "--config", str(HERE / "config.yaml"), "--port", str(port)]
        print("starting the proxy …", flush=True)
        proxy = subprocess.Popen(command, env=environment)
        try:
            wait_until_ready(url, proxy)
            for _ in range(20):
                httpx.post(
                    f"{url}/v1/chat/completions",
                    json={"model": "assistant", "messages": [{"role": "user", "content": "Hello"}]},
                    headers={"Authorization": f"Bearer {master_key}"},
                    timeout=60,
                ).raise_for_status()
            print({name: up.records.served for name, up in fleet.items()})
            subprocess.run([*FAST_ROUTER, "status"], env=environment, check=True)
        finally:
            proxy.terminate()
            proxy.wait(60)


if __name__ == "__main__":
    main()
