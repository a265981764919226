"""LiteLLM's real proxy with one worker and two callers with keys of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.attack import proxy_keys
from tests.support.proxy import Proxy, environment, free_port, program


@contextlib.contextmanager
def attacked_proxy(folder: Path, model_list: list[dict], **more: Any) -> Iterator[Proxy]:
    """Run it for the length of the block.

    Args:
        folder: Where its files lie.
        model_list: Its deployments.
        more: Further sections of its configuration.
    """
    shutil.copy(Path(proxy_keys.__file__), folder)
    config = {
        "model_list": model_list,
        "general_settings": {"custom_auth": "proxy_keys.known", "allow_client_side_credentials": True},
        "router_settings": {"num_retries": 2, "retry_after": 0},
        **more,
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    port = free_port()
    started = Proxy(
        [program("fast-router"), "run", "--", program("litellm"), "--config", str(folder / "config.yaml"),
         "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"],
        f"http://127.0.0.1:{port}",
        environment(
            LITELLM_MASTER_KEY="sk-master",
            FAST_ROUTER_RUNTIME_DIR=str(folder),
            FAST_ROUTER_ENABLED="0" if os.environ.get("FAST_ROUTER_TEST_PLAIN") else "1",
        ),
        folder / "proxy.log",
    )  # fmt: skip
    try:
        started.until(started.alive, "it never became alive")
        yield started
    finally:
        started.stop()
