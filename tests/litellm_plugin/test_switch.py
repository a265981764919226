"""On and off: what is patched, that it comes back, and what happens when something is not as expected."""

from __future__ import annotations

import json
import logging
import re
import sys
import types

import litellm
import pytest
from litellm import Router

import fast_router
from fast_router.litellm_plugin import hook, report
from fast_router.litellm_plugin.bands import methods
from fast_router.litellm_plugin.bands.find import find_band
from fast_router.litellm_plugin.patching import PatchSet
from fast_router.litellm_plugin.picks import guard
from fast_router.litellm_plugin.picks.binding import Binding
from fast_router.litellm_plugin.rust_core import binding as rust_binding
from fast_router.settings import features
from tests.support.plugin import asynchronous, core_of, entry, in_flight, pick_id, picks, router, run_python, sync_id

pytestmark = pytest.mark.usefixtures("plugin")


def members() -> dict[tuple[str, str], object]:
    """Everything that could be patched, as it is now."""
    module = sys.modules[core_of(router(entry("a"))).__class__.__module__]
    found: dict[tuple[str, str], object] = {}
    handlers = [value for name, value in vars(module).items() if name.endswith(("Handler", "Handler_v2"))]
    for owner in (Router, getattr(module, "PythonCore", Router), *handlers):
        found.update({(owner.__name__, name): value for name, value in vars(owner).items()})
    found.update({("module", name): value for name, value in vars(module).items() if callable(value)})
    return found


def test_off_gives_back_the_identical_objects():
    patched = members()
    assert hook.disable(names=True) == []
    original = members()
    assert hook.enable()
    assert hook.disable(names=True) == []
    again = members()
    hook.enable()
    assert original.keys() == again.keys()
    assert [key for key in original if original[key] is not again[key]] == []
    assert [key for key in original if original[key] is not patched.get(key)], "nothing was patched"


def test_twice_on_is_once_on():
    before = members()
    assert hook.enable()
    after = members()
    assert [key for key in before if before[key] is not after[key]] == []
    made = router(entry("a"))
    start = picks()["fast"]
    pick_id(made)
    assert picks()["fast"] == start + 1


def test_existing_routers_follow_the_switch():
    hook.disable()
    made = router(entry("a"), entry("b"))
    before = picks()
    assert pick_id(made) in "ab"
    assert picks() == before
    hook.enable()
    assert pick_id(made) in "ab"
    assert picks()["fast"] == before["fast"] + 1
    hook.disable()
    assert pick_id(made) in "ab"
    assert picks()["fast"] == before["fast"] + 1


@pytest.mark.slow
def test_environment_turns_it_off_before_anything_is_touched():
    found = run_python(
        """
import json, sys
import litellm, litellm.router as module
core = getattr(module, "PythonCore", module.Router)
before = dict(vars(core))
meta = list(sys.meta_path)
import fast_router
fast_router.enable()
same = all(vars(core)[name] is value for name, value in before.items())
print(json.dumps({"same": same, "meta": meta == sys.meta_path, "status": fast_router.status()}))
""",
        FAST_ROUTER_ENABLED="never",
    )
    assert found["same"]
    assert found["meta"]
    assert not found["status"]["enabled"]
    assert found["status"]["switched_off_by_environment"]
    assert (found["status"]["shared_state"], found["status"]["resting"]) == ([], [])


@pytest.mark.parametrize("first", ["fast_router", "litellm"])
def test_order_of_imports_does_not_matter(first):
    second = {"fast_router": "litellm", "litellm": "fast_router"}[first]
    found = run_python(
        f"""
import json, sys
import {first}
early = "litellm" in sys.modules
import {second}
import fast_router, litellm
litellm.Router
print(json.dumps({{"early": early, "enabled": fast_router.status()["enabled"]}}))
"""
    )
    assert found["early"] == (first == "litellm")
    assert found["enabled"]


@pytest.mark.slow
def test_a_feature_can_be_switched_off():
    found = run_python(
        "import json, litellm, fast_router; litellm.Router; print(json.dumps(fast_router.status()))",
        FAST_ROUTER_DISABLED_FEATURES="bookkeeping, model_list",
    )
    assert found["enabled"]
    assert {"bookkeeping", "model_list"} <= found["skipped"].keys()
    assert "selection" in found["features"]


@pytest.mark.slow
def test_a_feature_can_be_switched_off_by_configure():
    found = run_python(
        """
import json, fast_router
fast_router.configure(disabled_features=("hedging", "bookkeeping"))
import litellm
litellm.Router
print(json.dumps(fast_router.status()))
"""
    )
    assert found["enabled"]
    assert "bookkeeping" in found["skipped"]


