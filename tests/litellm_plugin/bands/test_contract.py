"""What every band answers, whichever LiteLLM is installed."""

from __future__ import annotations

from typing import Any

import pytest

import fast_router
from fast_router.litellm_plugin.picks import binding as bindings
from fast_router.litellm_plugin.switch import switch
from tests.support.plugin import MESSAGES, discard, entry, router


@pytest.fixture(autouse=True)
def plugin():
    assert fast_router.enable()
    yield
    discard()


@pytest.fixture
def band() -> Any:
    assert switch.band is not None
    return switch.band


def test_every_question_about_a_band_has_an_answer(band):
    assert isinstance(band.narrowing_keys, tuple)
    assert isinstance(band.order_is_strict(), bool)
    assert isinstance(band.stock_names(), tuple)
    assert isinstance(band.pipeline(), str)
    assert isinstance(band.fast_lane, bool)


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
