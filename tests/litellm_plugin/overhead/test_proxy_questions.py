"""What the proxy asks its Router: the same answers, fresh objects, and nothing where LiteLLM has to answer itself."""

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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fast_router
from fast_router.litellm_plugin.bands.find import find_band
from fast_router.litellm_plugin.bands.member_names import Names
from fast_router.litellm_plugin.overhead.books import books_of
from fast_router.litellm_plugin.overhead.parts import Parts
from fast_router.litellm_plugin.overhead.proxy import absent_modules, proxy_questions, startup_heap
from fast_router.litellm_plugin.patching import PatchSet
from tests.litellm_plugin.overhead.differential import features

_ATOMS = st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=3)
_VALUES = _ATOMS | st.lists(_ATOMS, max_size=2) | st.dictionaries(st.text(max_size=2), _ATOMS, max_size=2)
_ACCESS_GROUPS = st.sampled_from([{}, {"access_groups": ["beta"]}, {"access_groups": []}, {"access_groups": None}])
_FLEET = st.lists(
    st.tuples(st.sampled_from(["m", "n", "open/*"]), st.integers(0, 3), st.booleans(), _ACCESS_GROUPS),
    min_size=1,
    max_size=4,
)


def _minor() -> int:
    return int(find_band(litellm.router).version.split(".")[1])


def _router(*entries: dict[str, Any]) -> litellm.Router:
    return litellm.Router(model_list=list(entries))


def _entry(name: str = "m", params: dict[str, Any] | None = None, info: dict[str, Any] | None = None) -> dict[str, Any]:
    params = {"model": "openai/gpt-4o", "api_key": "k", **(params or {})}
    return {"model_name": name, "litellm_params": params, "model_info": {**(info or {})}}


def _shape(made: Any) -> Any:
    parts = (made, made.litellm_params, made.model_info)
    return [(type(one), one.model_dump(), one.model_fields_set, one.model_extra) for one in parts]


@pytest.fixture
def core() -> type:
    return find_band(litellm.router).core


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["extra", "weight", "other"]), _VALUES, max_size=3))
def test_a_deployment_is_what_litellm_makes_of_its_entry(monkeypatch, extra):
    router = _router(_entry(info={"id": "one"}))
    router.model_list[0]["litellm_params"].update(extra)
    router.model_list[0]["model_info"].update({"more": extra.get("extra")})
    try:
        expected = _shape(router.get_deployment("one"))
        with features(monkeypatch, {"deployment_objects"}) as installed:
            assert installed == ["deployment_objects"]
            for _ in range(3):
                made = router.get_deployment("one")
                assert _shape(made) == expected
                # A caller may do with it what it likes.
                made.litellm_params.api_key = "changed"
                made.model_info["more"] = "changed"
                made.model_info.id = "changed"
            assert router.get_deployment("nobody") is None
    finally:
        router.discard()


def test_an_entry_edited_in_place_is_seen(monkeypatch):
    router = _router(_entry(info={"id": "one"}))
    try:
        with features(monkeypatch, {"deployment_objects"}):
            for _ in range(2):
                assert router.get_deployment("one").litellm_params.api_key == "k"
            router.model_list[0]["litellm_params"]["api_key"] = "new"
            router.model_list[0]["model_info"]["blocked"] = True
            made = router.get_deployment("one")
            assert (made.litellm_params.api_key, made.model_info.blocked) == ("new", True)
    finally:
        router.discard()


def test_a_flag_that_is_none_is_warned_of_each_time(monkeypatch, caplog):
    router = _router(_entry(info={"id": "one"}))
    router.model_list[0]["litellm_params"]["drop_params"] = 5
    logging.getLogger("LiteLLM").addHandler(caplog.handler)
    try:
        lines = []
        for wanted in (set(), {"deployment_objects"}):
            with features(monkeypatch, wanted):
                caplog.clear()
                for _ in range(3):
                    router.get_deployment("one")
                lines.append(len(caplog.records))
        assert lines[0] == lines[1]
    finally:
        logging.getLogger("LiteLLM").removeHandler(caplog.handler)
        router.discard()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_FLEET, st.sampled_from(["m", "n", "open/x", "gone"]), st.sampled_from([None, "team-0"]))
def test_access_groups_are_those_of_litellm(monkeypatch, fleet, asked, team):
    entries = [_entry(name, {}, {"id": str(number), **info}) for number, (name, _, _, info) in enumerate(fleet)]
    router = _router(*entries)
    try:
        expected = router.get_model_access_groups(model_name=asked, team_id=team)
        with features(monkeypatch, {"access_groups"}):
            for _ in range(2):
                found = router.get_model_access_groups(model_name=asked, team_id=team)
                assert found == expected
                assert type(found) is type(expected)
                found["mine"].append("changed")
    finally:
        router.discard()


