"""Runs every benchmark, each in a process of its own; `python -m benchmarks pick direct` runs only these."""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
_MAIN = re.compile(r"^if __name__ == .__main__.:", re.MULTILINE)


def names() -> list[str]:
    """Return the benchmarks there are: the modules here that can be run."""
    return [path.stem for path in sorted(HERE.glob("[!_]*.py")) if _MAIN.search(path.read_text())]


def about(name: str) -> str:
    """Return the first line of what a benchmark says of itself."""
    text = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text())) or ""
    return text.splitlines()[0] if text else ""


def asked(arguments: list[str]) -> list[str]:
    """Return the names given on the command line; `--help` lists all there are."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run benchmarks, each in a process of its own; all of them if none is named.",
        epilog="\n".join(f"  {name:16}{about(name)}" for name in names()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="*", help="which; `python -m benchmarks.NAME --help` has its options")
    named: list[str] = parser.parse_args(arguments).name
    return named


def main(wanted: list[str]) -> int:
    """Run them and return how many failed."""
    there = names()
    if unknown := [name for name in wanted if name not in there]:
        print(f"no benchmark is called {unknown[0]!r}; there are: {', '.join(there)}", file=sys.stderr)
        return 1
    failed = []
    for name in wanted or there:
        print(f"== {name} ({time.strftime('%H:%M:%S')})", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=HERE.parent, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(min(main(asked(sys.argv[1:])), 1))
