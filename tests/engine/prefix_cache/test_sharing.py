"""Several engines before the same servers: what each knows of the others' prompts."""

from __future__ import annotations

import random
from collections import deque

import pytest

from fast_router import AdvancedRouter, cache_world
from fast_router.engine.prefix_cache import sharing
from fast_router.engine.prefix_cache.event import Event, What

CHANCE = random.Random(7)


def text(length: int) -> str:
    return "".join(CHANCE.choices("abcdef ", k=length))


class Two:
    """Two routers over the same servers, on one clock, whose news travel when the test says so."""

    def __init__(self, servers: int = 4, strategy: str = "cache_aware", **options) -> None:
        self.now = 1000.0
        self.routers = [
            AdvancedRouter(
                strategy,
                model_list=[{"model_name": "m", "id": f"d{n}", "endpoint": f"e{n}"} for n in range(servers)],
                clock=lambda: self.now,
                wall=lambda: self.now,
                rng=random.Random(place),
                **options,
            )
            for place in range(2)
        ]
        self.outboxes: list[deque[Event]] = [deque(), deque()]
        for router, outbox in zip(self.routers, self.outboxes, strict=True):
            router.group("m")
            sharing.share(router.engine, outbox, 0.3)

    def acquire(self, place: int, prompt: str, **options):
        return self.routers[place].acquire("m", key=prompt, tokens=len(prompt) / 4, stream=True, **options)

    def exchange(self) -> None:
        for place, outbox in enumerate(self.outboxes):
            other = self.routers[1 - place]
            events = [(other.deployments[event.server], event) for event in outbox]
            outbox.clear()
            sharing.hear(other.engine, str(place), events, self.now)

    def work(self, place: int, server: str):
        return self.routers[place].deployments[server].work


def test_prompt_goes_where_another_process_sent_its_beginning() -> None:
    two = Two(8)
    for _ in range(20):
        prompt = text(4000)
        first = two.acquire(0, prompt)
        two.now += 0.2
        first.first_token()
        first.release()
        two.exchange()
        again = two.acquire(1, prompt + text(2000))
        two.now += 0.2
        again.first_token()
        again.release()
        two.exchange()
        assert again.id == first.id


def test_queue_of_another_process_counts_until_its_first_token() -> None:
    """A prompt of ten seconds on one of two servers: the other process keeps away from it, and comes back."""
    two = Two(2)
    long = two.acquire(0, text(320_000))
    two.exchange()
    assert {two.acquire(1, text(400)).id for _ in range(10)} == {({"d0", "d1"} - {long.id}).pop()}
    two.now += 5.0
    assert two.work(1, long.id).wait(two.now) > 4.0
    long.first_token()
    two.exchange()
    assert two.work(1, long.id).wait(two.now) == 0
    assert two.acquire(1, text(400)).id == long.id


@pytest.mark.parametrize("cancelled", [False, True])
def test_failed_call_of_another_process_leaves_neither_queue_nor_beginning(cancelled: bool) -> None:
    """What failed was not computed; a caller that gave up leaves no queue, but its prompt may be cached."""
    two = Two(2)
    lease = two.acquire(0, text(40_000))
    two.exchange()
    assert len(two.work(1, lease.id).mirror) > 0
    lease.release(None if cancelled else ConnectionError(), cancelled=cancelled)
    two.exchange()
    work = two.work(1, lease.id)
    assert work.wait(two.now) == 0
    assert work.backlog.tokens == 0
    assert (len(work.mirror) > 0) == cancelled


def test_process_that_is_gone_takes_its_queue_with_it() -> None:
    two = Two(2)
    lease = two.acquire(0, text(40_000))
    two.acquire(1, text(400), exclude={d for d in ("d0", "d1") if d != lease.id})
    two.exchange()
    assert two.work(1, lease.id).backlog.tokens == pytest.approx(10_100)
    sharing.gone(two.routers[1].engine, "0", two.now)
    assert two.work(1, lease.id).backlog.tokens == pytest.approx(100)


def test_news_that_are_told_twice_or_out_of_order_count_once() -> None:
    two = Two(2)
    two.acquire(0, text(40_000))
    events = list(two.outboxes[0])
    two.exchange()
    other = two.routers[1]
    server = events[0].server
    spoke = Event(What.SPOKE, server, events[0].number, two.now)
    for _ in range(3):
        sharing.hear(other.engine, "0", [(other.deployments[e.server], e) for e in [spoke, *events, spoke]], two.now)
    work = two.work(1, server)
    assert work.backlog.tokens == 0
    assert work.wait(two.now) == 0
    unknown = [Event(what, server, 77, two.now) for what in (What.SPOKE, What.DONE, What.UNDONE)]
    sharing.hear(other.engine, "0", [(other.deployments[server], event) for event in unknown], two.now)
    assert work.backlog.tokens == 0


def test_lost_ends_are_forgotten() -> None:
    """A thousand calls whose first tokens were never told: what is kept of them is bounded, and over in time."""
    two = Two(1)
    work = two.work(1, "d0")
    deployment = two.routers[1].deployments["d0"]
    for number in range(1000):
        sharing.hear(two.routers[1].engine, "0", [(deployment, Event(What.SENT, "d0", number, two.now, 10.0))], two.now)
        two.now += 0.01
    assert len(work.others) <= 256
    assert len(work.backlog) <= 256
    two.now += 100
    sharing.hear(two.routers[1].engine, "0", [(deployment, Event(What.SENT, "d0", 5000, two.now, 10.0))], two.now)
    assert len(work.others) == 1
    assert len(work.backlog) == 1


def test_what_waited_for_another_process_teaches_no_wrong_speed() -> None:
    """Servers of 4,000 tokens per second and two processes that wait for one another's prompts at each of them."""
    shapes = cache_world.shape(2, rate=4000.0, fixed=0.03)
    kept = []

    def make(servers, clock):
        del servers
        kept.append(cache_world.Proxies("cache_aware", shapes, clock))
        return kept[0]

    load = cache_world.chat(rate=4.0, seconds=300.0)
    cache_world.run(load, shapes, make)
    for member in kept[0].members:
        for deployment in member.router.deployments.values():
            assert deployment.work.rate == pytest.approx(4000, rel=0.25)


def test_two_processes_come_close_to_an_oracle() -> None:
    """Half of the arrivals each, told 100 ms late; and without telling for comparison."""
    load = cache_world.chat(seconds=60.0)
    shapes = cache_world.shape(8)
    best = cache_world.run(load, shapes, "oracle")
    two = cache_world.run(load, shapes, lambda _, clock: cache_world.Proxies("cache_aware", shapes, clock))
    alone = cache_world.run(
        load, shapes, lambda _, clock: cache_world.Proxies("cache_aware", shapes, clock, interval=None)
    )
    assert two.hit_share > 0.9 * best.hit_share > alone.hit_share
    assert two.percentile(0.9) < 1.5 * best.percentile(0.9)
    assert two.percentile(0.5) < alone.percentile(0.5)
