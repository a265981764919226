"""`model_info.fast_router` as one record: what it takes, and what it says about a wrong value."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fast_router.deployment_options import KEYS, DeploymentOptions, options_of, unknown_keys
from fast_router.errors import ConfigurationError
from fast_router.settings import table


def entry(**said: object) -> dict:
    return {"model_name": "m", "model_info": {"id": "d1", "fast_router": said}}


@pytest.mark.parametrize("info", [None, {}, {"fast_router": None}, {"fast_router": {}}, "not a dict"])
def test_an_entry_that_says_nothing_has_the_empty_record(info):
    assert options_of({"model_info": info}) == DeploymentOptions()
    assert options_of({}) == DeploymentOptions()


def test_what_it_says_is_what_it_meant():
    limits = {"max_parallel": 4, "qos_metric": "ttft", "qos_limit": 0.5, "retries": 3, "retry_countdown": 1}
    breaker = {"breaker_growth": 2, "breaker_server_errors": 0}
    named = {"strategy": "peak_ewma", "options": {"half_life": 2}, "aliases": ["n"], "tokenizer": "/m"}
    said = options_of(entry(**named, capacity="2", **limits, **breaker))
    assert said.strategy == "peak_ewma"
    assert said.options == {"half_life": 2}
    assert said.aliases == ("n",)
    assert (said.capacity, said.max_parallel, said.qos_metric, said.qos_limit) == (2.0, 4.0, "ttft", 0.5)
    assert (said.retries, said.retry_countdown, said.tokenizer) == (3, 1.0, "/m")
    assert said.breaker == {"breaker_growth": 2.0, "breaker_server_errors": 0}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"strategy": 1}, "'strategy' must be a text, not 1"),
        ({"options": [1]}, "'options' must be a mapping, such as {load: tokens}"),
        (
            {"capacity": "two", "strategyy": "peak_ewma", "retries": -1},
            (
                "'capacity' must be a number, not 'two'; 'retries' must be a number, zero or more, not -1; "
                "'strategyy' means nothing; did you mean 'strategy'\\?"
            ),
        ),
        ({"aliases": "other"}, "'aliases' must be a list of names, not 'other'"),
        ({"capacity": "two"}, "'capacity' must be a number, not 'two'"),
        ({"capacity": True}, "'capacity' must be a number, zero or more, not True"),
        ({"qos_limit": -1}, "'qos_limit' must be a number, zero or more, not -1"),
        (
            {"qos_metric": "inflght"},
            "'qos_metric' must be one of inflight, .*; did you mean 'inflight'\\?, not 'inflght'",
        ),
        ({"retries": 1.5}, "'retries' must be a whole number, not 1.5"),
        ({"retry_countdown": float("nan")}, "'retry_countdown' must be a number, zero or more, not nan"),
        ({"breaker_growth": 0.5}, "'breaker_growth' must be a number, 1 or more, not 0.5"),
        ({"breaker_probe_timeout": 0}, "'breaker_probe_timeout' must be a number above 0, not 0"),
        ({"breaker_connection_errors": "x"}, "'breaker_connection_errors' must be a number, not 'x'"),
        ({"kv_topic": 5}, "'kv_topic' must be a text, not 5"),
    ],
)
def test_a_wrong_value_is_one_error_that_names_deployment_and_key(said, told):
    with pytest.raises(ConfigurationError, match=f"^deployment 'd1': model_info.fast_router: {told}$"):
        options_of(entry(**said))


def test_something_else_in_its_place_is_an_error():
    told = r"^here: model_info\.fast_router must be a mapping, such as {strategy: peak_ewma}, not a list$"
    with pytest.raises(ConfigurationError, match=told):
        options_of({"model_info": {"fast_router": ["strategy"]}}, "here")


def test_what_a_wrong_value_holds_is_shown_only_if_it_is_plain():
    with pytest.raises(ConfigurationError) as caught:
        options_of(entry(strategy={"api_key": "sk-secret"}))
    assert "sk-secret" not in str(caught.value)


def test_a_key_without_meaning_says_nothing_and_is_told_with_a_remedy():
    assert options_of(entry(strateggy="peak_ewma")) == DeploymentOptions()
    assert unknown_keys(entry(strateggy="x", capacity=1)) == {"strateggy": "did you mean 'strategy'?"}
    assert unknown_keys(entry(qqq=1))["qqq"].startswith("known are: aliases, breaker_")
    assert unknown_keys({}) == {}


VALUES = st.none() | st.floats() | st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=2)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(sorted(KEYS)), VALUES, max_size=4))
def test_whatever_it_says_is_a_record_or_a_configuration_error(said):
    with suppress(ConfigurationError):
        found = options_of(entry(**said))
        assert found.retries >= 0
        assert all(value >= 0 for value in found.breaker.values())


def test_breaker_settings_are_options_of_the_process_too():
    assert {key for key in KEYS if key.startswith("breaker_")} <= table.options().keys()


def test_options_that_the_entrys_strategy_does_not_have_are_told():
    said = {"strategy": "peak_ewma", "options": {"decai": 1, "load": "tokens"}}
    assert unknown_keys(entry(**said)) == {"options.decai": "did you mean 'decay'?"}
    assert unknown_keys(entry(strategy="simple_shuffle", options={"x": 1})) == {"options.x": "simple_shuffle has none"}
    assert unknown_keys(entry(strategy="no_such", options={"x": 1})) == {}
