"""While nothing is wrong no call is asked twice, however unlike the answers; when a server hangs, those on it are."""

from __future__ import annotations

import math
import random
from heapq import heappop, heappush

import pytest

from fast_router.engine.failover.silence import SilenceOptions
from tests.engine.failover.test_policy import Fleet

REQUESTS = 10_000
SPREAD = 1.0


def asked_twice(median: float, in_flight: float, *, seed: int, hangs: bool = False) -> int:
    """Send requests of log-normal lengths to three servers; how many would have been asked elsewhere as well.

    Args:
        median: Seconds that an answer takes.
        in_flight: Calls per server, on average: arrivals are a Poisson process.
        seed: For chance.
        hangs: Whether the first server answers nothing from the middle on.
    """
    under_way = set()
    twice = set()

    def silent(deployment, admits):
        twice.update(lease for lease in under_way if lease.deployment is deployment and admits(lease))

    fleet = Fleet(3, strategy="least_busy", silence=SilenceOptions(), on_silent=silent)
    chance = random.Random(seed)
    rate = 3 * in_flight / (median * math.exp(SPREAD**2 / 2))
    ends = []
    now = 0.0
    for number in range(REQUESTS):
        now += chance.expovariate(rate)
        while ends and ends[0][0] <= now:
            fleet.now, _, lease = heappop(ends)
            under_way.discard(lease)
            lease.release()
        fleet.now = now
        lease = fleet.lease()
        under_way.add(lease)
        if not (hangs and number > REQUESTS / 2 and lease.id == "d0"):
            heappush(ends, (now + chance.lognormvariate(math.log(median), SPREAD), number, lease))
    return len(twice)


@pytest.mark.parametrize("in_flight", [1, 4, 30])
@pytest.mark.parametrize("median", [0.1, 1.0, 30.0])
def test_at_most_one_in_a_thousand_is_asked_twice_while_nothing_is_wrong(median, in_flight):
    assert asked_twice(median, in_flight, seed=1) <= REQUESTS / 1000


def test_calls_on_a_server_that_hangs_are_asked_twice():
    """The control: the same arrivals, but one server falls silent."""
    assert asked_twice(1.0, 4, seed=1, hangs=True) >= 2
