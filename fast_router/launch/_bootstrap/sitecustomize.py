"""Run by every Python that starts under `fast-router run`: installs fast_router before the program begins.

The launcher puts this directory first on PYTHONPATH, so Python takes this file for the site's `sitecustomize`. The
one that would have been loaded otherwise is loaded first. Nothing here may stop the program: a problem is one
line on stderr.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys


def _load_the_other() -> None:
    """Load the `sitecustomize` that this one hides, if there is one."""
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - each program that starts pays for imports
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]  # noqa: PTH100
    ours = sys.modules.pop("sitecustomize", None)
    try:
        importlib.import_module("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        if ours is not None:
            sys.modules.setdefault("sitecustomize", ours)


def _install() -> None:
    try:
        import fast_router.auto  # noqa: F401, PLC0415
    except Exception as error:  # noqa: BLE001 - a program that does not need us starts all the same
        # Helper programs in other Pythons pass through here too; only one that runs LiteLLM is missing something.
        if isinstance(error, ModuleNotFoundError) and error.name == "fast_router":
            if importlib.util.find_spec("litellm") is not None:
                _say(f"{sys.executable} has LiteLLM but no fast_router; install fast-router there as well")
        else:
            _say(f"fast_router is not active: {error}")


def _say(text: str) -> None:
    sys.stderr.write(f"fast-router run: {text}\n")


try:
    _load_the_other()
finally:
    _install()
