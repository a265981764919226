"""`fast-router simulate`, and what a simulation must show."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from fast_router.cli.group import main
from fast_router.simulation import Fault, ServerSpec, World, simulate

FLEET = """
model_list:
  - model_name: m
    litellm_params: {model: openai/a}
    model_info: {id: one, simulate: {latency: 0.2}}
  - model_name: m
    litellm_params: {model: openai/b}
    model_info: {id: two, simulate: {latency: 0.2, faults: [{kind: down, start: 5, end: 15}]}}
  - model_name: other
    litellm_params: {model: openai/c}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yml"
    path.write_text(FLEET)
    return path


def call(*words):
    return CliRunner().invoke(main, ["simulate", *map(str, words)])


def test_the_table_and_the_plot(config):
    done = call(config, "--seconds", 20, "--rate", 10)
    assert done.exit_code == 0, done.output
    assert "m: 2 deployments" in done.output
    assert "peak_ewma" in done.output
    assert "▁" in done.output


def test_json_is_the_same_twice(config):
    first, second = (call(config, "--seconds", 20, "--rate", 10, "--json").output for _ in range(2))
    assert first == second
    rows = {row["strategy"]: row for row in json.loads(first)}
    assert rows["least_busy"]["errors"] == 0
    assert rows["least_busy"]["failed_attempts"]["two"] < rows["LiteLLM least-busy"]["failed_attempts"]["two"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model_list: []", "no model_list"),
        ("model_list: [{litellm_params: {}}]", "model_list[0] has no model_name"),
        ("model_list: [{model_name: m, model_info: {simulate: {latncy: 1}}}]", "latncy"),
        ("model_list: [{model_name: m, model_info: {simulate: {faults: [{kind: x}]}}}]", "needs a kind"),
        ("model_list: [{model_name: m, model_info: {simulate: {latency: fast}}}]", "latency is 'fast'"),
        ("model_list:\n  - {", "config.yml: not valid YAML in line 2: "),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path, text, said):
    path = tmp_path / "config.yml"
    path.write_text(text)
    done = call(path)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


def test_an_unknown_strategy_is_named(config):
    done = call(config, "--strategies", "fastest")
    assert done.exit_code == 2
    assert "fastest" in done.output


SERVERS = [ServerSpec(f"s{n}") for n in range(4)]
OURS = ("simple_shuffle", "round_robin", "least_busy", "power_of_two", "peak_ewma")


def test_everybody_gets_the_same_arrivals():
    outcomes = simulate(World(SERVERS, seconds=20), ["LiteLLM simple-shuffle", *OURS])
    assert len({outcome.requests for outcome in outcomes}) == 1


@pytest.mark.parametrize("kind", ["error", "throttle", "down"])
def test_one_failing_server_of_four_costs_no_request(kind):
    servers = [*SERVERS[1:], ServerSpec("bad", faults=[Fault(kind, 5, 20)])]
    for outcome in simulate(World(servers, seconds=40), OURS):
        assert outcome.errors == 0, outcome.name
        assert outcome.amplification < 1.2, outcome.name


@pytest.mark.parametrize("strategy", ["peak_ewma", "power_of_two"])
def test_a_slow_member_costs_less_than_half_of_litellms_best_p99(strategy):
    servers = [*SERVERS[1:], ServerSpec("slow", faults=[Fault("slow")])]
    names = ["LiteLLM simple-shuffle", "LiteLLM least-busy", "LiteLLM latency-based-routing", strategy]
    *litellm, ours = simulate(World(servers, seconds=120), names)
    assert ours.percentile(0.99) <= min(o.percentile(0.99) for o in litellm) / 2


@pytest.mark.parametrize("strategy", OURS)
@pytest.mark.parametrize("kind", ["error", "throttle", "down"])
def test_a_recovered_server_has_its_share_again_within_a_cooldown_and_five_seconds(strategy, kind):
    """Cooldown: 5 s. What it served from then on is the difference of two runs that are the same until there."""
    servers = [*SERVERS[1:], ServerSpec("bad", faults=[Fault(kind, 5, 20)])]
    served = []
    for seconds in (30, 60):
        (outcome,) = simulate(World(servers, seconds=seconds), [strategy])
        served.append({name: outcome.attempts[name] - outcome.wasted[name] for name in outcome.attempts})
    later = {name: served[1][name] - served[0][name] for name in served[1]}
    assert later["bad"] >= 0.75 * sum(later.values()) / 4, later


# Finagle's bound: whatever changes, nobody carries more than twice the optimal load. Loads are counted over the
# whole run; the optimum is an equal share of the seconds in which a server was there.
@pytest.mark.parametrize("strategy", ["round_robin", "least_busy", "power_of_two", "peak_ewma", "simple_shuffle"])
@pytest.mark.parametrize("change", ["deploy", "roll", "shrink", "expand"])
def test_load_stays_within_twice_the_optimum(strategy, change):
    def server(n):
        away = {
            "deploy": (),
            "roll": (Fault("down", 10 + 5 * n, 15 + 5 * n),),
            "shrink": (Fault("down", 20),) if n < 3 else (),
            "expand": (Fault("down", 0, 20),) if n < 3 else (),
        }[change]
        return ServerSpec(f"s{n}", latency=0.3, faults=away)

    seconds = 70.0
    world = World([server(n) for n in range(8)], rate=60, seconds=seconds)
    (outcome,) = simulate(world, [strategy])
    # Three that go at once can take a request's three attempts with them: nobody can know before the first fails.
    assert outcome.errors <= (3 if change in ("shrink", "expand") else 0)
    present = {spec.name: seconds - sum(min(f.end, seconds) - f.start for f in spec.faults) for spec in world.servers}
    per_second = outcome.requests / sum(present.values())
    for name, there in present.items():
        served = outcome.attempts[name] - outcome.wasted[name]
        assert served <= 2 * per_second * there