def test_an_access_group_that_comes_later_is_seen(monkeypatch):
    router = _router(_entry(info={"id": "one"}))
    try:
        with features(monkeypatch, {"access_groups"}):
            assert router.get_model_access_groups(model_name="m") == {}
            router.add_deployment(
                litellm.types.router.Deployment(**_entry(info={"id": "2", "access_groups": ["beta"]}))
            )
            assert router.get_model_access_groups(model_name="m") == {"beta": ["m"]}
            router.delete_deployment("2")
            assert router.get_model_access_groups(model_name="m") == {}
            router.set_model_list([_entry(info={"id": "3", "access_groups": ["alpha"]})])
            assert router.get_model_access_groups(model_name="m") == {"alpha": ["m"]}
    finally:
        router.discard()


def _compression() -> Any:
    return pytest.importorskip("litellm.proxy.guardrails.auto_router_compression")


_MARKER = _entry("auto", {"model": "auto_router/x", "auto_router_routing_compression": "small"}, {"id": "marker"})
_TEAMS = [
    _entry(f"internal-{team}", {}, {"id": f"t{team}", "team_id": f"team-{team}", "team_public_model_name": "shared"})
    for team in (1, 2)
]


@pytest.mark.parametrize("fleet", [[], [_MARKER], _TEAMS, [_MARKER, *_TEAMS]], ids=["plain", "marker", "teams", "both"])
@pytest.mark.parametrize("asked", ["m", "auto", "shared", "gone"])
@pytest.mark.parametrize("role", [None, "proxy_admin"])
def test_an_auto_routers_policy_is_the_one_of_litellm(monkeypatch, fleet, asked, role):
    module = _compression()
    router = _router(_entry(info={"id": "one"}))
    for number, entry in enumerate(fleet):  # as the proxy adds them; a Router of its own would want semantic-router
        router.model_list.append(entry)
        router._build_model_name_index(router.model_list)
        router._invalidate_access_groups_cache()
        assert len(router.model_list) == number + 2
    request = {"metadata": {"user_api_key_auth": litellm.proxy._types.UserAPIKeyAuth(user_role=role)}} if role else {}

    def ask() -> Any:
        try:
            return module.policy_for_model(router, asked, request, [])
        except litellm.BadRequestError as error:
            return str(error)

    try:
        expected = ask()
        if asked == "auto" and _MARKER in fleet:
            assert expected.routing == "small"
        with features(monkeypatch, {"proxy_questions"}) as installed:
            assert "proxy_questions" in installed or _minor() >= 109
            assert [ask(), ask()] == [expected, expected]
            assert module.policy_for_model(None, asked, request, []) is None
    finally:
        router.discard()


@pytest.mark.parametrize("own", [None, [], "one", ["one", "two"], [{"three": {}}], 5])
@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("asked", ["m", "n", "gone", "", None])
@pytest.mark.parametrize("metadata", [None, {"user_api_key_team_id": "team"}, {"model_info": {"id": "b"}}])
def test_guardrails_are_those_of_litellm(monkeypatch, own, trusted, asked, metadata):
    module = importlib.import_module("litellm.proxy.common_request_processing")
    merge = "check_and_merge_model_level_guardrails"
    if not hasattr(module, merge):
        pytest.skip("another name, and left alone")
    router = _router(_entry(info={"id": "a"}), _entry(info={"id": "b"}), _entry("n", info={"id": "c"}))

    def ask(**more: Any) -> Any:
        data = {"model": asked, **({} if metadata is None else {"metadata": {**metadata}})}
        try:
            return getattr(module, merge)(data, router, trust_client_model_info=trusted, **more)
        except TypeError as error:  # of LiteLLM, for a guardrail that is no name
            return str(error)

    def ask_all() -> Any:
        answers = [ask(), ask(model_alias="m")]
        # Set in place, which nothing announces: what protects must be seen at once.
        router.model_list[1]["litellm_params"]["guardrails"] = own
        answers += [ask(), ask(model_alias="m")]
        del router.model_list[1]["litellm_params"]["guardrails"]
        return [*answers, getattr(module, merge)({"model": asked}, None)]

    try:
        expected = ask_all()
        with features(monkeypatch, {"proxy_questions", "model_lists"}):
            assert ask_all() == expected
    finally:
        router.discard()


