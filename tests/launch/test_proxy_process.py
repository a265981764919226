"""Only a proxy that starts ends by one line; any other program gets its exception."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from fast_router import proxy_process
from tests.support.proxy import environment

SERVER = "litellm.proxy.proxy_server"


@pytest.mark.parametrize(
    ("arguments", "loaded", "serves"),
    [
        (["/venv/bin/litellm", "--config", "c.yaml"], True, True),
        (["/venv/bin/litellm", "--config", "c.yaml"], False, False),
        (["/site-packages/litellm/proxy/proxy_cli.py"], True, True),
        (["/site-packages/uvicorn/__main__.py", "litellm.proxy.proxy_server:app"], True, True),
        (["/venv/bin/uvicorn", "fast_router.asgi:app"], False, True),
        (["gunicorn", "fast_router.asgi:app", "-w", "2"], False, True),
        (["/venv/bin/uvicorn", "my_app:app"], False, False),
        (["my_program.py"], True, False),
        (["/home/me/litellm/my_program.py"], True, False),
        (["/venv/bin/pytest", "tests"], True, False),
        ([""], True, False),
    ],
)
def test_which_programs_are_proxies(monkeypatch, arguments, loaded, serves):
    monkeypatch.setattr(sys, "argv", arguments)
    if loaded:
        monkeypatch.setitem(sys.modules, SERVER, types.ModuleType(SERVER))
    else:
        monkeypatch.delitem(sys.modules, SERVER, raising=False)
    assert proxy_process.serves() is serves
    if not serves:
        proxy_process.end(ValueError("comes back"))


PROGRAM = """
import sys
import types
sys.modules["litellm.proxy.proxy_server"] = types.ModuleType("litellm.proxy.proxy_server")
try:
    import fast_router.auto
except ValueError as error:
    print(type(error).__name__, error)
"""


def test_a_program_gets_the_exception(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(file)],
        env=environment(FAST_ROUTER_MAX_WAIT="soon"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ConfigurationError FAST_ROUTER_MAX_WAIT: 'soon'")
