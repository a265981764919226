"""`load: tokens`: servers weighed by the prompt tokens that they have yet to compute."""

from __future__ import annotations

from collections import Counter

import pytest

from fast_router import AdvancedRouter, cache_world
from fast_router.engine import Ask
from fast_router.errors import ConfigurationError
from tests.engine.contract import Bench

STRATEGIES = ("least_busy", "power_of_two", "peak_ewma")


def answered(bench: Bench, seconds: float = 0.1) -> None:
    """One call to each server, so that none is unknown."""
    leases = [bench.engine.acquire_deployment(d, Ask((), 100, stream=True)) for d in bench.members]
    bench.clock.advance(seconds)
    for lease in leases:
        lease.first_token()
        lease.release(completion_tokens=1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_server_with_one_long_prompt_is_busier_than_one_with_three_short_ones(strategy: str) -> None:
    bench = Bench(strategy, 2, load="tokens")
    answered(bench)
    long = bench.engine.acquire_deployment(bench.members[0], Ask((), 20_000, stream=True))
    for _ in range(3):
        bench.engine.acquire_deployment(bench.members[1], Ask((), 100, stream=True))
    counts: Counter[str] = Counter(bench.acquire(Ask((), 100, stream=True)).id for _ in range(40))
    # Drawn twice, power_of_two takes the busy one: a quarter of the picks, 10 ± 2.7.
    assert counts["d0"] <= (20 if strategy == "power_of_two" else 0), counts
    # Its first token has come: what is left is to generate the answer.
    long.first_token()
    assert bench.members[0].work.backlog.tokens == 100 * counts["d0"]
    more: Counter[str] = Counter(bench.acquire(Ask((), 100, stream=True)).id for _ in range(20))
    assert more["d0"] > 10, more


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_tokens_are_estimated_from_the_text_and_otherwise_taken_for_usual(strategy: str) -> None:
    router = AdvancedRouter(strategy, model_list=[{"model_name": "m", "id": f"d{n}"} for n in range(2)], load="tokens")
    lease = router.acquire("m", key="x" * 4000)
    assert lease.deployment.work.backlog.tokens == 1000
    assert len(lease.deployment.work.mirror) == 0
    other = router.acquire("m")
    assert other.deployment.work.backlog.tokens > 0
    lease.release()
    other.release()
    assert all(d.work.backlog.tokens == 0 for d in router.deployments.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_and_holds_stay(strategy: str) -> None:
    bench = Bench(strategy, 3, load="tokens")
    bench.engine.rest(bench.members[1], 100)
    assert {bench.acquire(Ask((), 1000, stream=True)).id for _ in range(30)} == {"d0", "d2"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_other_words_are_refused(strategy: str) -> None:
    with pytest.raises(ConfigurationError, match="load is 'bytes': give tokens"):
        Bench(strategy, 2, load="bytes")
    assert Bench(strategy, 2, load="calls").members[0].work is None


def test_cache_aware_takes_over_what_is_known() -> None:
    """Servers in two groups: one that weighs tokens, one that reads prompts."""
    bench = Bench("least_busy", 2, load="tokens")
    work = bench.members[0].work
    group = bench.engine.compile_group("other", bench.members, "cache_aware")
    assert bench.members[0].work is work
    assert work.fleet.reads
    lease = bench.engine.acquire(group, Ask((), 1000, stream=True, key="y" * 4000))
    assert len(lease.deployment.work.mirror) > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_long_and_short_prompts_wait_less(strategy: str) -> None:
    """Lengths log-normal, nothing shared: the median and the p99 of the first token."""
    load, shapes = cache_world.mixed(seconds=120.0), cache_world.shape(8)
    calls = cache_world.run(load, shapes, strategy)
    tokens = cache_world.run(load, shapes, strategy, options={"load": "tokens"})
    assert tokens.percentile(0.5) < 0.9 * calls.percentile(0.5)
    assert tokens.percentile(0.99) < 0.9 * calls.percentile(0.99)
