"""What is on with each minor version of LiteLLM, its first and its last release: `make versions`.

Each release is installed by itself, without its dependencies, over those of the development environment, and asked what
fast_router does there. Fails if something that docs/limits.md's table shows is lost; `--update` writes the table anew.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "limits.md"
FOLDER = ROOT / ".venvs" / "minors"
BEGIN, END = "<!-- made by scripts/versions.py -->\n", "<!-- end -->\n"
HEAD = """\
| LiteLLM | picks | features on | off: LiteLLM's code reads differently | LiteLLM has no such place |
|---|---|---|---|---|
"""
OLDEST = (1, 83, 14)
FAST, LANE, CHOICE, HOOK = (
    "from compiled plans",
    "whole requests in a lane",
    "among what LiteLLM's filters leave",
    "none",
)
RANK = (HOOK, CHOICE, LANE, FAST)
WAITING = "waits for"
NONE = "–"

ASK = """
import json, warnings
warnings.simplefilter("ignore")
import fast_router, litellm
litellm.Router
status = fast_router.status()
print(json.dumps({key: status[key] for key in ("band", "features", "skipped", "capabilities")}))
"""


@dataclass(frozen=True)
class Row:
    """What is on with some releases that follow each other."""

    first: str
    last: str
    picks: str
    on: int
    differs: tuple[str, ...]
    absent: tuple[str, ...]

    @property
    def found(self) -> tuple[Any, ...]:
        """All but the releases."""
        return self.picks, self.on, self.differs, self.absent

    def text(self) -> str:
        """The row as the page has it."""
        releases = self.first if self.first == self.last else f"{self.first} to {self.last}"
        return f"| {releases} | {self.picks} | {self.on} | {_names(self.differs)} | {_names(self.absent)} |\n"

    def lost_since(self, kept: Row) -> list[str]:
        """What `kept` had and this has not."""
        lost = sorted({*self.differs, *self.absent} - {*kept.differs, *kept.absent})
        return lost + ([f"picks {kept.picks}"] if RANK.index(self.picks) < RANK.index(kept.picks) else [])


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names) or NONE


def numbers(release: str) -> tuple[int, ...]:
    """A release as numbers, for comparing."""
    return tuple(map(int, release.split(".")))


def releases() -> list[str]:
    """The first and the last release of each minor version on the index, oldest first."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "index", "versions", "litellm"], capture_output=True, text=True, check=True
    ).stdout
    listed = re.search(r"Available versions: (.*)", said)
    assert listed is not None, said
    every = sorted((one for one in listed[1].split(", ") if re.fullmatch(r"[\d.]+", one)), key=numbers)
    found: list[str] = []
    for _, group in groupby((one for one in every if numbers(one) >= OLDEST), key=lambda one: numbers(one)[:2]):
        minor = list(group)
        found += dict.fromkeys((minor[0], minor[-1]))
    return found


def ask(release: str) -> Row | str:
    """What is on there, or why that cannot be told."""
    folder = FOLDER / release
    if not folder.is_dir():
        uv = Path(sys.executable).with_name("uv")
        install = [str(uv), *["pip", "install", "--quiet", "--no-deps", "--python"], sys.executable]
        done = subprocess.run(
            [*install, "--target", str(folder), f"litellm=={release}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            return f"cannot be installed: {' '.join(done.stderr.split())[:300]}"
    path = os.pathsep.join(map(str, (folder, ROOT, ROOT / "adapters")))
    env = {**os.environ, "PYTHONPATH": path, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "FAST_ROUTER_RUNTIME_DIR": ""}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"cannot be imported with the packages that are here: {done.stderr.strip().splitlines()[-1]}"
    return told(release, json.loads(done.stdout.strip().splitlines()[-1]))


def told(release: str, status: dict[str, Any]) -> Row:
    """A row from what `status()` said."""
    skipped = {name: why for name, why in status["skipped"].items() if not why.startswith(WAITING)}
    differs = sorted(name for name, why in skipped.items() if "reads differently" in why or "not one that" in why)
    features = status["features"]
    if status["band"] is None:
        picks = HOOK
    elif "lane" in features:
        picks = LANE
    else:
        picks = CHOICE if "fast lane" in skipped else FAST
    return Row(release, release, picks, len(features), tuple(differs), tuple(sorted(skipped.keys() - set(differs))))


def merged(rows: list[Row]) -> list[Row]:
    """Neighbours of which the same is true, as one."""
    found: list[Row] = []
    for row in rows:
        if found and found[-1].found == row.found:
            found[-1] = Row(found[-1].first, row.last, *row.found)
        else:
            found.append(row)
    return found


def kept(page: str) -> list[Row]:
    """The table that a page has, the newest releases first."""
    table = page.partition(BEGIN)[2].partition(END)[0]
    rows: list[Row] = []
    for line in table.splitlines()[2:]:
        which, picks, on, differs, absent = (cell.strip() for cell in line.strip("|").split(" | "))
        first, _, last = which.partition(" to ")
        names = [tuple(re.findall(r"`([^`]+)`", cell)) for cell in (differs, absent)]
        rows.append(Row(first, last or first, picks, int(on), *names))
    return rows


def main() -> None:
    """Ask each release, print the table, and compare it with the page's."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--update", action="store_true", help="write the table of docs/limits.md")
    arguments.add_argument(
        "releases", nargs="*", help="only these; by default the first and last of each minor version"
    )
    arguments.add_argument("--newest", action="store_true", help="print the newest release on the index, no more")
    options = arguments.parse_args()
    if options.newest:
        print(releases()[-1])
        return
    wanted = options.releases or releases()
    answers: dict[str, Row | str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for release, answer in zip(wanted, pool.map(ask, wanted), strict=True):
            answers[release] = answer
            # A release takes a minute where it has to be compiled first.
            done = f"{answer.on} features" if isinstance(answer, Row) else answer
            print(f"LiteLLM {release}: {done}", file=sys.stderr, flush=True)
    rows = [row for row in answers.values() if isinstance(row, Row)]
    # Of releases that were named, nothing is known about those between.
    table = HEAD + "".join(row.text() for row in reversed(rows if options.releases else merged(rows)))
    print(table)
    page = PAGE.read_text()
    if options.update:
        if len(rows) < len(wanted):
            sys.exit("versions: the table is left as it is, since not every release told what is on")
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{table}{END}{rest.partition(END)[2]}")
        return
    worse = []
    for row in rows:
        here = (old for old in kept(page) if numbers(old.first) <= numbers(row.first) <= numbers(old.last))
        for old in here:
            worse += [f"LiteLLM {row.first} has lost {name}" for name in row.lost_since(old)]
    worse += [f"LiteLLM {release} {why}" for release, why in answers.items() if isinstance(why, str)]
    print("\n".join(worse) or "versions: nothing is lost")
    sys.exit(bool(worse))


if __name__ == "__main__":
    main()
