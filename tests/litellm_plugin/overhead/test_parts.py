"""The parts on their own: the price index, the quick copies, the switches, and what is put back."""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import litellm
import litellm.router
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from litellm.router_strategy import lowest_latency
from litellm.types import utils as types

import fast_router
from fast_router.litellm_plugin import overhead
from fast_router.litellm_plugin.bands import fingerprints
from fast_router.litellm_plugin.bands.find import find_band
from fast_router.litellm_plugin.overhead import lookups
from fast_router.litellm_plugin.overhead.construction.price_map import LowercaseIndex
from fast_router.litellm_plugin.overhead.request.cooldown_read import resting_candidates
from fast_router.litellm_plugin.overhead.request.copies import SelfCopying, plain_copy
from fast_router.litellm_plugin.overhead.request.tokens import some_token_limit
from fast_router.litellm_plugin.patching import PatchSet
from tests.litellm_plugin.overhead.differential import FITTING, features

NAMES = st.text("aAbBc/", min_size=1, max_size=4)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.tuples(st.integers()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(st.tuples(st.booleans(), NAMES), max_size=40))
def test_the_index_is_what_building_it_anew_gives(steps):
    source: dict[str, int] = {}
    index = LowercaseIndex()
    for add, name in steps:
        if add:
            source[name] = 1
        else:
            source.pop(name, None)
        # Names before the end that went away may linger, as in LiteLLM, which asks for `rebuild` then.
        made = index.of(source)
        assert {key: made[key] for key in (one.lower() for one in source)} == {one.lower(): one for one in source}
    assert index.rebuild(source) == {name.lower(): name for name in source}


@given(PLAIN)
def test_a_quick_copy_equals_a_deep_copy_and_shares_nothing(value):
    quick = plain_copy(value, {})
    assert quick == copy.deepcopy(value)
    assert type(quick) is type(value)
    if isinstance(value, (dict, list)):
        assert quick is not value


def test_a_quick_copy_keeps_what_is_shared_and_cycles():
    shared = {"x": [1]}
    value: dict = {"one": shared, "two": shared}
    value["self"] = value
    quick = plain_copy(value, {})
    assert quick["one"] is quick["two"] is not shared
    assert quick["self"] is quick


def test_a_self_copying_entry_becomes_a_plain_dict():
    entry = {"litellm_params": {"model": "m", "tags": ["a"]}, "model_info": {"id": "1"}}
    made = copy.deepcopy(SelfCopying(entry))
    assert type(made) is dict
    assert made == entry
    made["litellm_params"]["tags"].append("b")
    assert entry["litellm_params"]["tags"] == ["a"]


@settings(max_examples=50)
@given(st.sets(st.integers(0, 30)), st.integers(0, 30))
def test_only_ids_with_an_item_are_looked_up(resting, size):
    known = {f"d{number}": number for number in range(size)}
    items = {f"deployment:d{number}:cooldown": {} for number in resting}
    found = resting_candidates(items, known)
    expected = [name for name in known if f"deployment:{name}:cooldown" in items]
    assert found == (expected if len(items) < len(known) else None)


@pytest.mark.parametrize("place", ["top", "litellm_params", "model_info"])
def test_a_token_limit_is_found_wherever_it_stands(place):
    entry: dict = {"litellm_params": {}, "model_info": {}}
    assert not some_token_limit([entry])
    (entry if place == "top" else entry[place])["tpm"] = 5
    assert some_token_limit([{"litellm_params": {}, "model_info": {}}, entry])


def tokens_counted(monkeypatch, module):
    counted = []
    real = module.token_counter

    def counter(**kwargs):
        if kwargs.get("messages") is not None or kwargs.get("text") is not None:
            counted.append(kwargs)
        return real(**kwargs)

    monkeypatch.setattr(module, "token_counter", counter)
    return counted


