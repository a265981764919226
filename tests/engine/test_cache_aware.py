"""cache_aware: the earliest first token, from what is known of caches, queues and speeds."""

from __future__ import annotations

import random
from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_router import AdvancedRouter, cache_world
from fast_router.engine import Ask, canonical
from fast_router.engine.prefix_cache import sharing
from fast_router.engine.prefix_cache.prompt import Prompt
from tests.engine.contract import Bench

CHANCE = random.Random(4)


def text(length: int) -> str:
    return "".join(CHANCE.choices("abcdef ", k=length))


def turn(bench: Bench, prompt: str, seconds: float = 0.1) -> str:
    """One streamed call from beginning to end; returns who answered."""
    lease = bench.acquire(Ask((), len(prompt) / 4, stream=True, key=prompt))
    bench.clock.advance(seconds)
    lease.first_token()
    lease.release(completion_tokens=1)
    return lease.id


def test_prefix_affinity_is_the_same_strategy_with_its_options() -> None:
    """Old configurations go on, load_factor included."""
    assert canonical("prefix_affinity") == canonical("prefix-affinity") == canonical("prefix") == "cache_aware"
    bench = Bench("prefix_affinity", 4, load_factor=1.25)
    prompt = text(40_000)
    for total in range(1, 41):
        bench.acquire(Ask(key=prompt))
        assert max(d.in_flight for d in bench.members) <= -(-1.25 * total // 4)


def test_longer_prompt_follows_its_beginning() -> None:
    bench = Bench("cache_aware", 8)
    for _ in range(20):
        prompt = text(3000)
        first = turn(bench, prompt)
        for _ in range(3):
            prompt += text(1500)
            assert turn(bench, prompt) == first


def test_sessions_that_share_a_long_beginning_do_not_all_go_to_one_server() -> None:
    """Past 16,384 characters they differ; what is queued at the holder decides when a second one computes it, too."""
    bench = Bench("cache_aware", 4)
    system = text(24_000)
    for _ in range(3):
        turn(bench, system + text(500), seconds=0.8)
    busy = [bench.acquire(Ask((), 6000, stream=True, key=system + text(1000))) for _ in range(200)]
    assert len({lease.id for lease in busy}) == 4


def test_long_prefills_weigh_more_than_short_ones() -> None:
    """Three short ones are less than one long one."""
    bench = Bench("cache_aware", 2)
    first = bench.acquire(Ask((), 20_000, stream=True, key=text(80_000)))
    others = {bench.acquire(Ask((), 100, stream=True, key=text(400))).id for _ in range(3)}
    assert first.id not in others


def test_equal_servers_and_equal_prompts_share_evenly() -> None:
    """Unrelated prompts of one length: each of four servers gets a fourth."""
    bench = Bench("cache_aware", 4)
    counts = Counter(turn(bench, text(300)) for _ in range(2000))
    # Binomial(2000, 1/4): standard deviation 19.4.
    assert all(abs(count - 500) < 100 for count in counts.values()), counts


def test_weights_hold() -> None:
    """A server of a third of the weight gets less; one of none gets nothing while there is another."""
    bench = Bench("cache_aware", [{"weight": 3}, {"weight": 1}])
    for _ in range(40):
        bench.acquire(Ask((), 1000, stream=True, key=text(4000)))
    assert bench.members[0].in_flight == pytest.approx(30, abs=2)


@given(st.lists(st.sampled_from([50.0, 1500.0, 8000.0, 200_000.0]), min_size=3, max_size=3), st.floats(20, 200_000))
def test_what_others_will_want_is_never_worth_more_than_it_costs(rates: list[float], siblings: float) -> None:
    """Servers as unlike as can be, one of which holds a popular beginning: one is picked, and a faster one is free."""
    bench = Bench("cache_aware", 3)
    system = text(24_000)
    holder = turn(bench, system + text(500))
    for _ in range(3):
        turn(bench, system + text(500))
    for deployment, rate in zip(bench.members, rates, strict=True):
        assert deployment.work is not None
        deployment.work.speed.rate = rate
        deployment.work.fleet.rate = siblings
        deployment.work.backlog.free_at = 0.0
    prompt = system + text(500)
    picked = bench.acquire(Ask((), 6000, stream=True, key=prompt)).deployment.work
    known = next(d.work for d in bench.members if d.id == holder)
    assert picked is not None
    assert known is not None
    # Nothing is queued: whoever has to compute it all is not picked where that takes far longer than at its holder.
    there = 6000 / picked.rate
    here = (6000 if picked is known else 125) / known.rate
    assert picked is known or there <= 1.7 * here + 0.1


def test_mirror_survives_a_recompiled_group_and_forgets_who_leaves() -> None:
    prompt = text(6000)
    router = AdvancedRouter("cache_aware", model_list=[{"model_name": "m", "endpoint": f"e{n}"} for n in range(8)])
    lease = router.acquire("m", key=prompt, stream=True)
    lease.first_token()
    lease.release()
    router.add_deployment({"model_name": "m", "endpoint": "new", "id": "new"})
    again = router.acquire("m", key=prompt, stream=True)
    assert again.id == lease.id
    again.release()
    work = again.deployment.work
    router.remove_deployment(lease.id)
    assert all(d.work is not work for d in router.deployments.values())


def test_failed_attempt_teaches_nothing_and_a_long_rest_forgets() -> None:
    """What failed before its first token was not computed; who rests half a minute was restarted."""
    bench = Bench("cache_aware", 2)
    prompt = text(6000)
    lease = bench.acquire(Ask((), 1500, stream=True, key=prompt))
    lease.release(ConnectionError())
    assert len(lease.deployment.work.mirror) == 0
    bench.clock.advance(60)
    home = turn(bench, prompt)
    work = next(d for d in bench.members if d.id == home).work
    bench.engine.rest(work.deployment, 5)
    bench.clock.advance(5)
    bench.engine.settle()
    assert len(work.mirror) > 0
    bench.engine.rest(work.deployment, 40)
    bench.clock.advance(40)
    bench.engine.settle()
    assert len(work.mirror) == 0


def test_peek_teaches_nothing() -> None:
    bench = Bench("cache_aware", 3)
    bench.engine.peek(bench.group, Ask(key=text(6000)))
    assert all(len(d.work.mirror) == 0 for d in bench.members)


def test_server_that_fails_at_once_does_not_look_free() -> None:
    """Ten failures in a row: others get the traffic, without any breaker."""
    bench = Bench("cache_aware", 3)
    counts: Counter[str] = Counter()
    for _ in range(300):
        lease = bench.acquire(Ask((), 500, stream=True, key=text(2000)))
        counts[lease.id] += 1
        if lease.id == "d1":
            lease.release(ConnectionError())
        else:
            bench.clock.advance(0.08)
            lease.first_token()
            lease.release()
    assert counts["d1"] < 30


def test_large_fleet_asks_a_few_and_finds_the_holder() -> None:
    """Of 200 servers the one that served a session serves it again, while it is free."""
    bench = Bench("cache_aware", 200)
    sessions = [text(3000) for _ in range(100)]
    homes = [turn(bench, session) for session in sessions]
    assert len(set(homes)) > 60
    again = [turn(bench, session + text(500)) for session in sessions]
    assert sum(a == b for a, b in zip(homes, again, strict=True)) >= 98


@given(st.lists(st.sampled_from(["pick", "speak", "end", "fail", "rest", "advance"]), max_size=60), st.integers(1, 40))
def test_held_server_is_never_picked_and_queues_end_empty(steps: list[str], size: int) -> None:
    """Whatever happens in whatever order."""
    bench = Bench("cache_aware", size)
    chance = random.Random(9)
    prompts = [text(length) for length in (0, 100, 3000, 9000)]
    open_: list = []
    for step in steps:
        if step == "pick":
            lease = bench.acquire(Ask((), chance.choice((0, 700)), chance.random() < 0.7, chance.choice(prompts)))
            if lease is None:
                assert all(d.held for d in bench.members)
            else:
                assert not lease.deployment.held
                open_.append(lease)
        elif step == "rest":
            bench.engine.rest(chance.choice(bench.members), 3)
        elif step == "advance":
            bench.clock.advance(chance.random() * 2)
        elif open_:
            lease = chance.choice(open_)
            if step == "speak":
                lease.first_token()
            else:
                open_.remove(lease)
                lease.release(ValueError() if step == "fail" else None, prompt_tokens=9, cached_tokens=4)
    for lease in open_:
        lease.release(cancelled=True)
    for deployment in bench.members:
        assert deployment.work.backlog.tokens == 0
        assert len(deployment.work.backlog) == 0
        assert deployment.work.talking == 0
        assert not deployment.work._calls


@pytest.mark.parametrize("reports", [False, True])
def test_sizes_and_speeds_are_learned(reports: bool) -> None:
    """Nothing was told: servers of 5,000 tokens a second with caches of 100,000 tokens, one of them half as fast."""
    shapes = [cache_world.ServerShape(f"s{n}", rate=2500 if n == 0 else 5000, fixed=0.04) for n in range(4)]
    kept = []

    def ours(servers, clock):
        kept.append(cache_world.Router("cache_aware", shapes, clock))
        return kept[0]

    outcome = cache_world.run(cache_world.chat(rate=10, seconds=300), shapes, ours, reports=reports)
    works = [d.work for d in kept[0].router.deployments.values()]
    assert works[0].rate == pytest.approx(2500, rel=0.25)
    assert all(work.rate == pytest.approx(5000, rel=0.25) for work in works[1:])
    assert works[0].fleet.budget / 4 / 96_000 == pytest.approx(1, abs=0.35)
    assert min(outcome.picks.values()) > 0


def test_cached_tokens_that_answers_report_correct_the_mirror() -> None:
    """A server that restarted unseen says so by the second answer."""
    bench = Bench("cache_aware", 1)
    prompt = text(20_000)

    def reported(cached: float) -> None:
        lease = bench.acquire(Ask((), 5000, stream=True, key=prompt))
        bench.clock.advance(0.3)
        lease.first_token()
        lease.release(prompt_tokens=5000, cached_tokens=cached)

    reported(0)
    reported(4990)
    work = bench.members[0].work
    assert work.fleet.reports
    assert len(work.mirror) > 0
    reported(0)
    reported(0)
    assert len(work.mirror) == 0


@pytest.mark.slow
def test_memory_does_not_grow_with_a_million_prompts() -> None:
    """20 servers that share what they know with other processes; their works alone, which is all that is kept."""
    bench = Bench("cache_aware", 20)
    sharing.share(bench.engine, deque(maxlen=1000), 0.3)
    works = [d.work for d in bench.members]
    sizes = []
    for number in range(1_000_000):
        work, now = works[number % 20], number / 1000
        work.begins(number, Ask((), 200, True, None, None, None, Prompt(f"{number:<1024}")), now)
        work.spoke(number, now)
        work.ended(number, now, False, True)
        if number in (500_000, 999_999):
            sizes.append(sum(len(w.mirror) for w in works))
    assert sizes[1] <= 1.1 * sizes[0]
    # At most twice as many uses as are remembered, a quarter of the blocks each.
    assert all(len(w.mirror._uses) == len(w.mirror._live) <= len(w.mirror) for w in works)
    assert all(not w._calls and not len(w.backlog) and len(w.others._waiting) < 1000 for w in works)
    holders = bench.group.only._holders
    assert len(holders._young) + len(holders._old) <= 2 * (1 << 18) + 1000
