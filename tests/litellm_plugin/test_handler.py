"""`callbacks: ["fast_router.handler"]`: what LiteLLM's own loader makes of every spelling."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from importlib.metadata import version

import pytest

OLD = tuple(int(part) for part in version("litellm").split(".")[:2]) < (1, 99)

LOAD = """
    import json, os, sys
    from litellm.integrations.custom_logger import CustomLogger
    from litellm.proxy.types_utils.utils import get_instance_fn

    first = get_instance_fn(sys.argv[1], sys.argv[2])
    again = get_instance_fn(sys.argv[1], sys.argv[2])
    import fast_router, fast_router.handler
    from fast_router.handler import handler
    from fast_router.observe import asking
    print(json.dumps({
        "callback": isinstance(first, CustomLogger),
        "one object": first is handler and first is fast_router.handler and (again is first or sys.argv[3] == "copy"),
        "enabled": fast_router.status()["enabled"],
        "seen": "process_status" in fast_router.status()["features"] or len(asking.processes()),
    }))
"""


def load(spelling, config, kind="one", **environment):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOAD), spelling, str(config), kind],
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", **environment},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("spelling", ["fast_router.handler", "fast_router.handler.handler"])
def test_the_installed_module_is_found(tmp_path, spelling):
    if OLD:
        pytest.skip("LiteLLM before 1.99 looks beside config.yaml only: documented")
    found = load(spelling, tmp_path / "config.yaml")
    assert all(found.values()), found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_file_beside_the_configuration_works_with_every_version(tmp_path):
    (tmp_path / "fast_router_callback.py").write_text("from fast_router.handler import handler\n")
    found = load("fast_router_callback.handler", tmp_path / "config.yaml", "copy")
    assert all(found.values()), found
