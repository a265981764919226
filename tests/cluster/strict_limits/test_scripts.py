"""The admission script against a model: any sequence of admissions, releases, crashes and time."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis import Redis

from fast_router.cluster.strict_limits.scripts import Caps, admit_call, release_call, script, spend_call

pytestmark = pytest.mark.services

BASE = "test:{fleet}:1"
LIFETIME = 10.0
NAMES = ["a", "b", "c"]
caps = st.builds(
    Caps,
    rpm=st.none() | st.integers(0, 5),
    tpm=st.none() | st.integers(0, 60),
    parallel=st.none() | st.integers(0, 3),
)


class Model:
    """What the script should do, as plainly as it can be said."""

    def __init__(self):
        self.used = dict.fromkeys(NAMES, (-1, 0, 0.0))
        self.slots = {name: {} for name in NAMES}

    def usage(self, name, minute):
        known, requests, tokens = self.used[name]
        return (requests, tokens) if known == minute else (0, 0.0)

    def admit(self, candidates, reservation, tokens, now):
        minute = int(now // 60)
        for place, (name, _) in enumerate(candidates, 1):
            if self.slots[name].get(reservation, 0) > now:
                return place, minute
        waits = []
        for place, (name, limit) in enumerate(candidates, 1):
            requests, used = self.usage(name, minute)
            alive = [end for end in self.slots[name].values() if end > now]
            spent = (limit.rpm is not None and requests + 1 > limit.rpm) or (
                limit.tpm is not None and used + max(tokens, 1) > limit.tpm
            )
            full = limit.parallel is not None and len(alive) + 1 > limit.parallel
            if not spent and not full:
                self.used[name] = (minute, requests + 1, used + tokens)
                self.slots[name] = {r: e for r, e in self.slots[name].items() if e > now}
                self.slots[name][reservation] = now + LIFETIME
                return place, minute
            self.slots[name] = {r: e for r, e in self.slots[name].items() if e > now}
            waits.append(int((minute + 1) * 60000 - int(now * 1000)) if spent else 0)
        return 0, min(waits)

    def release(self, name, reservation, minute, reserved, now):
        if self.slots[name].pop(reservation, None) is None:
            return 0
        known, requests, used = self.used[name]
        if reserved > 0 and known == minute == int(now // 60):
            self.used[name] = (known, requests, max(0, used - reserved))
        return 1

    def spend(self, name, tokens, now):
        minute = int(now // 60)
        requests, used = self.usage(name, minute)
        self.used[name] = (minute, requests, used + tokens)


class Admissions(RuleBasedStateMachine):
    client: Redis

    def __init__(self):
        super().__init__()
        self.client.flushdb()
        self.model = Model()
        self.now = 1_000_000.0
        self.count = 0
        self.admitted = []

    def run_script(self, command):
        return self.client.execute_command(*command)

    @rule(
        names=st.permutations(NAMES),
        count=st.integers(1, 3),
        limits=st.lists(caps, min_size=3, max_size=3),
        tokens=st.integers(0, 30),
    )
    def admit(self, names, count, limits, tokens):
        self.count += 1
        self.ask(list(zip(names, limits, strict=True))[:count], f"r{self.count}", tokens)

    @precondition(lambda self: self.admitted)
    @rule(data=st.data(), limits=caps)
    def ask_again(self, data, limits):
        """A redelivered task: the slot it has already counts, nothing is taken twice."""
        name, reservation, _, tokens = data.draw(st.sampled_from(self.admitted))
        self.ask([(name, limits)], reservation, tokens)

    def ask(self, candidates, reservation, tokens):
        command = admit_call(BASE, candidates, reservation, tokens=tokens, lifetime=LIFETIME, now=self.now, whole=True)
        before = self.snapshot()
        place, number = self.run_script(command)
        assert (place, number) == self.model.admit(candidates, reservation, tokens, self.now)
        if place:
            self.admitted.append((candidates[place - 1][0], reservation, number, tokens))
        else:
            assert self.snapshot() == before, "a refused request consumes nothing"

    def snapshot(self):
        return [self.client.hgetall(f"{BASE}:usage:{name}") for name in NAMES] + [
            self.client.zrangebyscore(f"{BASE}:slots:{name}", f"({int(self.now * 1000)}", "inf") for name in NAMES
        ]

    @precondition(lambda self: self.admitted)
    @rule(data=st.data())
    def release(self, data):
        name, reservation, minute, tokens = data.draw(st.sampled_from(self.admitted))
        command = release_call(BASE, name, reservation, minute=minute, reserved=tokens, now=self.now, whole=True)
        assert self.run_script(command) == self.model.release(name, reservation, minute, tokens, self.now)

    @rule(name=st.sampled_from(NAMES), tokens=st.integers(1, 40))
    def spend(self, name, tokens):
        self.run_script(spend_call(BASE, name, tokens, now=self.now, whole=True))
        self.model.spend(name, tokens, self.now)

    @rule(seconds=st.sampled_from([0.5, 3.0, 9.0, 11.0, 45.0, 61.0]))
    def wait(self, seconds):
        self.now += seconds

    @invariant()
    def same_as_the_model(self):
        minute = int(self.now // 60)
        for name in NAMES:
            known = self.client.hmget(f"{BASE}:usage:{name}", "m", "r", "t")
            seen = (int(float(known[1])), float(known[2])) if known[0] and int(known[0]) == minute else (0, 0.0)
            requests, tokens = self.model.usage(name, minute)
            assert seen[0] == requests
            assert math.isclose(seen[1], tokens, abs_tol=1e-9)
            assert seen[0] >= 0 <= seen[1]
            alive = {
                member.decode()
                for member in self.client.zrangebyscore(f"{BASE}:slots:{name}", f"({int(self.now * 1000)}", "inf")
            }
            assert alive == {r for r, end in self.model.slots[name].items() if end > self.now}

    @invariant()
    def every_key_expires(self):
        assert all(self.client.pttl(key) > 0 for key in self.client.keys("*"))


def test_the_script_does_what_the_model_does(redis_server):
    Admissions.client = Redis.from_url(redis_server.url)
    run_state_machine_as_test(Admissions, settings=settings(max_examples=60, stateful_step_count=25, deadline=None))


def test_never_more_than_the_limit_whoever_asks(redis_url):
    """200 askers on 8 connections at once: exactly as many as the limits allow."""
    client = Redis.from_url(redis_url)
    candidates = [("a", Caps(rpm=30, parallel=20)), ("b", Caps(rpm=100, parallel=25))]

    def ask(n):
        command = admit_call(BASE, candidates, f"r{n}", tokens=0, lifetime=60, now=1_000_000.0, whole=True)
        return client.execute_command(*command)[0]

    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(ask, range(200)))
    assert (places.count(1), places.count(2), places.count(0)) == (20, 25, 155)
    assert client.hget(f"{BASE}:usage:a", "r") == b"20"


def test_scripts_are_known_by_the_hash_that_redis_gives_them(redis_url):
    client = Redis.from_url(redis_url)
    for name in ("admit", "release", "spend"):
        assert client.script_load(script(name).text) == script(name).sha
