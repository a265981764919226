"""What is said where a package of an extra is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fast_router import extras

PROJECT = (Path(__file__).parents[1] / "pyproject.toml").read_text()
MISSING = {
    "prometheus_client": "from fast_router.observe import metrics; metrics.register()",
    "redis": "import fast_router.celery_routing.requirements",
    "kombu": "import fast_router.celery_routing.requirements",
    "matplotlib": "from pathlib import Path; from fast_router.cli.simulate import plot; plot.check(Path('out.svg'))",
    "rich": "from fast_router.cli.demo import _console; _console()",
}


@pytest.mark.parametrize(("module", "program"), MISSING.items())
def test_a_missing_package_is_one_sentence_that_names_it_and_both_ways_to_get_it(module, program):
    code = f"import sys; sys.modules[{module!r}] = None\n{program}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode
    (said,) = [line for line in done.stderr.splitlines() if "which is not installed" in line]
    package = module.replace("_", "-")
    assert f"needs {package}, which is not installed: pip install {package}, or pip install '.[" in said
    extra = re.search(r"'\.\[(.+)\]'", said)[1]
    (wanted,) = re.findall(rf"^{extra} = \[(.+)\]$", PROJECT, re.MULTILINE)
    assert package in wanted or package == "kombu"  # which comes with Celery


def test_what_belongs_to_no_extra_is_named_as_it_is():
    assert extras.is_extra("redis.asyncio")
    assert not extras.is_extra("litellm")
    assert not extras.is_extra(None)
    assert extras.needs("This", "json.tool", "cli").startswith("This needs json, which is not installed: pip install ")