@pytest.mark.slow
def test_every_feature_that_the_status_names_can_be_switched_off():
    found = run_python(
        """
import json, fast_router, litellm
litellm.Router
names = fast_router.status()["features"]
still_on = []
for name in names:
    fast_router.disable()
    fast_router.configure(disabled_features=(name,))
    fast_router.enable()
    if name in fast_router.status()["features"]:
        still_on.append(name)
print(json.dumps({"names": names, "still_on": still_on, "errors": fast_router.status()["errors"]["count"]}))
"""
    )
    assert {"selection", "failover", "hedging", "waiting", "stream_failover", "shared_state"} <= set(found["names"])
    assert found["still_on"] == []
    assert found["errors"] == 0


def test_the_names_of_features_are_those_that_are_installed():
    # One may be off on this LiteLLM, but none is on that `disabled_features` does not know.
    on = set(fast_router.status()["features"])
    assert on <= {*features.FEATURES, *features.OVERHEAD}
    assert {"hedging", "stream_failover", "waiting"} <= on


@pytest.mark.slow
def test_a_variable_that_is_no_option_is_one_warning_when_litellm_is_patched():
    found = run_python(
        """
import json, logging
said = []
class Keep(logging.Handler):
    def emit(self, record): said.append(record.getMessage())
logging.getLogger("fast_router").addHandler(Keep())
import fast_router
early = list(said)
import litellm
litellm.Router
fast_router.disable()
fast_router.enable()
print(json.dumps({"early": early, "said": [line for line in said if "no such option" in line]}))
""",
        FAST_ROUTER_MAXWAIT="3",
        FAST_ROUTER_TEST_X="3",  # the suite's own: no warning
    )
    assert found["early"] == []
    (line,) = found["said"]
    assert "FAST_ROUTER_MAXWAIT" in line
    assert "FAST_ROUTER_TEST_X" not in line
    assert "did you mean 'FAST_ROUTER_MAX_WAIT'?" in line


@pytest.mark.slow
def test_the_file_of_settings_can_leave_litellm_untouched(tmp_path):
    options = tmp_path / "options.yml"
    options.write_text("enabled: false\n")
    found = run_python(
        "import json, litellm, fast_router; litellm.Router; print(json.dumps(fast_router.status()))",
        FAST_ROUTER_CONFIG=str(options),
    )
    assert not found["enabled"]
    assert found["patched"] == []


@pytest.mark.parametrize("first", ["fast_router", "litellm"])
def test_a_wrong_setting_is_one_clear_error_and_nothing_is_patched(first):
    found = run_python(
        f"""
import json
if "{first}" == "litellm":
    import litellm
try:
    import fast_router
    said = None
except Exception as error:
    said = str(error)
import litellm.router
print(json.dumps({{"said": said, "module": litellm.Router.async_get_available_deployment.__module__}}))
""",
        FAST_ROUTER_MAX_WAIT="soon",
    )
    assert found["said"].startswith("FAST_ROUTER_MAX_WAIT: 'soon'")
    assert "seconds" in found["said"]
    assert found["module"].startswith("litellm")


def test_an_error_of_ours_is_counted_and_litellm_answers(plugin, monkeypatch, caplog):
    made = router(entry("a"), entry("b"))
    errors = fast_router.status()["errors"]["count"]

    def broken(*_args, **_kwargs):
        raise ZeroDivisionError("sk-secret")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, logger="fast_router"):
        patch.setattr(rust_binding, "bind", broken)
        patch.setattr(guard, "bind", broken)
        assert {pick_id(made), sync_id(made)} <= {"a", "b"}
    status = fast_router.status()
    # A pick for which we have two ways, a lane and the walk beside it, fails in both.
    assert status["errors"]["count"] >= errors + 2
    plugin.errors = status["errors"]["count"] - errors
    assert status["errors"]["last"].startswith("ZeroDivisionError")
    assert "sk-secret" not in json.dumps(status)
    assert "sk-secret" not in caplog.text
    assert len([r for r in caplog.records if r.name == "fast_router"]) <= 1


def test_a_choice_of_ours_that_fails_is_litellms(plugin, monkeypatch):
    # Not a pick from a compiled plan, whichever LiteLLM this is: one among the candidates that its filters leave.
    made = router(entry("a"), entry("b"), enable_tag_filtering=True, routing_strategy="least-busy")
    errors = fast_router.status()["errors"]["count"]

    def broken(*_args, **_kwargs):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Binding, "group_containing", broken)
        assert pick_id(made) in "ab"
    assert fast_router.status()["errors"]["count"] == errors + 1
    plugin.errors = 1
    assert in_flight(made) == 0


