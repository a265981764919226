"""`fast-router simulate`, and what a simulation must show."""

from __future__ import annotations

import json
import re
import sys

import pytest
from click.testing import CliRunner

from fast_router.cli.group import main
from fast_router.cli.simulate import show
from fast_router.simulation import Fault, Outcome, ServerSpec, World, simulate
from fast_router.testing import Fleet, Spec
from fast_router.testing.behaviour import Behaviour

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
    assert "\nConclusion: at 10 requests/s " in done.output
    assert "▁" in done.output


def test_servers_are_named_behind_their_shares_within_80_columns(config):
    done = call(config, "--seconds", 20, "--rate", 10)
    assert re.search(r"\n  least_busy: one \d+, two \d+\n", done.output)
    assert max(map(len, done.output.splitlines())) <= 80


def test_a_server_is_named_by_its_address_and_with_the_id_only_where_it_serves_twice(tmp_path):
    addresses = ("http://gpu1.internal:8000/v1", "http://gpu2.internal:8000/v1", "http://gpu2.internal:8000/v1")
    entries = [
        {
            "model_name": "m",
            "litellm_params": {"model": "openai/x", "api_base": address, "api_key": "sk-secret"},
            "model_info": {"simulate": {"latency": 0.2}, **({"id": "spare"} if number == 2 else {"id": None})},
        }
        for number, address in enumerate(addresses)
    ]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_list": entries}))
    done = call(path, "--seconds", 5, "--strategies", "simple_shuffle")
    shares = done.output.partition("Shares")[2].replace("\n    ", " ")
    assert re.search(r"gpu1\.internal:8000 \d+, gpu2\.internal:8000 #2 \d+, gpu2\.internal:8000 \(spare\) \d+", shares)
    assert "secret" not in done.output


def test_a_large_fleet_names_the_busiest_and_counts_the_others(tmp_path):
    entries = [
        {"model_name": "m", "litellm_params": {"model": "openai/x"}, "model_info": {"simulate": {"latency": 0.2}}}
        for _ in range(30)
    ]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_list": entries}))  # JSON is YAML
    done = call(path, "--seconds", 20, "--rate", 20, "--strategies", "simple_shuffle")
    assert ", 24 others " in done.output.replace("\n    ", " ")
    assert max(map(len, done.output.splitlines())) <= 80


SILENT = """
model_list:
  - model_name: m
    litellm_params: {model: openai/a, api_base: "BASE0", api_key: none}
    model_info: {id: one}
  - model_name: m
    litellm_params: {model: openai/b, api_base: "BASE1", api_key: none}
    model_info: {id: two}
"""


def test_an_unknown_latency_is_asked_for_not_invented(tmp_path):
    path = tmp_path / "config.yml"
    path.write_text(SILENT)
    done = call(path)
    assert done.exit_code == 2
    assert "nothing says how long a request to base0 takes (2 of 2 deployments)" in done.output
    assert "--measure 5" in done.output
    given = call(path, "--latency", 0.4, "--seconds", 20, "--strategies", "least_busy")
    assert "As given: 0.4 s (median) for 2 deployments" in given.output


def test_latencies_are_measured_with_real_requests(tmp_path):
    """The slower of two real servers is the slower one of the simulation, too."""
    path = tmp_path / "config.yml"
    specs = [Spec(name="fast"), Spec(name="slow", behaviour=Behaviour(latency=0.3))]
    with Fleet(specs) as fleet:
        bases = [fleet[name].api_base for name in ("fast", "slow")]
        path.write_text(SILENT.replace("BASE0", bases[0]).replace("BASE1", bases[1]))
        done = call(path, "--measure", 3, "--seconds", 30, "--rate", 5, "--json", "--strategies", "peak_ewma")
        assert done.exit_code == 0, done.output
        assert [fleet[name].records.served for name in ("fast", "slow")] == [2 + 3, 3]
        (row,) = json.loads(done.output)
        quick, slow = (row["attempts"][base.split("/")[2]] for base in bases)
        assert quick > slow
        fleet["slow"].order(error_rate=1)
        failed = call(path, "--measure", 1)
    assert failed.exit_code == 2
    assert "{} cannot be measured (".format(bases[1].split("/")[2]) in failed.output
    assert "Traceback" not in failed.output


def test_registered_strategies_take_part(config, tmp_path, monkeypatch):
    from fast_router.engine import strategies

    monkeypatch.setattr(strategies, "_classes", dict(strategies._classes))
    monkeypatch.setattr(strategies, "_names", dict(strategies._names))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_mine_for_a_test.py").write_text(
        "from fast_router import register_strategy\n"
        "from fast_router.engine.strategies.base import Strategy\n"
        "@register_strategy\n"
        "class Mine(Strategy):\n"
        "    name = 'mine_for_a_test'\n"
        "    def choose(self, candidates, now, ask):\n"
        "        return candidates[-1]\n"
        "    def pick(self, now, ask):\n"
        "        return self.ready[-1] if self.ready else None\n"
    )
    done = call(config, "--seconds", 10, "--import", "of_mine_for_a_test", "--json")
    assert done.exit_code == 0, done.output
    assert "mine_for_a_test" in [row["strategy"] for row in json.loads(done.output)]
    missing = call(config, "--import", "no_such_module_at_all")
    assert missing.exit_code == 2
    assert "no_such_module_at_all" in missing.output


def test_a_plot_is_written(config, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out.svg"
    done = call(config, "--seconds", 10, "--plot", out)
    assert done.exit_code == 0, done.output
    text = out.read_text()
    assert text.startswith("<?xml")
    assert ">peak_ewma<" in text  # words, not outlines
    assert len(text) < 100_000
    call(config, "--seconds", 10, "--plot", tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == text
    for name, said in (("out.docx", "must end in one of"), ("none/out.svg", "there is no folder")):
        refused = call(config, "--plot", tmp_path / name)
        assert refused.exit_code == 2
        assert said in refused.output


def test_without_matplotlib_the_extra_is_named(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    done = call(config, "--plot", tmp_path / "out.svg")
    assert done.exit_code == 2
    assert "needs matplotlib, which is not installed: pip install matplotlib, or pip install '.[plots]'" in done.output


def test_without_rich_the_table_is_plain(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    done = call(config, "--seconds", 10, "--strategies", "least_busy")
    assert done.exit_code == 0, done.output
    assert "strategy    p50 s  p99 s" in done.output


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


def outcome(name, latencies, errors=0):
    return Outcome(name, latencies=latencies, errors=errors)


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ([outcome("a", [1.0]), outcome("b", [1.05])], "no difference to speak of at 40 requests/s; any of these"),
        (
            [outcome("a", [1.0]), outcome("b", [0.5]), outcome("c", [0.52])],
            "at 40 requests/s b does best (p99 0.500 s, 0 errors); within 10 % of it: c.",
        ),
        ([outcome("a", [0.1], errors=1), outcome("b", [9.0])], "b does best (p99 9.00 s, 0 errors)."),
        ([outcome("a", [], errors=3), outcome("b", [], errors=3)], "no request is answered, whatever the strategy."),
    ],
)
def test_the_conclusion_is_fewest_errors_then_the_lowest_p99(outcomes, said):
    assert said in show.conclusion(outcomes, 40.0)
