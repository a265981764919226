"""The three scripts against a model of what they promise, on a real Redis."""

from __future__ import annotations

import json
import math

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from fast_router.celery_routing.envelope import MEMORY_MS, Keys, lua, parse_reply
from fast_router.celery_routing.settings import Candidate, CelerySettings

pytestmark = pytest.mark.services

TTL = 60_000
WINDOW = 30_000
REPLY = "test:reply"


class Scripts:
    def __init__(self, url: str, prefix: str = "s") -> None:
        self.client = redis.Redis.from_url(url)
        self.keys = Keys(CelerySettings(key_prefix=prefix))
        self._decide, self._settle, self._hold, self._observe = (
            self.client.register_script(lua(name)) for name in ("decide", "settle", "hold", "observe")
        )

    def decide(self, rid, candidates, strategy="score", seed=1, ttl=TTL):
        ((outcome, provider),) = self.decide_all([(rid, candidates, strategy)], seed=seed, ttl=ttl)
        return outcome, provider

    def decide_all(self, requests, seed=1, ttl=TTL):
        words = []
        for rid, candidates, strategy in requests:
            words += [rid, strategy, json.dumps([candidate.wire() for candidate in candidates])]
        results = self._decide(keys=[REPLY], args=[self.keys.prefix, seed, ttl, MEMORY_MS, WINDOW, *words])
        return [(outcome.decode(), provider.decode()) for outcome, provider in results]

    def settle(self, *rows):
        return self._settle(args=[self.keys.prefix, MEMORY_MS, WINDOW, json.dumps(rows)])

    def hold(self, *rows, ttl=TTL):
        return self._hold(args=[self.keys.prefix, ttl, MEMORY_MS, json.dumps(rows)])

    def observe(self, *rows):
        return self._observe(args=[self.keys.prefix, json.dumps(rows)])

    def in_flight(self, provider):
        return self.client.zcard(self.keys.load(provider))

    def replies(self):
        raw = self.client.lrange(REPLY, 0, -1)
        self.client.delete(REPLY)
        return [parse_reply(one) for one in raw]

    def measured(self, provider, count=1, seconds=-1.0, ttft=-1.0, token=-1.0, outcome="ok"):
        for number in range(count):
            rid = f"m{provider}{number}{self.client.incr('counter')}"
            self.hold((rid, provider))
            self.settle((rid, provider, outcome, seconds, ttft, token))


@pytest.fixture
def scripts(redis_url):
    return Scripts(redis_url)


PROVIDERS = ["a", "b", "c"]