def test_a_litellm_without_the_members_is_left_alone_but_for_its_public_hook(caplog):
    hook.disable()
    litellm_version = re.escape(methods.litellm_version())
    stranger = types.ModuleType("litellm.router")

    class Strange:
        pass

    Strange.__module__ = stranger.__name__
    stranger.Router = Strange
    callbacks = list(litellm.callbacks)
    with pytest.raises(methods.UnknownBandError, match=rf"LiteLLM {litellm_version} has no "):
        find_band(stranger)
    try:
        with caplog.at_level(logging.WARNING, logger="fast_router"):
            hook._patch(stranger)
        assert report.status()["features"] == ["public hook"]
        assert report.status()["band"] is None
        assert report.status()["patched"] == []
        assert len([r for r in caplog.records if "FAST_ROUTER_ENABLED=0" in r.getMessage()]) == 1
        made = router(*(entry(name) for name in "abcd"))
        seen = {pick_id(made, litellm_call_id=f"call-{n}") for n in range(4)}
        # The hook narrows only where it sees the Routers, and so what they check after it.
        sees = litellm.callbacks[-1].narrower.sees_routers()
        assert seen == set("abcd") if sees else seen <= set("abcd"), "calls that have not ended count"
        tagged = router(entry("a", order=1), entry("b", order=2))
        assert {pick_id(tagged, litellm_call_id=f"other-{n}") for n in range(6)} == {"a"}
    finally:
        hook.disable()
    assert litellm.callbacks == callbacks


@pytest.mark.python_core
def test_a_version_that_is_newer_with_members_that_are_older_is_unknown(monkeypatch):
    monkeypatch.setattr(methods, "litellm_version", lambda: "1.111.0")
    with pytest.raises(methods.UnknownBandError, match=r"1\.111\.0 has no "):
        find_band(sys.modules["litellm.router"])


def test_this_litellms_pipeline_is_known():
    assert fast_router.status()["band"] is not None
    assert "fast lane" not in fast_router.status()["skipped"]


@pytest.mark.python_core
def test_an_unknown_pipeline_runs_and_only_the_choice_is_ours(monkeypatch):
    monkeypatch.setattr(methods, "KNOWN_PIPELINES", {})
    hook.disable()
    hook.enable()
    made = router(entry("a"), entry("b"), routing_strategy="least-busy")
    before = picks()
    assert pick_id(made) in "ab"
    after = picks()
    assert after["fast"] == before["fast"]
    assert after["filtered"] == before["filtered"] + 1
    assert "fast lane" in fast_router.status()["skipped"]
    monkeypatch.undo()
    hook.disable()
    hook.enable()


class Owner:
    def method(self, x: int) -> int:
        return x

    @staticmethod
    def static(x: int) -> int:
        return x


class Heir(Owner):
    pass


def plus_one(original):
    def method(self, x):
        return original(self, x) + 1

    return method


def test_patches_stack_and_rewind():
    original = vars(Owner)["method"]
    patches = PatchSet()
    patches.replace(Owner, "method", plus_one)
    mark = patches.mark()
    patches.replace(Owner, "method", plus_one)
    patches.replace(Heir, "method", plus_one)
    assert (Owner().method(0), Heir().method(0)) == (2, 3)
    patches.rewind(mark)
    assert (Owner().method(0), Heir().method(0)) == (1, 1)
    assert "method" not in vars(Heir)
    assert patches.restore() == []
    assert vars(Owner)["method"] is original


def test_a_patch_over_ours_stays_and_ours_only_forwards():
    patches = PatchSet()
    patches.replace(Owner, "method", plus_one)
    ours = vars(Owner)["method"]

    def theirs(self, x):
        return ours(self, x) * 10

    original = vars(Owner)["method"].__fast_router_original__
    try:
        Owner.method = theirs
        assert Owner().method(1) == 20
        assert patches.restore() == ["Owner.method"]
        assert vars(Owner)["method"] is theirs
        assert Owner().method(1) == 10
    finally:
        Owner.method = original


def test_advanced_router_wants_a_router():
    with pytest.raises(TypeError, match="str"):
        fast_router.advanced_router("m")
    made = router(entry("a"), entry("b"))
    ours = fast_router.advanced_router(made)
    assert ours is fast_router.advanced_router(made)
    assert [row["id"] for row in ours.stats()["models"]["m"]["deployments"]] == ["a", "b"]
    assert "sk-test" not in json.dumps(ours.stats())
    assert asynchronous(made)
