"""What every band keeps, whichever LiteLLM is installed: its answers, and what a layer sees of each request."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import litellm
import pytest
from litellm import Router

import fast_router
from fast_router.engine.strategies.round_robin import RoundRobin
from fast_router.litellm_plugin.bands.contract import Keeper, LiteLLM, Seam
from fast_router.litellm_plugin.feature_table import FEATURES, PARTS
from fast_router.litellm_plugin.patching import PatchSet
from fast_router.litellm_plugin.picks import binding as bindings
from fast_router.litellm_plugin.router_state import KEY, given_now
from fast_router.litellm_plugin.switch import switch
from fast_router.testing import Fleet, Spec
from tests.support.plugin import MESSAGES, deployments, discard, entry, in_flight, router, until


@pytest.fixture(autouse=True)
def plugin():
    assert fast_router.enable()
    errors = fast_router.status()["errors"]["count"]
    yield
    discard()
    assert fast_router.status()["errors"]["count"] == errors, fast_router.status()["errors"]


@pytest.fixture
def band() -> Any:
    assert switch.band is not None
    return switch.band


# -- answers -----------------------------------------------------------------------------------------------


def test_a_band_answers_whatever_the_contract_asks(band):
    asked = {name for name in vars(LiteLLM) if not name.startswith("_")} | set(LiteLLM.__annotations__)
    assert {"seams", "around_attempt", "keeper"} <= asked
    assert [name for name in sorted(asked) if not hasattr(band, name)] == []
    kept = {name for name in vars(Keeper) if not name.startswith("_")}
    assert {"binding", "rest_store"} <= kept
    assert [name for name in sorted(kept) if not hasattr(band.keeper, name)] == []
    assert isinstance(band.narrowing_keys, tuple)
    assert isinstance(band.order_is_strict(), bool)
    assert isinstance(band.stock_names(), tuple)
    assert isinstance(band.fast_lane, bool)


def test_a_band_has_a_seam_or_says_why_not(band):
    for seam in Seam:
        if seam not in band.seams:
            assert seam.value in band.lacks(seam) or "LiteLLM's core" in band.lacks(seam)
        elif seam is not Seam.PICK:  # it may be there, and this very pipeline unknown
            assert band.lacks(seam) == ""


def test_each_feature_is_on_or_said_to_be_off_with_a_reason(band):
    status = fast_router.status()
    # What overhead installs has names of its own; the other two wait for a setting.
    names = {feature.name for feature in FEATURES} - {"bookkeeping", "process_status", "celery_routing"} | PARTS.keys()
    if Seam.PICK in band.seams:
        names.discard("lane")  # superfluous there
    assert [name for name in sorted(names) if (name in status["features"]) == (name in status["skipped"])] == []
    assert all(isinstance(why, str) and why for why in status["skipped"].values())


def test_a_part_of_a_feature_goes_with_it_and_says_so():
    fast_router.disable()
    try:
        fast_router.configure(disabled_features=("failover", "counters_behind"))
        assert fast_router.enable()
        skipped = fast_router.status()["skipped"]
        for name in ("failover", "hedging", "waiting", "stream_failover", "counters_behind"):
            assert skipped[name] == "switched off by disabled_features"
    finally:
        fast_router.disable()
        fast_router.configure(disabled_features=None)
        fast_router.enable()


async def test_a_router_that_is_bound_is_told_of_once(band):
    told = []

    def bound(binding: Any, core: Any) -> None:
        told.append((binding, core))

    bindings.on_bind.append(bound)
    try:
        made = router(entry("a", "http://127.0.0.1:1", mock_response="hello"))
        for _ in range(3):
            await made.acompletion(model="m", messages=MESSAGES)
        core = band.core_of(made)
        assert [(found.core(), at) for found, at in told if at is core] == [(core, core)]
    finally:
        bindings.on_bind.remove(bound)


async def test_one_attribute_of_a_router_holds_all_that_is_kept_about_it(band):
    given: dict[str, Any] = {"routing_strategy": "round_robin", "allowed_fails": 3}
    made = router(entry("a", "http://127.0.0.1:1", mock_response="hello"), **given)
    await made.acompletion(model="m", messages=MESSAGES)
    made.completion(model="m", messages=MESSAGES)
    made.get_model_group_info("m")
    owners = {id(owner): owner for owner in (made, band.core_of(made))}.values()
    ours = [[name for name in vars(owner) if "fast_router" in name] for owner in owners]
    assert [KEY] in ours
    assert all(names in ([], [KEY]) for names in ours)


@pytest.mark.python_core
async def test_a_copy_of_a_router_that_has_picked_nothing_yet_is_one_of_its_own(band):
    made = router(entry("a", "http://127.0.0.1:1", mock_response="hello"), routing_strategy="round_robin")
    twin = copy.copy(band.core_of(made))
    bound = bindings.bind(twin, band)
    assert bound.core() is twin
    assert bindings.bind(band.core_of(made), band) is not bound
    assert bindings.existing(twin) is bound
    assert given_now(twin) is given_now(band.core_of(made)) is not None


# -- what a layer sees -------------------------------------------------------------------------------------


class Layer:
    """Counts the requests, attempts, choices and ends of the Routers of one test; `inside` is what runs now."""

    def __init__(self) -> None:
        self.requests = self.attempts = self.choices = self.ends = self.inside = 0

    def seen(self) -> tuple[int, int, int, int]:
        gc.collect()
        assert self.inside == 0
        return self.requests, self.attempts, self.choices, self.ends

    def ended(self, *_: Any) -> None:
        self.ends += 1


_inside: ContextVar[frozenset[str]] = ContextVar("inside", default=frozenset())


@contextlib.contextmanager
def counted(layer: Layer, what: str) -> Iterator[None]:
    """A request within a request, as some bands make a fallback, is the same one."""
    outer = _inside.get()
    if what == "requests" and what in outer:
        yield
        return
    setattr(layer, what, getattr(layer, what) + 1)
    token = _inside.set(outer | {what})
    layer.inside += 1
    try:
        yield
    finally:
        layer.inside -= 1
        _inside.reset(token)


def around(layer: Layer, what: str) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        async def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
            with counted(layer, what):
                return await original(self, *args, **kwargs)

        return counting

    return make


def around_sync(layer: Layer, what: str) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
            with counted(layer, what):
                return original(self, *args, **kwargs)

        return counting

    return make


@pytest.fixture(scope="module")
def fleet():
    with Fleet([Spec("openai", name=name) for name in "abc"]) as servers:
        yield servers


@pytest.fixture
def layer(band, monkeypatch, fleet):
    """A fake layer in every seam that a layer may have; a lane for whole requests would pass it by."""
    for server in fleet.values():
        server.order(error_rate=0.0, script=(), hold=False, tokens=8)
        server.reset()
    walks = Seam.WALK in band.seams
    if walks:
        fast_router.disable()
        fast_router.configure(disabled_features=("lane",))
        assert fast_router.enable()
    counting, patches = Layer(), PatchSet()
    choosing = [False]
    for name in ("pick", "pick_from"):
        original = getattr(RoundRobin, name)

        def choose(self: Any, *args: Any, _original: Any = original) -> Any:
            outer, choosing[0] = choosing[0], True
            try:
                found = _original(self, *args)
            finally:
                choosing[0] = outer
            counting.choices += found is not None and not outer
            return found

        monkeypatch.setattr(RoundRobin, name, choose)
    assert switch.band is not None
    switch.band.around_request(patches, around(counting, "requests"), around_sync(counting, "requests"))
    switch.band.around_attempt(patches, around(counting, "attempts"), around_sync(counting, "attempts"))
    yield counting
    assert patches.restore() == []
    if walks:
        fast_router.disable()
        fast_router.configure(disabled_features=None)
        fast_router.enable()


def over(fleet: Any, layer: Layer, names: str = "ab", **options: Any) -> Router:
    settings = {"routing_strategy": "round_robin", "disable_cooldowns": True, "timeout": 60, **options}
    made = router(*(entry(name, fleet[name].api_base) for name in names), **settings)
    fast_router.advanced_router(made).engine.on_release.append(layer.ended)
    return made


def broken(fleet: Any, names: str) -> None:
    for name in names:
        fleet[name].order(error_rate=1.0)


async def test_success(fleet, layer):
    made = over(fleet, layer)
    for _ in range(4):
        await made.acompletion(model="m", messages=MESSAGES)
    assert layer.seen() == (4, 4, 4, 4)
    assert in_flight(made) == 0


async def test_retry(fleet, layer):
    made = over(fleet, layer, num_retries=2)
    broken(fleet, "a")
    for _ in range(4):
        await made.acompletion(model="m", messages=MESSAGES)
    failed = fleet["a"].records.requests
    assert failed >= 1
    assert layer.seen() == (4, 4 + failed, 4 + failed, 4 + failed)


async def test_fallback(fleet, layer):
    entries = [entry("a", fleet["a"].api_base), entry("b", fleet["b"].api_base, name="n")]
    made = router(*entries, routing_strategy="round_robin", disable_cooldowns=True, fallbacks=[{"m": ["n"]}])
    fast_router.advanced_router(made).engine.on_release.append(layer.ended)
    broken(fleet, "a")
    await made.acompletion(model="m", messages=MESSAGES)
    assert layer.seen() == (1, 2, 2, 2)


async def test_failure(fleet, layer):
    made = over(fleet, layer)
    broken(fleet, "ab")
    with pytest.raises(litellm.InternalServerError):
        await made.acompletion(model="m", messages=MESSAGES)
    assert layer.seen() == (1, 1, 1, 1)


async def test_stream(fleet, layer):
    made = over(fleet, layer)
    stream = await made.acompletion(model="m", messages=MESSAGES, stream=True)
    assert layer.seen() == (1, 1, 1, 0), "a stream is in flight until it has been read"
    assert [chunk async for chunk in stream]
    assert layer.seen() == (1, 1, 1, 1)


async def test_dropped_stream(fleet, layer):
    made = over(fleet, layer)
    stream = await made.acompletion(model="m", messages=MESSAGES, stream=True)
    await anext(stream)
    del stream
    await until(lambda: in_flight(made) == 0)
    assert layer.seen() == (1, 1, 1, 1)


async def test_cancel(fleet, layer):
    made = over(fleet, layer)
    with fleet["a"].held(), fleet["b"].held():
        calls = [asyncio.create_task(made.acompletion(model="m", messages=MESSAGES)) for _ in range(4)]
        await until(lambda: fleet["a"].records.requests + fleet["b"].records.requests == 4)
        assert (layer.requests, layer.attempts, layer.choices, layer.ends) == (4, 4, 4, 0)
        for call in calls:
            call.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(found) for found in ended} == {asyncio.CancelledError}
    await until(lambda: in_flight(made) == 0)
    assert layer.seen() == (4, 4, 4, 4)


def test_sync(fleet, layer):
    made = over(fleet, layer, num_retries=1)
    made.completion(model="m", messages=MESSAGES)
    assert layer.seen() == (1, 1, 1, 1)
    assert list(made.completion(model="m", messages=MESSAGES, stream=True))
    assert layer.seen() == (2, 2, 2, 2)
    broken(fleet, "a")
    made.completion(model="m", messages=MESSAGES)
    made.completion(model="m", messages=MESSAGES)
    failed = fleet["a"].records.requests - 1
    assert layer.seen() == (4, 4 + failed, 4 + failed, 4 + failed)


async def test_a_router_edited_while_it_runs(fleet, layer):
    made = over(fleet, layer)
    with fleet["a"].held(), fleet["b"].held():
        calls = [asyncio.create_task(made.acompletion(model="m", messages=MESSAGES)) for _ in range(4)]
        await until(lambda: fleet["a"].records.requests + fleet["b"].records.requests == 4)
        change(made, entry("c", fleet["c"].api_base), remove="a")
        await made.acompletion(model="m", messages=MESSAGES)
        assert set(deployments(made)) == {"b", "c"}
        assert fleet["c"].records.requests == 1
        assert layer.ends == 1
    await asyncio.gather(*calls)
    assert layer.seen() == (5, 5, 5, 5)
    assert in_flight(made) == 0


def change(made: Router, added: dict[str, Any], *, remove: str) -> None:
    """Add a deployment and take one out, by whatever this LiteLLM has for that."""
    deployment = litellm.router.Deployment(**added)
    apply = getattr(vars(made).get("_core"), "apply", None)
    if inspect.ismethod(apply):
        apply(litellm.router_api.ChangeSet(upsert=[deployment], delete=[remove]))
    else:
        made.upsert_deployment(deployment)
        made.delete_deployment(remove)