def machine(url):
    class Reservations(RuleBasedStateMachine):
        """Requests come, are redelivered, end, are given up, in any order; slots are what the model says."""

        def __init__(self):
            super().__init__()
            self.scripts = Scripts(url)
            self.scripts.client.flushall()
            self.open: dict[str, str] = {}
            self.over: set[str] = set()
            self.number = 0

        def candidates(self, limits):
            return [
                Candidate(name, qos_metric="inflight", qos_limit=limit)
                for name, limit in zip(PROVIDERS, limits, strict=True)
            ]

        @rule(
            limits=st.lists(st.sampled_from([None, 0, 1, 2, 4]), min_size=3, max_size=3),
            strategy=st.sampled_from(["score", "least_busy", "latency_based", "round_robin", "shuffle"]),
            seed=st.integers(0, 2**31 - 1),
        )
        def ask(self, limits, strategy, seed):
            self.number += 1
            rid = f"r{self.number}"
            load = {name: sum(held == name for held in self.open.values()) for name in PROVIDERS}
            room = {name for name, limit in zip(PROVIDERS, limits, strict=True) if limit is None or load[name] < limit}
            outcome, provider = self.scripts.decide(rid, self.candidates(limits), strategy, seed)
            (reply,) = self.scripts.replies()
            assert reply.rid == rid
            if room:
                assert outcome == "granted"
                assert provider in room
                assert reply.provider == provider
                if strategy == "least_busy":
                    assert load[provider] == min(load[name] for name in room)
                self.open[rid] = provider
            else:
                assert (outcome, reply.provider) == ("busy", None)

        @rule(
            limits=st.lists(st.sampled_from([None, 0, 1, 2, 4]), min_size=3, max_size=3),
            strategies=st.lists(st.sampled_from(["score", "least_busy", "round_robin"]), min_size=1, max_size=6),
            data=st.data(),
        )
        def ask_together(self, limits, strategies, data):
            """Requests of one task, copies of earlier ones among them: as if they had come one after the other."""
            candidates = self.candidates(limits)
            asked = []
            for strategy in strategies:
                old = data.draw(st.sampled_from(["", *self.open, *self.over]))
                if not old:
                    self.number += 1
                asked.append((old or f"r{self.number}", candidates, strategy))
            results = self.scripts.decide_all([*asked, asked[0]])
            replies = self.scripts.replies()
            for (rid, _, strategy), (outcome, provider) in zip([*asked, asked[0]], results, strict=True):
                load = {name: sum(held == name for held in self.open.values()) for name in PROVIDERS}
                room = {n for n, limit in zip(PROVIDERS, limits, strict=True) if limit is None or load[n] < limit}
                if rid in self.over:
                    assert (outcome, provider) == ("gone", "")
                    continue
                reply = replies.pop(0)
                assert reply.rid == rid
                assert (reply.provider or "") == provider
                if rid in self.open:
                    assert (outcome, provider) == ("again", self.open[rid])
                elif room:
                    assert outcome == "granted"
                    assert provider in room
                    if strategy == "least_busy":
                        assert load[provider] == min(load[name] for name in room)
                    self.open[rid] = provider
                else:
                    assert outcome == "busy"
            assert replies == []

        @precondition(lambda self: self.open)
        @rule(data=st.data())
        def redelivered(self, data):
            rid = data.draw(st.sampled_from(sorted(self.open)))
            outcome, provider = self.scripts.decide(rid, self.candidates([None] * 3))
            assert (outcome, provider) == ("again", self.open[rid])
            assert [reply.provider for reply in self.scripts.replies()] == [provider]

        @precondition(lambda self: self.over)
        @rule(data=st.data())
        def redelivered_too_late(self, data):
            rid = data.draw(st.sampled_from(sorted(self.over)))
            assert self.scripts.decide(rid, self.candidates([None] * 3)) == ("gone", "")
            assert self.scripts.replies() == []

        @precondition(lambda self: self.open)
        @rule(data=st.data(), outcome=st.sampled_from(["ok", "error", "drop"]), known=st.booleans())
        def ends(self, data, outcome, known):
            rid = data.draw(st.sampled_from(sorted(self.open)))
            provider = self.open.pop(rid)
            self.over.add(rid)
            row = (rid, provider if known else "", outcome, 0.5, 0.1, -1)
            assert self.scripts.settle(row, row) == 1

        @rule()
        def given_up_before_the_worker_saw_it(self):
            self.number += 1
            rid = f"r{self.number}"
            assert self.scripts.settle((rid, "", "drop", -1, -1, -1)) == 0
            self.over.add(rid)

        @precondition(lambda self: self.open)
        @rule()
        def heartbeat(self):
            rows = [*self.open.items(), *((rid, "a") for rid in self.over)]
            assert self.scripts.hold(*rows) == len(self.open)

        @rule()
        def picked_locally(self):
            self.number += 1
            rid = f"r{self.number}"
            assert self.scripts.hold((rid, "b")) == 1
            self.open[rid] = "b"

        @invariant()
        def slots_are_the_open_requests(self):
            for name in PROVIDERS:
                assert self.scripts.in_flight(name) == sum(held == name for held in self.open.values())

    return Reservations


