"""`fast-router simulate --trace` and `--workload`: hit shares and first tokens beside an oracle."""

from __future__ import annotations

import json
import random

import pytest
from click.testing import CliRunner

from fast_router.cli.group import main


def call(*words):
    return CliRunner().invoke(main, ["simulate", *map(str, words)])


def rows(*words):
    done = call(*words, "--json")
    assert done.exit_code == 0, done.output
    return {row["strategy"]: row for row in json.loads(done.output)}


@pytest.fixture
def trace(tmp_path):
    """200 requests of 40 beginnings of 8 blocks each, with an end of their own."""
    rng = random.Random(5)
    path = tmp_path / "trace.jsonl"
    with path.open("w") as file:
        for number in range(200):
            first = 100 * rng.randrange(40)
            row = {
                "timestamp": 1000 * number,
                "input_length": 512 * 9 - 100,
                "output_length": 20,
                "hash_ids": [*range(first, first + 8), 10_000 + number],
            }
            file.write(json.dumps(row) + "\n")
    return path


def test_a_trace_is_replayed_for_each_strategy_and_the_oracle(trace):
    found = rows("--trace", trace, "--servers", 4, "--strategies", "LiteLLM least-busy,simple_shuffle,cache_aware")
    assert list(found) == ["LiteLLM least-busy", "simple_shuffle", "cache_aware", "oracle"]
    assert {row["requests"] for row in found.values()} == {200}
    assert all(sum(row["picks"].values()) == 200 for row in found.values())
    # Closed form for the oracle when nothing queues: at best every block but 40 × 8 beginnings and the ends are hits.
    best = (200 * 8 - 40 * 8) * 512 / (200 * (512 * 9 - 100))
    assert found["oracle"]["hit_share"] == pytest.approx(best, rel=0.05)
    assert found["cache_aware"]["hit_share"] > found["simple_shuffle"]["hit_share"]
    for row in found.values():
        assert row["first_token"]["p90"] >= found["oracle"]["first_token"]["p90"] * 0.95


def test_a_cache_without_room_hits_nothing(trace):
    found = rows("--trace", trace, "--cache-blocks", 0, "--strategies", "least_busy")
    assert {row["hit_share"] for row in found.values()} == {0}


def test_the_speed_is_that_of_the_arrivals(trace):
    slow, fast = (
        rows("--trace", trace, "--servers", 2, "--speed", speed, "--strategies", "least_busy")["least_busy"]
        for speed in (1, 30)
    )
    assert fast["first_token"]["p50"] > 2 * slow["first_token"]["p50"]


def test_a_fleet_of_ones_own(trace, tmp_path):
    config = tmp_path / "config.yml"
    config.write_text(
        "model_list:\n"
        "  - {model_name: m, model_info: {id: strong, simulate: {prefill_rate: 20000}}}\n"
        "  - {model_name: m, model_info: {id: weak, simulate: {prefill_rate: 500, cache_blocks: 10}}}\n"
    )
    picks = rows(config, "--trace", trace, "--strategies", "least_busy")["oracle"]["picks"]
    assert set(picks) == {"strong", "weak"}
    assert picks["strong"] > 3 * picks["weak"]


@pytest.mark.parametrize("workload", ["agents", "tenants", "chat", "mixed"])
def test_a_preset_shows_itself_in_80_columns(workload):
    done = call("--workload", workload, "--seconds", 20, "--servers", 4, "--strategies", "least_busy,cache_aware")
    assert done.exit_code == 0, done.output
    assert f"{workload}: " in done.output
    assert "oracle" in done.output
    assert "server-3" in done.output
    assert max(map(len, done.output.splitlines())) <= 80


def test_no_server_is_parted_from_its_share():
    done = call("--workload", "tenants", "--seconds", 5, "--servers", 8, "--strategies", "least_busy")
    shares = done.output.partition("Shares")[2].splitlines()
    assert len(shares) > 4
    assert not any(line.strip()[:1].isdigit() for line in shares)
    assert "\N{NO-BREAK SPACE}" not in done.output


def test_the_same_twice(trace):
    assert rows("--trace", trace) == rows("--trace", trace)


def test_a_plot_has_each_strategy(trace, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out.svg"
    done = call("--trace", trace, "--strategies", "least_busy,cache_aware", "--plot", out)
    assert done.exit_code == 0, done.output
    text = out.read_text()
    for word in ("least_busy", "cache_aware", "oracle", "prompt tokens found in a cache, %"):
        assert f">{word}<" in text
    assert len(text) < 100_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give LiteLLM's config.yaml, or --workload agents, or --trace FILE"),
        (("--workload", "agents", "--strategies", "fastest"), "unknown strategy 'fastest'"),
        (("--workload", "agents", "--strategies", "LiteLLM fastest"), "no model of 'LiteLLM fastest'"),
        (("--workload", "agents", "--strategies", ","), "--strategies names none"),
        (("--workload", "agents", "--block-tokens", "64"), "--block-tokens is for --trace"),
        (("--workload", "mixed", "--seconds", "1", "--rate", "0.1"), "no request came"),
    ],
)
def test_a_wrong_call_is_one_clear_error(words, said):
    done = call(*words)
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output


def test_a_wrong_line_is_named(trace):
    with trace.open("a") as file:
        file.write('{"timestamp": 1}\n')
    done = call("--trace", trace)
    assert done.exit_code == 2
    assert "line 201" in done.output
    assert "Traceback" not in done.output


def test_two_sources_or_two_fleets_are_refused(trace, tmp_path):
    assert "two sources" in call("--trace", trace, "--workload", "chat").output
    config = tmp_path / "config.yml"
    config.write_text("model_list: [{model_name: m}]")
    assert "leave it out with CONFIG" in call(config, "--trace", trace, "--servers", 2).output
