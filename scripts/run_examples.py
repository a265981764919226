"""Runs every example and fails if one does.

An example is a file under examples/ with an `if __name__ == "__main__"` block; other files there are modules that
examples use. A comment line `# example: …` near the top may say more, several words apart by commas:

    # example: needs redis, needs rabbitmq     private servers are started; REDIS_URL and AMQP_URL name them
    # example: timeout 30                      seconds it may take (120 unless said otherwise)
    # example: by hand: why                    it is not run
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fast_router.testing.servers import RabbitServer, RedisServer

ROOT = Path(__file__).resolve().parent.parent
# They wait for their servers and processes more than they compute.
_AT_ONCE = 2
_MARK = re.compile(r"^# example: (.+)$", re.MULTILINE)
_MAIN = re.compile(r"^if __name__ == .__main__.:", re.MULTILINE)


@dataclass
class Example:
    """One runnable file and what it asks for."""

    path: Path
    needs: set[str] = field(default_factory=set)
    timeout: float = 120.0
    by_hand: str = ""

    @property
    def name(self) -> str:
        """Its path below the repository."""
        return str(self.path.relative_to(ROOT))


def find(folder: Path) -> list[Example]:
    """Return the examples under a folder, in the order of their paths."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text()
        if _MAIN.search(text):
            found.append(_described(Example(path), _MARK.findall(text)))
    return found


def _described(example: Example, marks: list[str]) -> Example:
    for mark in marks:
        if mark.startswith("by hand"):
            example.by_hand = mark
            continue
        for wish in mark.split(","):
            verb, _, what = wish.strip().partition(" ")
            if verb == "needs" and what in {"redis", "rabbitmq"}:
                example.needs.add(what)
            elif verb == "timeout":
                example.timeout = float(what)
            else:
                raise SystemExit(f"{example.name}: unknown mark {wish.strip()!r} in '# example: {mark}'")
    return example


def run(example: Example, environment: dict[str, str]) -> str | None:
    """Run one example; return what went wrong, None if nothing did."""
    process = subprocess.Popen(
        [sys.executable, str(example.path)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=example.timeout)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: the example and what it started
        output, _ = process.communicate()
        return f"still running after {example.timeout:g} s\n{output}"
    return f"exit code {process.returncode}\n{output}" if process.returncode else None


def main() -> int:
    """Run them all; return the number that failed."""
    examples = find(ROOT / "examples")
    if not examples:
        print("run_examples: there are no examples", file=sys.stderr)
        return 1
    environment = dict(os.environ, LITELLM_LOCAL_MODEL_COST_MAP="True", PYTHONWARNINGS="ignore")
    failed = 0
    with contextlib.ExitStack() as stack:
        needed = set().union(*(one.needs for one in examples if not one.by_hand))
        if "redis" in needed:
            given = os.environ.get("FAST_ROUTER_TEST_REDIS_URL")
            environment["REDIS_URL"] = given or stack.enter_context(RedisServer()).url
        if "rabbitmq" in needed:
            given = os.environ.get("FAST_ROUTER_TEST_AMQP_URL")
            environment["AMQP_URL"] = given or stack.enter_context(RabbitServer()).url

        def timed(example: Example) -> tuple[str | None, float]:
            began = time.monotonic()
            return run(example, environment), time.monotonic() - began

        pool = stack.enter_context(ThreadPoolExecutor(_AT_ONCE))
        running = [(example, None if example.by_hand else pool.submit(timed, example)) for example in examples]
        for example, answer in running:
            if answer is None:
                print(f"  {example.name}: {example.by_hand}")
                continue
            wrong, seconds = answer.result()
            print(f"  {example.name}: {'FAILED' if wrong else 'ok'} ({seconds:.1f} s)", flush=True)
            if wrong:
                failed += 1
                print(wrong)
    print(f"{len(examples)} examples, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(), 1))