def test_reservations_follow_the_model(redis_url):
    run_state_machine_as_test(
        machine(redis_url),
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_a_limit_is_reached_and_never_passed(scripts):
    only = [Candidate("a", qos_metric="inflight", qos_limit=3)]
    outcomes = [scripts.decide(f"r{number}", only)[0] for number in range(5)]
    assert outcomes == ["granted"] * 3 + ["busy"] * 2
    assert scripts.in_flight("a") == 3


def test_max_parallel_counts_beside_any_metric(scripts):
    only = [Candidate("a", qos_metric="ttft", qos_limit=5, max_parallel=1)]
    assert [scripts.decide(f"r{number}", only)[0] for number in range(2)] == ["granted", "busy"]


def test_a_full_favourite_does_not_hide_the_others(scripts):
    # The first implementation picked one provider and then refused the request because that one was full.
    both = [Candidate("fast", qos_metric="inflight", qos_limit=1), Candidate("slow")]
    scripts.measured("fast", 3, seconds=0.1)
    scripts.measured("slow", 3, seconds=9.0)
    assert scripts.decide("r1", both)[1] == "fast"
    assert scripts.decide("r2", both) == ("granted", "slow")


@pytest.mark.parametrize(
    ("metric", "sample"), [("latency", {"seconds": 4.0}), ("ttft", {"ttft": 4.0}), ("performance", {"token": 4.0})]
)
def test_a_provider_beyond_its_quality_limit_rests(scripts, metric, sample):
    both = [Candidate("a", qos_metric=metric, qos_limit=1.0), Candidate("b")]
    scripts.measured("a", 1, **sample)
    assert {scripts.decide(f"r{number}", both)[1] for number in range(6)} == {"b"}
    within = [Candidate("a", qos_metric=metric, qos_limit=5.0)]
    assert scripts.decide("s", within) == ("granted", "a")


def test_a_rested_provider_is_tried_again(scripts):
    only = [Candidate("a", qos_metric="latency", qos_limit=1.0)]
    scripts.measured("a", 1, seconds=9.0)
    assert scripts.decide("r1", only)[0] == "busy"
    # Six seconds pass: the time of the last sample is all that says so.
    stat = scripts.keys.stat("a")
    scripts.client.hset(stat, "t", int(scripts.client.hget(stat, "t")) - 6000)
    assert scripts.decide("r2", only) == ("granted", "a")
    assert scripts.decide("r3", only)[0] == "busy", "one probe at a time"


def test_nothing_known_is_no_error(scripts):
    # The first implementation raised on an empty series.
    for metric in ("latency", "ttft", "performance", "inflight"):
        assert scripts.decide(metric, [Candidate("new", qos_metric=metric, qos_limit=1)])[0] == "granted"
        scripts.settle((metric, "new", "drop", -1, -1, -1))


def test_score_prefers_quick_idle_and_reliable(scripts):
    three = [Candidate("a"), Candidate("b"), Candidate("c")]
    scripts.measured("a", 4, seconds=1.0)
    scripts.measured("b", 4, seconds=3.0)
    scripts.measured("c", 4, seconds=1.0)
    scripts.measured("c", 12, outcome="error")
    got = [scripts.decide(f"r{number}", three)[1] for number in range(10)]
    assert got.count("a") > got.count("b") > 0
    assert got.count("a") > got.count("c")


def test_a_growing_queue_turns_requests_away(scripts):
    both = [Candidate("a"), Candidate("b")]
    now = scripts.client.time()
    stamp = now[0] * 1000 + now[1] // 1000
    scripts.client.hset(scripts.keys.stat("a"), mapping={"q": 6, "qp": 2, "qt": stamp})
    scripts.client.hset(scripts.keys.stat("b"), mapping={"q": 6, "qp": 6, "qt": stamp})
    assert {scripts.decide(f"r{number}", both)[1] for number in range(4)} == {"b"}


def test_weights_and_turns(scripts):
    both = [Candidate("a", weight=3), Candidate("b", weight=1)]
    got = [scripts.decide(f"r{number}", both)[1] for number in range(40)]
    assert got.count("a") == 30
    equal = [Candidate("x"), Candidate("y")]
    turns = [scripts.decide(f"t{number}", equal, "round_robin")[1] for number in range(6)]
    assert turns in (["x", "y"] * 3, ["y", "x"] * 3)
    together = scripts.decide_all([(f"u{number}", equal, "round_robin") for number in range(6)])
    assert [provider for _, provider in together] == turns
    weighed = scripts.decide_all(
        [(f"v{number}", [Candidate("v", weight=3), Candidate("w")], "score") for number in range(8)]
    )
    assert [provider for _, provider in weighed].count("v") == 6


def test_shuffle_follows_the_weights(scripts):
    both = [Candidate("a", weight=3), Candidate("b", weight=1)]
    got = [scripts.decide(f"r{number}", both, "shuffle", seed=number * 7919)[1] for number in range(800)]
    # 600 expected, deviation sqrt(800 * 0.75 * 0.25) = 12.2; five of them.
    assert math.isclose(got.count("a"), 600, abs_tol=62)


def test_a_reservation_without_heartbeat_lapses(scripts):
    only = [Candidate("a", qos_metric="inflight", qos_limit=1)]
    assert scripts.decide("r1", only, ttl=50)[0] == "granted"
    while scripts.in_flight("a") and scripts.decide("r2", only)[0] == "busy":
        pass
    assert scripts.decide("r3", only)[0] == "busy", "and the slot was taken by the next one"


def test_every_key_has_an_end(scripts):
    scripts.decide("r1", [Candidate("a")])
    scripts.measured("a", 1, seconds=1.0)
    for key in scripts.client.keys("s:*"):
        assert scripts.client.pttl(key) > 0, key


def test_a_foreign_value_under_our_key_reserves_nothing(scripts):
    scripts.client.set(scripts.keys.load("a"), "somebody else's")
    with pytest.raises(redis.ResponseError):
        scripts.decide("r1", [Candidate("a")])
    assert scripts.client.get(scripts.keys.request("r1")) is None


def test_a_queue_that_grows_counts_more_than_one_that_shrinks(scripts):
    growing, shrinking = Candidate("growing"), Candidate("shrinking")
    scripts.observe(("growing", 2), ("shrinking", 30))
    # However many processes look: the growth is not forgotten at the second look.
    for _ in range(4):
        scripts.observe(("growing", 10), ("shrinking", 14))
    # 10 and nearly as many again as it grew by, against 14.
    assert scripts.decide("r1", [growing, shrinking]) == ("granted", "shrinking")


def test_growth_is_over_some_seconds_after_it_ended(scripts):
    scripts.observe(("a", 2))
    scripts.observe(("a", 10))
    # As if the last look had been a minute ago: no test waits for that.
    scripts.client.hincrby(scripts.keys.stat("a"), "qt", -60_000)
    scripts.observe(("a", 10))
    assert [float(value) for value in scripts.client.hmget(scripts.keys.stat("a"), "q", "qp")] == [
        10,
        pytest.approx(10),
    ]


def test_a_queue_that_nobody_has_seen_lately_counts_for_nothing(scripts):
    scripts.observe(("a", 50), ("b", 0))
    scripts.client.hincrby(scripts.keys.stat("a"), "qt", -WINDOW)
    scripts.hold(("r0", "b"))
    assert scripts.decide("r1", [Candidate("a"), Candidate("b")]) == ("granted", "a")