@pytest.mark.parametrize(("limit", "expected"), [({}, 0), ({"tpm": 10**9}, 1)])
async def test_a_long_prompt_is_counted_only_for_a_limit(limit, expected, upstreams, monkeypatch):
    counted = tokens_counted(monkeypatch, lowest_latency)
    entry = {
        "model_name": "m",
        "litellm_params": {"model": "openai/gpt-4o", "api_key": "k", "api_base": upstreams[0].api_base, **limit},
        "model_info": {"id": "long"},
    }
    with features(monkeypatch, {"token_counting"}):
        router = litellm.Router(model_list=[entry], routing_strategy="latency-based-routing", num_retries=0)
        try:
            await router.acompletion(model="m", messages=[{"role": "user", "content": "word " * 50_000}])
        finally:
            router.discard()
    assert len(counted) == expected


@pytest.mark.parametrize("feature", FITTING)
def test_every_feature_can_be_switched_off_by_its_name(feature, monkeypatch):
    with features(monkeypatch, None) as installed:
        all_of_them = set(installed)
    with features(monkeypatch, set(FITTING) - {feature}) as installed:
        assert set(installed) == all_of_them - {feature}


_NEWER = {
    "clients",
    "deployment_marks",
    "fallback_hops",
    "metadata_names",
    "minute_counts",
    "strategy_state",
    "trace_spans",
}
# Where LiteLLM has no such function yet, a different one, or does the same by itself; docs/performance.md has the list.
_MISSING = {
    "1.83": {*_NEWER, "answer_headers", "token_reservations", "usage_verdict"},
    "1.91": {*_NEWER, "answer_headers", "token_reservations", "usage_verdict"},
    "1.99": {*_NEWER, "awaitable_answers", "usage_verdict"},
    "1.106": set(),
    "1.108": {"fallback_hops", "minute_counts"},
    "1.109": {
        "access_groups",
        "clients",
        "fallback_hops",
        "minute_counts",
        "proxy_questions",
        "token_reservations",
        "usage_verdict",
    },
}


def test_which_features_fit_which_version(monkeypatch):
    for module in ("auth.auth_utils", "auth.user_api_key_auth", "db.log_db_metrics", "proxy_server"):
        importlib.import_module(f"litellm.proxy.{module}")  # these features wait for the proxy
    minor = ".".join(find_band(litellm.router).version.split(".")[:2])
    with features(monkeypatch, None) as installed:
        assert set(FITTING) - set(installed) == _MISSING[minor]


