"""What the proxy imports: modules that are absent, its heap, and patches that wait for a module to come."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import subprocess
import sys
from typing import Any

import litellm
import pytest
import wrapt

import fast_router
from fast_router.litellm_plugin.bands.find import find_band
from fast_router.litellm_plugin.overhead.parts import Parts
from fast_router.litellm_plugin.overhead.proxy import absent_modules, startup_heap
from fast_router.litellm_plugin.patching import PatchSet
from tests.litellm_plugin.overhead.differential import features


def _minor() -> int:
    return int(find_band(litellm.router).version.split(".")[1])


@pytest.fixture
def core() -> type:
    return find_band(litellm.router).core


@pytest.mark.parametrize("name", ["no_such_module_at_all", "no_such_module_at_all.errors"])
def test_an_absent_module_raises_what_its_import_raises(name):
    with pytest.raises(ImportError) as expected:
        importlib.import_module(name)
    package = absent_modules._Package(name)
    errors = [package.error(), package.error()]
    assert errors[0] is not errors[1]
    for error in errors:
        assert type(error) is type(expected.value)
        assert (str(error), error.name, error.path) == (str(expected.value), expected.value.name, expected.value.path)
    assert absent_modules._Package("json").error() is None


def test_a_broken_module_is_not_absent(tmp_path, monkeypatch):
    (tmp_path / "fr_broken.py").write_text("raise TypeError('Descriptors cannot be created directly')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    package = absent_modules._Package("fr_broken")
    assert [package.error(), package.error()] == [None, None]


def test_what_is_no_error_of_the_database_is_judged_as_by_litellm(monkeypatch):
    module = importlib.import_module("litellm.proxy.db.log_db_metrics")
    judge = (
        "is_exception_related_to_db" if hasattr(module, "is_exception_related_to_db") else "_is_exception_related_to_db"
    )

    def ask() -> Any:
        try:
            return getattr(module, judge)(ValueError("no"))
        except ImportError as error:
            return type(error), str(error), error.name

    expected = ask()
    with features(monkeypatch, {"absent_modules"}) as installed:
        assert installed == ["absent_modules"]
        assert [ask(), ask()] == [expected, expected]


@pytest.fixture
def whole_heap():
    """Nothing set aside by the suite (tests/conftest.py), as in a program."""
    gc.unfreeze()


@pytest.mark.usefixtures("whole_heap")
def test_the_heap_of_the_start_is_set_aside_by_the_first_full_collection(monkeypatch):
    server = importlib.import_module("litellm.proxy.proxy_server")
    callbacks = list(gc.callbacks)
    assert gc.get_freeze_count() == 0
    monkeypatch.setattr(server, "llm_router", None)
    with features(monkeypatch, {"startup_heap"}) as installed:
        assert installed == ["startup_heap"]
        gc.collect()
        assert gc.get_freeze_count() == 0, "before it serves, everything may change"
        monkeypatch.setattr(server, "llm_router", object())
        gc.collect(1)
        assert gc.get_freeze_count() == 0
        gc.collect()
        frozen = gc.get_freeze_count()
        assert frozen > 100_000
        gc.collect()
        assert gc.get_freeze_count() == frozen
    assert gc.get_freeze_count() == 0
    assert gc.callbacks == callbacks
    with features(monkeypatch, {"startup_heap"}):
        assert gc.callbacks != callbacks
    assert gc.callbacks == callbacks


@pytest.mark.usefixtures("whole_heap")
def test_a_program_can_ask_for_that_too(monkeypatch):
    callbacks = list(gc.callbacks)
    monkeypatch.setattr(startup_heap.tally, "fast", 0)
    with features(monkeypatch, set()):
        patches = PatchSet()
        monkeypatch.delitem(sys.modules, "litellm.proxy.proxy_server", raising=False)
        startup_heap.FEATURE.install(patches, Parts(find_band(litellm.router)))
        assert (gc.callbacks, patches.late) == (callbacks, set())
        fast_router.configure(freeze_heap=True)
        assert patches.late == {"startup_heap"}
        gc.collect()
        assert gc.get_freeze_count() == 0
        startup_heap.tally.fast += 1
        gc.collect()
        assert gc.get_freeze_count() > 100_000
        patches.restore()
        assert gc.get_freeze_count() == 0
        fast_router.configure(freeze_heap=True)
        assert gc.callbacks == callbacks


_LATE = """
import json, sys
import litellm
import fast_router
from fast_router.litellm_plugin import hook

def on():
    return sorted({"proxy_questions", "absent_modules"} & set(fast_router.status()["features"]))

assert "litellm.proxy.auth.auth_utils" not in sys.modules
seen = [on()]
import litellm.proxy.auth.auth_utils as first
name = "_get_deployment_default_limit"
ours = vars(first)[name]
original = getattr(ours, "__fast_router_original__", ours)
seen.append(on())
hook.disable()
assert vars(first)[name] is original
import litellm.proxy.db.log_db_metrics as second
judge = [vars(second)[n] for n in vars(second) if n.endswith("is_exception_related_to_db")]
assert not any(hasattr(one, "__fast_router_original__") for one in judge)
seen.append(on())
hook.enable()
seen.append(on())
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_the_proxys_modules_are_patched_when_they_come(core):
    # In a process of its own: in this one the proxy's modules are there already.
    done = subprocess.run(
        [sys.executable, "-c", _LATE], capture_output=True, text=True, timeout=250, check=False, env=_environment()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    questions = ["proxy_questions"] if _minor() < 109 else []
    before, first, disabled, again = seen
    assert (before, disabled, again) == ([], [], ["absent_modules", *questions])
    assert set(questions) <= set(first)  # newer ones import both modules at once


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FAST_ROUTER_")}
    return {**kept, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def test_one_import_hook_waits_however_often_we_are_switched_on_and_off(tmp_path, monkeypatch):
    (tmp_path / "fr_comes_once.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    came = []
    for number in range(3):
        patches = PatchSet()
        patches.when_imported("fr_comes_once", lambda _, number=number: came.append(number) or ["it"])
        if number < 2:
            patches.restore()
    assert len(wrapt.importer._post_import_hooks["fr_comes_once"]) == 1
    try:
        importlib.import_module("fr_comes_once")
        assert (came, patches.late) == ([2], {"it"})
        patches.when_imported("fr_comes_once", lambda _: came.append("now") or [])
        assert came == [2, "now"]
    finally:
        sys.modules.pop("fr_comes_once", None)


def test_a_patch_that_fails_does_not_fail_the_import(tmp_path, monkeypatch, caplog):
    (tmp_path / "fr_comes_later.py").write_text("def one():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    patches = PatchSet()

    def half(module: Any) -> list[str]:
        patches.replace(module, "one", lambda _: lambda: 2)
        raise RuntimeError("no such luck")

    patches.when_imported("fr_comes_later", half)
    caplog.set_level(logging.WARNING, "fast_router")
    module = importlib.import_module("fr_comes_later")
    try:
        assert module.one() == 1
        assert patches.late == set()
        assert "fr_comes_later is left as it is" in caplog.text
        assert patches.restore() == []
    finally:
        sys.modules.pop("fr_comes_later", None)
