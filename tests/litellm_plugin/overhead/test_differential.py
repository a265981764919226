"""With the features and without them: nothing that anybody can see differs."""

from __future__ import annotations

import pytest

import tests.litellm_plugin.overhead.scenarios_requests  # noqa: F401 - it adds to SCENARIOS
from tests.litellm_plugin.overhead.differential import FITTING, features, observe
from tests.litellm_plugin.overhead.scenarios import SCENARIOS

# Where each single feature could show, for the runs with one feature at a time.
TELLING = (
    *("plain", "limits", "retries", "custom_prices", "resting", "pre_call_checks", "wildcards"),
    *("fallbacks", "flags_for_testing", "reserved_tokens", "odd_metadata", "slots", "answers_of_other_kinds"),
)


def differences(before: dict, after: dict) -> list[str]:
    """The parts that differ, shortest first, for a message that can be read."""
    found = []

    def walk(path, one, two):
        if type(one) is not type(two) or not isinstance(one, (dict, list)):
            if one != two:
                found.append(f"{path}: {one!r} -> {two!r}"[:600])
        elif isinstance(one, dict):
            for key in sorted({*one, *two}):
                walk(f"{path}.{key}", one.get(key, "<absent>"), two.get(key, "<absent>"))
        elif len(one) != len(two):
            found.append(f"{path}: {len(one)} -> {len(two)} items: {one!r} -> {two!r}"[:900])
        else:
            for place, (first, second) in enumerate(zip(one, two, strict=True)):
                walk(f"{path}[{place}]", first, second)

    walk("", before, after)
    return found


@pytest.fixture(scope="module")
def seen_alone():
    """What each scenario shows with LiteLLM alone: observed once, not once for each feature."""
    return {}


@pytest.fixture
def alone(seen_alone, upstreams, cost):
    async def found(name):
        if name not in seen_alone:
            seen_alone[name] = await observe(SCENARIOS[name], upstreams, cost)
        return seen_alone[name]

    return found


@pytest.mark.parametrize("name", SCENARIOS)
async def test_nothing_differs(name, alone, upstreams, cost, monkeypatch):
    before = await alone(name)
    with features(monkeypatch, None):
        after = await observe(SCENARIOS[name], upstreams, cost)
    assert before["seen"], "the scenario saw nothing"
    assert differences(before, after) == []


@pytest.mark.slow
@pytest.mark.parametrize("feature", FITTING)
async def test_nothing_differs_with_one_feature(feature, alone, upstreams, cost, monkeypatch):
    for name in TELLING:
        before = await alone(name)
        with features(monkeypatch, {feature}):
            after = await observe(SCENARIOS[name], upstreams, cost)
        assert differences(before, after) == [], name


@pytest.mark.parametrize("name", ["plain", "limits", "retries", "streaming"])
async def test_two_runs_of_litellm_alone_do_not_differ(name, alone, upstreams, cost):
    """The control: what is compared does not vary by itself, however far apart the runs are."""
    before = await alone(name)
    assert differences(before, await observe(SCENARIOS[name], upstreams, cost)) == []
    assert before["events"], "no callback was told anything"
    assert before["seen"], "nothing was noted"
