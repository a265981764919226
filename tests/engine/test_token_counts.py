"""Whatever an answer says of its tokens, a lease gives its slot back and nobody's figures break."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_router import AdvancedRouter
from fast_router.engine.token_counts import counted
from tests.engine.contract import STRATEGIES

SAID = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just(10**400), st.lists(st.integers())
)
NAMES = ["completion_tokens", "total_tokens", "prompt_tokens", "cached_tokens"]


@given(SAID)
def test_what_is_no_number_of_tokens_is_none_at_all(said: Any) -> None:
    number = counted(said)
    assert 0 <= number <= 1e9
    assert number == (math.floor(said) if isinstance(said, (int, float)) and 0 <= said <= 1e9 else 0)


@pytest.mark.parametrize("part", [5e-324, 2.2e-309, 1e-9, 0.5])
def test_a_part_of_a_token_makes_no_time_infinite(part: float) -> None:
    now = [0.0]
    router = AdvancedRouter("latency_based", model_list=[{"model_name": "m", "id": "a"}], clock=lambda: now[0])
    lease = router.acquire("m")
    now[0] += 0.5
    lease.release(completion_tokens=part)
    assert router.deployments["a"].latency == 0.5


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(data=st.data())
def test_every_lease_gives_its_slot_back(strategy: str, data: st.DataObject) -> None:
    """With any numbers at its beginning and at its end; afterwards the deployments share as if nothing had been."""
    now = [0.0]
    router = AdvancedRouter(
        strategy,
        model_list=[{"model_name": "m", "id": f"d{n}", "rpm": 10_000, "tpm": 10**9} for n in range(3)],
        clock=lambda: now[0],
        wall=lambda: now[0],
        rng=random.Random(1),
    )
    for _ in range(data.draw(st.integers(1, 8))):
        lease = router.acquire("m", tokens=data.draw(SAID), stream=data.draw(st.booleans()), key="a" * 300)
        now[0] += 0.5
        if data.draw(st.booleans()):
            lease.first_token()
        said = data.draw(st.dictionaries(st.sampled_from(NAMES), SAID))
        assert lease.release(RuntimeError("no") if data.draw(st.booleans()) else None, **said)
    for deployment in router.deployments.values():
        assert deployment.in_flight == 0
        assert deployment.talking == 0
        for figure in (deployment.latency, deployment.speed, deployment.ewma, deployment.minute_tokens):
            assert figure is None or (math.isfinite(figure) and figure >= 0)
    now[0] += 7200
    shares: Counter[str] = Counter()
    for number in range(60):
        lease = router.acquire("m", key=f"{number} " * 100)
        shares[lease.id] += 1
        now[0] += 1.0
        lease.release(completion_tokens=3)
    assert sum(shares.values()) == 60


def test_key_that_is_no_text_is_refused_before_anything_is_counted() -> None:
    router = AdvancedRouter("session_affinity", model_list=[{"model_name": "m", "id": "a"}])
    with pytest.raises(TypeError, match="a session's name, or the whole prompt"):
        router.acquire("m", key=b"session")  # type: ignore[arg-type]
    assert router.deployments["a"].in_flight == 0


def test_one_excluded_id_may_stand_by_itself() -> None:
    """It is one id: not every id that is a part of it."""
    router = AdvancedRouter("round_robin", model_list=[{"model_name": "m", "id": id_} for id_ in ("d1", "d10")])
    assert {router.acquire("m", exclude="d10").id for _ in range(4)} == {"d1"}
