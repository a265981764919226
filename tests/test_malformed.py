"""Malformed `fast_router:` sections and model lists: our own error or none, and no secret in it.

Albert's files: `albert/test_roundtrip.py`. `FAST_ROUTER_TEST_MALFORMED=20000` tries that many of each.
"""

from __future__ import annotations

import traceback

import yaml
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fast_router import AdvancedRouter, get_available_deployment, settings
from fast_router.errors import FastRouterError
from tests.support.examples import examples

SECRET = "sk-never-to-be-shown-4711"
OPTIONS = [row.name for row in settings.rows()]
SECTION = f"""
fast_router:
  strategy: least_busy
  max_wait: 2.5
  rescue: threads
  redis_url: redis://user:{SECRET}@127.0.0.1:1/0
  celery_broker_url: amqp://user:{SECRET}@127.0.0.1:1//
  disabled_features: [hedging, waiting]
  router_settings: {{num_retries: 2, redis_password: {SECRET}}}
  rollout: 100
  log_level: WARNING
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_key: {SECRET}}}
"""

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just(SECRET)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
words = st.sampled_from(
    ["model_name", "name", "litellm_params", "model_info", "id", "model", "api_base", "api_key", "weight", "rpm", "tpm",
     "order", "capacity", "metadata", "priority", "fast_router", "qos_metric", "qos_limit", "max_parallel_requests",
     "input_cost_per_token", "tags", "breaker_growth", "retries", "cooldown_time"]
)  # fmt: skip
entries = st.recursive(
    st.dictionaries(words, anything, max_size=6),
    lambda inner: st.dictionaries(words, inner | anything, max_size=5),
    max_leaves=6,
)
lists = st.lists(st.dictionaries(words, anything | entries, max_size=7) | anything, max_size=4)
many = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}


def outcome(work) -> str:
    """What a user sees of it: nothing, or our error with all that is in its chain."""
    try:
        work()
    except FastRouterError as error:
        return "".join(traceback.format_exception(error))
    return ""


@st.composite
def broken(draw: st.DrawFn) -> str:
    """A good file with a few faults in its text."""
    text = SECTION
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        match draw(st.integers(0, 3)):
            case 0:
                text = text[:at] + text[at + draw(st.integers(1, 12)) :]
            case 1:
                text = text[:at] + draw(st.text(alphabet="{}[]:&*!|>%@`'\"#-?, \t\n\x00ab01~", max_size=6)) + text[at:]
            case 2:
                line = draw(st.sampled_from([line for line in text.split("\n") if line.startswith("  ")] or [""]))
                text = text.replace(line, line.partition(":")[0] + ": " + draw(st.sampled_from(
                    ["[1", "{a: b}", ".nan", "-1", "''", "1e999", SECRET, "null", "2001-01-01", "!!python/name:os.x"]
                )), 1)  # fmt: skip
            case _:
                word = draw(st.sampled_from(OPTIONS))
                text = text.replace("fast_router:\n", f"fast_router:\n  {word}: {draw(scalars)!r}\n", 1)
    return text


@given(text=broken())
@hypothesis_settings(max_examples=examples(150), **many)
def test_a_section_whose_text_is_broken(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    assert SECRET not in outcome(lambda: settings.load({"config": str(path)}, {}))
    settings.has_section(str(path))


@given(section=st.dictionaries(st.sampled_from(OPTIONS) | st.text(max_size=8), anything, max_size=4) | anything)
@hypothesis_settings(max_examples=examples(150), **many)
def test_a_section_of_any_values(section, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"fast_router": section, "model_list": []}), encoding="utf-8")
    assert SECRET not in outcome(lambda: settings.load({"config": str(path)}, {}))


names = st.sampled_from(["peak_ewma", "cache_aware", "session_affinity", "latency_based", "least-busy", SECRET])
knobs = st.sampled_from(["decay", "load", "load_factor", "cache_tokens", "lowest_latency_buffer", SECRET])


@example(experiment={"strategy": ["peak_ewma"], "share": 20})
@example(experiment={"strategy": "peak_ewma", "share": 20, "options": {"decay": SECRET}})
@given(
    experiment=st.fixed_dictionaries(
        {"strategy": names | anything, "share": st.integers(0, 100) | anything},
        optional={"options": st.dictionaries(knobs, anything, max_size=2) | anything},
    )
)
@hypothesis_settings(max_examples=examples(150), **many)
def test_an_experiment_of_any_values(experiment):
    assert SECRET not in outcome(lambda: settings.load(arguments={"experiment": experiment}, environ={}))
    assert SECRET not in outcome(lambda: AdvancedRouter("least_busy", experiment=experiment))


@given(model_list=lists, strategy=st.sampled_from(["simple_shuffle", "least_busy", "usage_based", "cost_based"]))
@hypothesis_settings(max_examples=examples(150), **many)
def test_a_list_that_a_router_keeps(model_list, strategy):
    def work():
        router = AdvancedRouter(strategy, model_list=model_list)
        for name in list(router.groups)[:2]:
            router.get_available_deployment(model=name)

    assert SECRET not in outcome(work)


@example(model_list=[{"name": [], "model_name": SECRET}], model="m")
@given(model_list=lists | anything, model=st.sampled_from(["m", "azure"]) | st.text(max_size=5))
@hypothesis_settings(max_examples=examples(150), **many)
def test_a_list_of_the_callers(model_list, model):
    assert SECRET not in outcome(lambda: get_available_deployment(model_list, model))


@given(options=st.dictionaries(words, anything, max_size=4) | anything)
@hypothesis_settings(max_examples=examples(100), **many)
def test_options_of_a_deployment(options):
    entry = {"model_name": "m", "litellm_params": {"model": "openai/m"}, "model_info": {"fast_router": options}}
    assert SECRET not in outcome(lambda: AdvancedRouter(model_list=[entry]))


def test_the_good_file_is_read(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(SECTION)
    assert settings.load({"config": str(path)}, {})[0].max_wait == 2.5
