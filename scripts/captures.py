"""Takes the pictures of the documentation: `python scripts/captures.py [--python PATH] [WHAT …]`.

What they show is real: `fast-router demo`, and a `litellm.Router` with traffic over real HTTP, seen by
`fast-router top` and the dashboard in chromium while one server fails and another one is drained. `--python` names the
environment that is seen, whose LiteLLM may be another one than that of this script; the script itself needs rich and
selenium.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
WHAT = ("demo", "live")
_RATE = 15.0  # requests per second
_WARM, _ILL, _TRIED = 45.0, 12.0, 45.0  # seconds of traffic: before anything, with a server that fails, in two arms
_PATIENCE = 120.0
_COLUMNS = {"demo": 100, "top": 150}


# -- the traffic, in the environment that is seen ------------------------------------------------------------


async def _traffic(addresses: list[str]) -> None:
    """Send requests until standard input ends; each line there is arguments for `configure`, as JSON."""
    from litellm import Router  # noqa: PLC0415

    import fast_router.auto  # noqa: F401, PLC0415 - as a proxy would be wrapped
    from fast_router import configure  # noqa: PLC0415

    models = [
        {
            "model_name": "llama-70b",
            "litellm_params": {"model": "openai/llama-70b", "api_base": address, "api_key": "none"},
            "model_info": {"id": f"gpu-{number}"},
        }
        for number, address in enumerate(addresses, 1)
    ]
    router = Router(model_list=models, routing_strategy="least-busy", num_retries=2)
    loop = asyncio.get_running_loop()
    open_ended, running = True, set()

    async def ask(number: int) -> None:
        message = [{"role": "user", "content": f"question {number}"}]
        with contextlib.suppress(Exception):
            answer = await router.acompletion("llama-70b", message, stream=number % 3 == 0, user=f"user {number % 200}")
            if number % 3 == 0:
                async for _ in answer:
                    pass

    async def orders() -> None:
        nonlocal open_ended
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            configure(**json.loads(line))
        open_ended = False

    listening, number, due = asyncio.create_task(orders()), 0, loop.time()
    while open_ended:
        task = asyncio.create_task(ask(number))
        running.add(task)
        task.add_done_callback(running.discard)
        number, due = number + 1, due + 1 / _RATE
        await asyncio.sleep(max(0.0, due - loop.time()))
    await listening


# -- pictures ------------------------------------------------------------------------------------------------


def _command(python: str, environment: Mapping[str, str], *words: str) -> str:
    """What a command prints on a terminal of the usual width."""
    done = subprocess.run(
        [python, "-m", "fast_router.cli", *words],
        env={
            **environment,
            "FORCE_COLOR": "1",
            "COLUMNS": str(_COLUMNS.get(words[0], 80)),
            "LINES": "50",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    # What moves is drawn between hiding the cursor and showing it again.
    still = re.sub(r"\x1b\[\?25l.*?\x1b\[\?25h", "", done.stdout, flags=re.DOTALL)
    return re.sub(r"\r|\x1b\[\d*[AKJ]", "", still)


def _terminal(path: Path, title: str, said: str) -> None:
    """Draw what was printed as a terminal shows it."""
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(record=True, width=_COLUMNS[path.stem], file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(said.rstrip()), soft_wrap=False)
    drawn = console.export_svg(title=title, unique_id=path.stem)
    # Nothing of the site is loaded from elsewhere: the reader's own fixed-width font will do.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL), encoding="utf-8")
    _tell(path)


def _tell(path: Path) -> None:
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")


@contextlib.contextmanager
def _browser() -> Iterator[Any]:
    from selenium import webdriver  # noqa: PLC0415

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1180"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def _until(condition: Any) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("what was to be captured did not come about")
        time.sleep(0.2)


def _shot(driver: Any, path: Path, css: str) -> None:
    path.write_bytes(driver.find_element("css selector", css).screenshot_as_png)
    _tell(path)


@contextlib.contextmanager
def _children(python: str, environment: Mapping[str, str], addresses: list[str]) -> Iterator[tuple[IO[str], str]]:
    """The program with the traffic, and the dashboard: what to write orders to, and the page's address."""
    traffic = subprocess.Popen(
        [python, __file__, "--traffic", *addresses], env=environment, stdin=subprocess.PIPE, text=True
    )
    words = [python, "-m", "fast_router.cli", "dashboard", "--port", "0"]
    page = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    assert traffic.stdin is not None
    assert page.stdout is not None
    try:
        yield traffic.stdin, page.stdout.readline().strip()
    finally:
        traffic.stdin.close()
        page.terminate()
        for child in (traffic, page):
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def live(python: str, environment: Mapping[str, str]) -> None:
    """`fast-router top` and the dashboard over a Router with traffic, and an experiment's two arms."""
    from fast_router.testing import Behaviour, Fleet, Spec  # noqa: PLC0415

    usual = Behaviour(latency=0.25, jitter=0.08, per_token=0.004, tokens=24)
    slower = usual.ordered(latency=0.45)
    specs = [Spec("openai", f"gpu-{n}", behaviour=slower if n == 4 else usual) for n in range(1, 5)]
    with Fleet(specs, subprocess=True) as fleet, _browser() as driver:
        addresses = [fleet[f"gpu-{n}"].api_base for n in range(1, 5)]
        with _children(python, environment, addresses) as (orders, address):
            driver.get(address)
            _until(lambda: "llama-70b" in driver.page_source)
            time.sleep(_WARM)
            fleet["gpu-2"].order(error_rate=1.0)
            _command(python, environment, "drain", "gpu-3", "--no-wait", "--for", "30m")
            time.sleep(_ILL)
            _terminal(IMAGES / "top.svg", "fast-router top", _command(python, environment, "top", "--once"))
            _shot(driver, IMAGES / "dashboard.png", "body")
            fleet["gpu-2"].order(error_rate=0.0)
            _command(python, environment, "wake", "gpu-3")
            tried = {"experiment": {"strategy": "peak_ewma", "share": 50}}
            orders.write(json.dumps(tried) + "\n")
            orders.flush()
            time.sleep(_TRIED)
            _until(lambda: driver.find_elements("css selector", "#rollouts table"))
            _shot(driver, IMAGES / "experiment.png", "#rollouts")


def demo(python: str, environment: Mapping[str, str]) -> None:
    """What `fast-router demo` prints."""
    _terminal(IMAGES / "demo.svg", "fast-router demo", _command(python, environment, "demo"))


def main() -> None:
    """Take what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="the environment that is seen")
    parser.add_argument("--traffic", nargs="+", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("what", nargs="*", choices=[*WHAT, []], help="all by default")
    given = parser.parse_args()
    if given.traffic:
        asyncio.run(_traffic(given.traffic))
        return
    with tempfile.TemporaryDirectory(prefix="fr-") as runtime:
        paths = [str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "FAST_ROUTER_RUNTIME_DIR": runtime,
            "FAST_ROUTER_STATUS": "on",
            "LOGNAME": "operator",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        for name in given.what or WHAT:
            {"demo": demo, "live": live}[name](given.python, environment)


if __name__ == "__main__":
    main()
