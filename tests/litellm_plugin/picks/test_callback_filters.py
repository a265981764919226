"""Which callbacks make a pick go through LiteLLM's pipeline."""

from __future__ import annotations

import functools
import types

import pytest
from litellm.integrations.custom_logger import CustomLogger

from fast_router.litellm_plugin.picks.callback_filters import CallbackVerdict


class Silent(CustomLogger):
    """Has nothing to say about deployments."""


class Filters(CustomLogger):
    async def async_filter_deployments(
        self, model, healthy_deployments, messages, request_kwargs=None, parent_otel_span=None
    ):
        return healthy_deployments[:1]


class PassesOn(CustomLogger):
    async def async_filter_deployments(
        self, model, healthy_deployments, messages, request_kwargs=None, parent_otel_span=None
    ):
        return healthy_deployments


def decorated(method, module):
    """`method` behind a decorator that was defined in `module`."""

    @functools.wraps(method)
    async def around(*args, **kwargs):
        return await method(*args, **kwargs)

    moved = types.FunctionType(around.__code__, {"__name__": module}, around.__name__, None, around.__closure__)
    return functools.wraps(method)(moved)


class PassesOnDecorated(CustomLogger):
    async_filter_deployments = decorated(PassesOn.async_filter_deployments, "litellm._internal_context")


class FiltersDecorated(CustomLogger):
    async_filter_deployments = decorated(Filters.async_filter_deployments, "litellm._internal_context")


class DecoratedByAStranger(CustomLogger):
    async_filter_deployments = decorated(PassesOn.async_filter_deployments, "somebody.else")


def verdict(*callbacks):
    found = CallbackVerdict()
    found.update(list(callbacks))
    return found


@pytest.mark.parametrize("callback", ["prometheus", print, Silent(), PassesOn(), PassesOnDecorated()])
def test_who_does_not_filter_keeps_nobody_from_the_fast_lane(callback):
    assert verdict(callback).why is None


@pytest.mark.parametrize("callback", [Filters(), FiltersDecorated(), DecoratedByAStranger()])
def test_who_filters_is_asked(callback):
    assert verdict(Silent(), callback).why == "a callback that filters"


def test_a_filter_put_on_the_instance_counts():
    callback = Silent()
    callback.async_filter_deployments = Filters().async_filter_deployments
    assert verdict(callback).why == "a callback that filters"


def test_the_list_is_kept_as_it_was_so_that_a_change_shows():
    callbacks = [Silent()]
    found = CallbackVerdict()
    found.update(callbacks)
    callbacks.append(Filters())
    assert found.seen != callbacks
    found.update(callbacks)
    assert found.why is not None
    callbacks.clear()
    found.update(callbacks)
    assert found.why is None
