"""The virtual-time world of prefix caches, against figures worked out by hand."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from fast_router import cache_world
from fast_router.cache_world import Change, Request, Server, ServerShape, Workload, run, shape
from fast_router.errors import ConfigurationError

SHAPE = ServerShape("s", rate=1000, fixed=0.1, decode=0.01)


def test_server_computes_one_prompt_after_the_other_less_what_is_cached() -> None:
    """Two prompts of 100 tokens share half; the second waits for the first and computes its half."""
    server = Server(SHAPE, block_tokens=50, cache_blocks=10)
    assert server.take(Request(0, (1, 2), 100, 5), 0.0) == (pytest.approx(0.2), 0)
    assert server.expected(Request(0, (1, 3), 100, 5), 0.0) == pytest.approx(0.2 + 0.1 + 0.05)
    assert server.take(Request(0, (1, 3), 100, 5), 0.0) == (pytest.approx(0.35), 50)
    server.restart()
    assert server.cached(Request(0, (1, 3), 100, 5)) == 0


def test_cache_loses_ends_of_prompts_first_and_the_longest_unused() -> None:
    """Of a prompt that does not fit wholly its beginning stays."""
    server = Server(SHAPE, block_tokens=1, cache_blocks=4)
    old = Request(0, (1, 2, 3), 3, 1)
    server.take(old, 0.0)
    server.take(Request(0, (4, 5), 2, 1), 0.0)
    assert server.cached(old) == 2
    server.take(Request(0, (6, 7), 2, 1), 0.0)
    assert server.cached(old) == 0
    assert server.cached(Request(0, (4, 5), 2, 1)) == 2


def test_oracle_goes_where_the_first_token_comes_first() -> None:
    """A cached prompt goes back to its server, unless the queue there costs more than to compute it elsewhere."""
    same = [Request(0.3 * n, tuple(range(100)), 1600, 1) for n in range(8)]
    outcome = run(Workload("same", same), shape(2), "oracle")
    assert sorted(outcome.picks.values()) == [0, 8]
    apart = [Request(0.001 * n, tuple(range(1000 * n, 1000 * n + 100)), 1600, 1) for n in range(8)]
    assert sorted(run(Workload("apart", apart), shape(2), "oracle").picks.values()) == [4, 4]


@pytest.mark.parametrize("name", cache_world.WORKLOADS)
def test_texts_of_a_workload_share_exactly_what_their_blocks_share(name: str) -> None:
    """A router sees text; equal beginnings are equal text, of the length that the tokens say."""
    workload = cache_world.WORKLOADS[name](seconds=30.0)
    some = workload.requests[:60]
    assert [r.at for r in some] == sorted(r.at for r in some)
    for one, other in pairwise(some):
        first, second = workload.text(one), workload.text(other)
        assert len(first) == one.tokens * 4
        shared = 0
        while shared < min(len(one.blocks), len(other.blocks)) and one.blocks[shared] == other.blocks[shared]:
            shared += 1
        assert first[: shared * 64] == second[: shared * 64]
        assert first[: shared * 64 + 64] != second[: shared * 64 + 64]


def test_same_seed_same_outcome_and_the_oracle_is_ahead() -> None:
    """Each contender meets the same arrivals; nobody without its knowledge beats the oracle's mean."""
    load = cache_world.tenants(seconds=40.0)
    outcomes = [run(load, shape(4), name, seed=3) for name in ("least_busy", "least_busy", "oracle")]
    assert outcomes[0].waits == outcomes[1].waits
    assert [at for at, _ in outcomes[0].waits] == [at for at, _ in outcomes[2].waits]
    assert outcomes[2].percentile(0.9) <= outcomes[0].percentile(0.9)
    assert outcomes[2].hit_share >= outcomes[0].hit_share


def test_servers_restart_and_join() -> None:
    """A server that lost its cache computes again; one that joined gets requests."""
    requests = [Request(float(n), (1, 2, 3, 4), 64, 1) for n in range(10)]
    whole = run(Workload("w", requests), shape(1), "oracle")
    assert whole.cached_tokens == 9 * 64
    again = run(Workload("w", requests), shape(1), "least_busy", changes=[Change(4.5, restart=0)])
    assert again.cached_tokens == 8 * 64
    joined = run(Workload("w", requests), shape(1), "least_busy", changes=[Change(4.5, add=ServerShape("new"))])
    assert joined.picks["new"] >= 1
    assert sum(joined.picks.values()) == 10


def test_trace_is_read_in_the_published_format(tmp_path: Path) -> None:
    """Milliseconds become seconds, in order of arrival; a malformed line is named."""
    path = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": 3000, "input_length": 700, "output_length": 5, "hash_ids": [0, 2]},
        {"timestamp": 1500, "input_length": 512, "output_length": 7, "hash_ids": [0]},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    workload = cache_world.read_trace(path)
    assert workload.requests == [Request(1.5, (0,), 512, 7), Request(3.0, (0, 2), 700, 5)]
    assert workload.at_speed(2).requests[1].at == 1.5
    assert len(workload.text(workload.requests[1])) == 2800
    for wrong in ("nonsense", "{}", '{"timestamp": -1, "input_length": 1, "output_length": 1, "hash_ids": []}'):
        path.write_text(json.dumps(rows[0]) + "\n" + wrong)
        with pytest.raises(ConfigurationError, match="line 2"):
            cache_world.read_trace(path)
    path.write_text("\n")
    with pytest.raises(ConfigurationError, match="no requests"):
        cache_world.read_trace(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        cache_world.read_trace(tmp_path / "absent")
