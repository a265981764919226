"""`fast-router top`: keys sort and filter, the ones in trouble come first, and it leaves the terminal as it was."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from rich.console import Console

from fast_router import AdvancedRouter
from fast_router.cli import main
from fast_router.cli.top import Screen
from fast_router.observe import asking, process_status


@pytest.fixture
def router(runtime):
    models = [{"model_name": f"m{i % 2}", "id": f"d{i}", "endpoint": f"gpu{i}:1"} for i in range(6)]
    made = AdvancedRouter(model_list=models)
    process_status.start()
    return made


def screen_of(*keys):
    screen = Screen()
    screen.take(asking.processes(), 100.0)
    for key in keys:
        assert screen.press(key)
    return screen


def servers(screen):
    # A Router that another test has left to the garbage collector may be there, too.
    found = [row["server"].partition(":")[0] for row in screen.shown()]
    return [server for server in found if server.startswith("gpu")]


def test_trouble_comes_first_and_keys_order_reverse_and_filter(router):
    router.rest("d3", 60)
    for _ in range(5):
        router.acquire("m1", exclude=["d1", "d3"])
    assert servers(screen_of())[0] == "gpu3"
    assert servers(screen_of("s", "s"))[0] == "gpu5"
    assert servers(screen_of("s", "s", "r"))[-1] == "gpu5"
    assert servers(screen_of("/", *"gpu2")) == ["gpu2"]
    assert servers(screen_of("/", *"resting", "\r")) == ["gpu3"]
    assert len(servers(screen_of("/", *"resting", "\x7f", "\x1b"))) == 6
    assert not screen_of().press("q")
    assert screen_of(" ").paused


def test_rates_are_differences_between_two_looks(router):
    screen = screen_of()
    for _ in range(4):
        router.acquire("m0", exclude=["d0", "d2"]).release()
    router.acquire("m0", exclude=["d0", "d2"]).release(ValueError())
    screen.take(asking.processes(), 102.0)
    (row,) = [row for row in screen.shown() if row["server"] == "gpu4:1"]
    assert (row["rate"], row["failed_rate"]) == (2.5, 0.5)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(screen.render(10, time.time()))
    text = console.export_text()
    assert "2.5 calls/s" in text
    assert f"… {len(screen.shown()) - 2} more" in text


def test_many_deployments_are_asked_about_less_often(runtime):
    models = [{"model_name": "m", "id": f"d{i}", "endpoint": f"gpu{i}:1"} for i in range(1000)]
    router = AdvancedRouter(model_list=models)
    process_status.start()
    screen = screen_of()
    assert screen.pace(1.0) >= len(router.deployments) / 400
    assert screen.pace(60.0) == 60.0


def test_one_screen_for_a_pipe(router):
    done = CliRunner().invoke(main, ["top", "--once", "--interval", "0.2", "--model", "m1"])
    assert done.exit_code == 0
    assert re.search(r"m1 +gpu1:1 +d1 +up", done.output)
    assert "gpu2" not in done.output


def test_in_a_terminal_it_shows_the_servers_and_q_leaves(router):
    import pty

    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", "LINES": "40"}
    with subprocess.Popen(
        [sys.executable, "-m", "fast_router.cli", "top"], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    ) as child:
        os.close(theirs)
        seen = b""
        while b"gpu5:1" not in seen:
            seen += os.read(ours, 65536)
        os.write(ours, b"q")
        try:
            while part := os.read(ours, 65536):
                seen += part
        except OSError:
            pass
        assert child.wait(20) == 0
    os.close(ours)
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1