@pytest.mark.slow
def test_the_same_features_fit_where_litellm_has_just_been_imported():
    """LiteLLM looks many of its names up when they are asked for; in this process, others have asked."""
    code = (
        "import fast_router, litellm, json; found = fast_router.status()\n"
        "print(json.dumps([found['litellm'], found['features'], found['skipped']]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    version, on, skipped = json.loads(done.stdout.splitlines()[-1])
    waiting = {name for name, why in skipped.items() if why == "waits for LiteLLM's proxy"}
    assert waiting <= {"absent_modules", "proxy_questions", "startup_heap"}
    assert set(FITTING) - set(on) - waiting == _MISSING[".".join(version.split(".")[:2])] - waiting


def test_a_function_that_reads_differently_turns_its_feature_off(monkeypatch):
    core = find_band(litellm.router).core

    def print_deployment(self, deployment):
        return {"other": deployment}

    monkeypatch.setattr(core, "print_deployment", print_deployment)
    with features(monkeypatch, None) as installed:
        assert "print_deployment" not in installed
        assert core.print_deployment is print_deployment
        assert "model_lists" in installed


def test_a_feature_that_cannot_be_installed_leaves_the_others_on(monkeypatch):
    def fails(*_):
        raise RuntimeError("no such luck")

    broken = [replace(one, install=fails) if one.name == "model_lists" else one for one in overhead.FEATURES]
    monkeypatch.setattr(overhead, "FEATURES", tuple(broken))
    with features(monkeypatch, None) as installed:
        assert "model_lists" not in installed
        assert "response_headers" in installed


def test_what_is_left_out_is_said_with_the_reason(monkeypatch):
    monkeypatch.delattr(find_band(litellm.router).core, "print_deployment")
    monkeypatch.setenv("FAST_ROUTER_DISABLED_FEATURES", "wildcards")
    fast_router.configure()
    patches = PatchSet()
    on = overhead.install(patches, find_band(litellm.router))
    assert patches.restore() == []
    assert set(on) | set(patches.skipped) == {feature.name for feature in overhead.FEATURES}
    assert patches.skipped["wildcards"] == "switched off by disabled_features"
    assert patches.skipped["print_deployment"].endswith("has no print_deployment")
    assert "registry of a core that is not written in Python" in patches.skipped["group_lists"]


def test_every_function_that_is_known_is_one_that_a_feature_needs():
    """What the proxy's and a feature's own choices rely on stands in their modules."""
    needed = {name for feature in overhead.FEATURES for name in (*feature.needs, *feature.any_of)}
    folder = Path(overhead.__file__).parent
    text = "".join(path.read_text() for path in folder.rglob("*.py"))
    assert [name for name in fingerprints.KNOWN if name not in needed and f'"{name}"' not in text] == []
    assert needed <= fingerprints.KNOWN.keys()


async def router_hooks(monkeypatch, listeners):
    """How often the service logger was run by one request."""
    core = find_band(litellm.router).core
    module = sys.modules[core.__module__]
    entry = {"model_name": "m", "litellm_params": {"model": "openai/gpt-4o", "api_key": "k", "mock_response": "here"}}
    router = litellm.Router(model_list=[entry])
    begun = []
    create_task = asyncio.create_task

    def counting(coroutine, **options):
        begun.append(coroutine.cr_code.co_name)
        return create_task(coroutine, **options)

    with monkeypatch.context() as patch:
        patch.setattr(litellm, "service_callback", listeners)
        patch.setattr(asyncio, "create_task", counting)
        await router.acompletion("m", messages=[{"role": "user", "content": "hi"}])
    router.discard()
    assert module.asyncio.sleep is asyncio.sleep
    return begun.count("async_service_success_hook")


async def test_service_hooks_run_only_for_listeners(monkeypatch):
    module = sys.modules[find_band(litellm.router).core.__module__]
    with features(monkeypatch, set()):
        stock = await router_hooks(monkeypatch, [])
    assert stock > 0
    with features(monkeypatch, {"service_hooks"}) as installed:
        assert installed == ["service_hooks"]
        assert await router_hooks(monkeypatch, []) == 0
        assert await router_hooks(monkeypatch, ["somebody"]) == stock
    assert module.asyncio is asyncio


def callbacks_of(router):
    core = vars(router).get("_core", router)
    return [
        entry
        for entry in litellm._async_success_callback
        if inspect.ismethod(entry) and entry.__self__ is core and "on_success" in entry.__name__
    ]


def test_routers_of_before_and_of_meanwhile_get_their_callbacks_back(monkeypatch):
    core = find_band(litellm.router).core
    original = vars(core)["deployment_callback_on_success"]
    entry = {"model_name": "m", "litellm_params": {"model": "openai/gpt-4o", "api_key": "k"}}
    before = litellm.Router(model_list=[entry])
    with features(monkeypatch, None):
        assert [one.__func__ is original for one in callbacks_of(before)] == [False]
        meanwhile = litellm.Router(model_list=[entry])
    for router in (before, meanwhile):
        assert [one.__func__ for one in callbacks_of(router)] == [original]
        router.discard()
        assert callbacks_of(router) == []


def test_what_was_patched_is_the_identical_object_again(monkeypatch):
    core = find_band(litellm.router).core
    before = dict(vars(core))
    names = dict(vars(litellm.utils))
    with features(monkeypatch, None):
        changed = [name for name in before if vars(core)[name] is not before[name]]
        assert {"print_deployment", "_pre_call_checks"} <= set(changed)
    after = dict(vars(core))
    assert [name for name in before if after[name] is not before[name]] == []
    assert vars(litellm.utils)["_rebuild_model_cost_lowercase_map"] is names["_rebuild_model_cost_lowercase_map"]


def test_a_fingerprint_is_of_the_source():
    def one():
        return 1

    def two():
        return 2

    assert fingerprints.fingerprint(one) != fingerprints.fingerprint(two)
    assert fingerprints.fingerprint(len) is None
    assert not fingerprints.is_known("get_model_list", one)
    assert PatchSet().restore() == []


def _seen(step):
    try:
        return step()
    except Exception as error:
        return type(error).__name__, str(error)


def _hidden_params_of(kind):
    """What reading, writing, deleting and copying of `_hidden_params` give, step by step."""
    one = kind()
    yield _seen(lambda: one._hidden_params)
    one._hidden_params = {"a": 1}
    yield _seen(lambda: one._hidden_params)
    one._hidden_params["b"] = 2
    yield from (_seen(lambda: copy.copy(one)._hidden_params), _seen(lambda: copy.deepcopy(one)._hidden_params))
    yield from (_seen(lambda: one.model_copy()._hidden_params), "_hidden_params" in one.model_dump())
    del one._hidden_params
    yield from (_seen(lambda: hasattr(one, "_hidden_params")), _seen(lambda: one._hidden_params))
    setattr(one, "_hidden_params", {"c": 3})  # noqa: B010 - LiteLLM writes it so, too
    yield _seen(lambda: getattr(one, "_hidden_params", None))
    yield _seen(lambda: kind.model_construct()._hidden_params)


def _hidden_params_of_every_kind():
    class Derived(types.ModelResponse):
        pass

    kinds = (types.ModelResponse, types.EmbeddingResponse, types.ImageResponse, Derived)
    pickled = pickle.dumps(types.ModelResponse(id="x", created=1))
    return [*(list(_hidden_params_of(kind)) for kind in kinds), pickle.loads(pickled)._hidden_params]


def test_hidden_params_are_what_pydantic_finds(monkeypatch):
    before = _hidden_params_of_every_kind()
    with features(monkeypatch, {"hidden_params"}) as installed:
        assert installed == ["hidden_params"]
        assert isinstance(inspect.getattr_static(types.ModelResponse, "_hidden_params"), property)
        assert _hidden_params_of_every_kind() == before
    assert _hidden_params_of_every_kind() == before
    with pytest.raises(AttributeError):
        inspect.getattr_static(types.ModelResponse, "_hidden_params")


async def test_deployments_of_one_model_share_what_the_price_map_says(monkeypatch, upstreams):
    made = []
    make = lookups.LookupService._make

    def counting(self, router, deployment, entry, group, memo, key):
        made.append(entry["model_info"]["id"])
        return make(self, router, deployment, entry, group, memo, key)

    monkeypatch.setattr(lookups.LookupService, "_make", counting)
    params = {"model": "openai/gpt-4o-mini", "api_key": "k", "api_base": upstreams[0].api_base}
    with features(monkeypatch, None) as installed:
        router = litellm.Router(
            model_list=[
                {"model_name": "m", "litellm_params": {**params, **more}, "model_info": {"id": str(number)}}
                for number, more in enumerate([{}] * 6 + [{"rpm": 1000}])
            ]
        )
        try:
            for name in [str(number) for number in range(7)] * 2:
                await router.acompletion(model=name, messages=[{"role": "user", "content": "hi"}])
        finally:
            router.discard()
    if "usage_verdict" not in installed:
        pytest.skip("this LiteLLM asks in another way")
    # The first one of the model, and the one with a limit of its own.
    assert set(made) == {"0", "6"}