@pytest.mark.parametrize("limits", [(None, None), (None, 5), (7, 3), ("4", None), ("many", None)])
def test_default_limits_of_keys_are_those_of_litellm(monkeypatch, limits):
    module = importlib.import_module("litellm.proxy.auth.auth_utils")
    server = importlib.import_module("litellm.proxy.proxy_server")
    router = _router(*(_entry(info={"id": str(n)}) for n in range(len(limits))))
    for entry, limit in zip(router.model_list, limits, strict=True):
        if limit is not None:
            entry["litellm_params"]["default_api_key_rpm_limit"] = limit
    monkeypatch.setattr(server, "llm_router", router)

    def ask() -> Any:
        return [
            function(name)
            for function in (module._get_deployment_default_rpm_limit, module._get_deployment_default_tpm_limit)
            for name in ("m", "gone")
        ]

    try:
        expected = ask()
        with features(monkeypatch, {"proxy_questions"}):
            assert [ask(), ask()] == [expected, expected]
            router.set_model_list([_entry(params={"default_api_key_tpm_limit": 9}, info={"id": "new"})])
            assert ask() == [None, None, 9, None]
            monkeypatch.setattr(server, "llm_router", None)
            assert ask() == [None] * 4
    finally:
        router.discard()


def test_a_fleet_that_has_nothing_is_not_walked_through_again(monkeypatch):
    limits = importlib.import_module("litellm.proxy.auth.auth_utils")
    requests = importlib.import_module("litellm.proxy.common_request_processing")
    server = importlib.import_module("litellm.proxy.proxy_server")
    module = _compression()
    router = _router(_entry(info={"id": "one"}), _entry(info={"id": "two"}))
    monkeypatch.setattr(server, "llm_router", router)

    def ask() -> set[str]:
        called = set()
        sys.setprofile(lambda frame, event, _: called.add(frame.f_code) if event == "call" else None)
        try:
            limits._get_deployment_default_limit("m", "default_api_key_rpm_limit")
            router.get_model_access_groups(model_name="m")
            module.policy_for_model(router, "m", {}, [])
            requests.check_and_merge_model_level_guardrails({"model": "m"}, router, trust_client_model_info=False)
            router.get_deployment("one")
        finally:
            sys.setprofile(None)
        return {code.co_name for code in called if f"{os.sep}litellm{os.sep}" in code.co_filename}

    try:
        assert {"get_model_list", "deployments_for_request", "get_deployment"} <= ask()
        with features(monkeypatch, None) as installed:
            if "proxy_questions" not in installed or _minor() < 106:
                pytest.skip("this LiteLLM answers some of it by itself")
            ask()
            assert ask() == set()
    finally:
        router.discard()


def test_another_kind_of_router_is_not_judged(monkeypatch, core):
    names = Names.of(core)

    class Other(core):
        def get_model_list(self, model_name=None, team_id=None):
            return [_entry(params={"default_api_key_rpm_limit": 1})]

    other = Other(model_list=[_entry(info={"id": "one"})])
    try:
        assert not proxy_questions.nobody(other, names, "m", "field", lambda _: False)
        assert not proxy_questions.nobody(object(), names, "m", "field", lambda _: False)
        plain = core(model_list=[_entry(info={"id": "one"})])
        assert proxy_questions.nobody(plain, names, "m", "field", lambda _: False)
        assert not proxy_questions.nobody(wrapt.ObjectProxy(plain), names, "m", "field", lambda _: False)
        plain.get_model_list = other.get_model_list
        assert not proxy_questions.nobody(plain, names, "m", "field", lambda _: False)
        plain.discard()
    finally:
        other.discard()


def test_a_wildcard_that_outlives_its_entry_keeps_what_it_has(monkeypatch):
    """`set_model_list` leaves the wildcards of the former list where they are."""
    module = importlib.import_module("litellm.proxy.auth.auth_utils")
    server = importlib.import_module("litellm.proxy.proxy_server")
    wild = _entry("openai/*", {"model": "openai/*", "default_api_key_rpm_limit": 3}, {"access_groups": ["beta"]})
    router = _router(wild, _entry())
    router.set_model_list([_entry()])
    monkeypatch.setattr(server, "llm_router", router)

    def ask() -> Any:
        limit = module._get_deployment_default_limit("openai/foo", "default_api_key_rpm_limit")
        return limit, dict(router.get_model_access_groups(model_name="openai/foo"))

    try:
        expected = ask()
        with features(monkeypatch, {"proxy_questions", "access_groups"}):
            assert [ask(), ask()] == [expected, expected]
    finally:
        router.discard()


def test_what_is_remembered_of_a_deployment_goes_with_it(monkeypatch):
    router = _router(_entry(info={"id": "stays"}))
    try:
        with features(monkeypatch, {"deployment_objects"}):
            for number in range(20):
                entry = _entry(info={"id": str(number)})
                router.add_deployment(litellm.types.router.Deployment(**entry))
                assert [router.get_deployment(str(number)).model_info.id for _ in range(2)] == [str(number)] * 2
                router.delete_deployment(str(number))
                assert router.get_deployment(str(number)) is None
            assert len(books_of(router).objects) <= 1
    finally:
        router.discard()


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


def test_the_proxys_modules_are_patched_when_they_come(core):
    # In a process of its own: in this one the proxy's modules are there already.
    done = subprocess.run(
        [sys.executable, "-c", _LATE], capture_output=True, text=True, timeout=120, check=False, env=_environment()
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
