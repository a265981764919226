"""What the proxy asks its Router: the same answers, fresh objects, and nothing where LiteLLM has to answer itself."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

import litellm
import pytest
import wrapt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fast_router.litellm_plugin.bands.find import find_band
from fast_router.litellm_plugin.bands.member_names import Names
from fast_router.litellm_plugin.overhead.books import books_of
from fast_router.litellm_plugin.overhead.proxy import proxy_questions
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
