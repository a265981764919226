"""The queue of one server, against sums done by hand."""

from __future__ import annotations

import pytest

from fast_router.engine.prefix_cache.backlog import Backlog
from fast_router.engine.prefix_cache.call import Call


def call(number: int, began: float, work: float, *, full: float | None = None, stream: bool = True) -> Call:
    made = Call(number, began, 100.0, stream)
    made.work = work
    made.full = work if full is None else full
    return made


def test_prompts_wait_for_one_another() -> None:
    """Two of a second each: the next waits two, and as much less as time passes."""
    backlog = Backlog()
    assert backlog.wait(10.0) == 0
    backlog.add("a", call(1, 10.0, 1.0), 10.0)
    backlog.add("b", call(2, 10.5, 1.0), 10.5)
    assert backlog.wait(10.5) == pytest.approx(1.5)
    assert backlog.tokens == 200


def test_first_token_tells_how_long_the_prompt_itself_took() -> None:
    """From its arrival, or from the first token before it."""
    backlog = Backlog()
    backlog.add("a", call(1, 10.0, 1.0), 10.0)
    backlog.add("b", call(2, 10.5, 1.0), 10.5)
    assert backlog.spoke("a", 12.0) == pytest.approx(2.0)
    assert backlog.wait(12.0) == pytest.approx(1.0)
    assert backlog.spoke("b", 12.6) == pytest.approx(0.6)
    assert backlog.wait(12.6) == 0
    assert backlog.tokens == 0


def test_head_that_is_late_may_take_as_long_again_but_not_longer_than_all_of_it() -> None:
    """It was expected to be cached; the longer it takes, the less it was."""
    backlog = Backlog()
    backlog.add("a", call(1, 0.0, 1.0, full=4.0), 0.0)
    backlog.add("b", call(2, 0.0, 0.5), 0.0)
    assert backlog.wait(1.0) == pytest.approx(0.5)
    assert backlog.wait(2.0) == pytest.approx(0.5 + 1.0)
    assert backlog.wait(3.5) == pytest.approx(0.5 + 0.5)
    assert backlog.wait(9.0) == pytest.approx(0.5)


def test_answers_that_do_not_stream_count_for_as_long_as_expected() -> None:
    """Nothing is heard of them in between."""
    backlog = Backlog()
    backlog.add("a", call(1, 0.0, 1.0, stream=False), 0.0)
    assert backlog.wait(0.4) == pytest.approx(0.6)
    assert backlog.wait(5.0) == 0
    backlog.add("b", call(2, 5.0, 1.0), 5.0)
    assert backlog.spoke("b", 5.8) is None
    assert backlog.tokens == 0


def test_call_that_leaves_takes_its_work_along() -> None:
    """Failed, cancelled: the others move up."""
    backlog = Backlog()
    for number, name in enumerate("abc"):
        backlog.add(name, call(number, 0.0, 1.0), 0.0)
    backlog.leave("b", 0.5)
    assert backlog.wait(0.5) == pytest.approx(1.5)
    backlog.leave("a", 0.5)
    assert backlog.wait(0.5) == pytest.approx(1.0)
    backlog.leave("c", 0.5)
    assert backlog.wait(0.5) == 0
    backlog.leave("c", 0.5)
    assert backlog.spoke("c", 0.5) is None


def test_call_that_is_heard_of_late_takes_its_place_in_line() -> None:
    """Another's of a second, sent at 9.5: ours of 10.0 began at 10.5, and the next waits as long as both take."""
    backlog = Backlog()
    backlog.add("ours", call(1, 10.0, 1.0), 10.0)
    backlog.add_late("theirs", call(0, 9.5, 1.0, stream=False))
    assert backlog.wait(10.2) == pytest.approx(10.5 + 1.0 - 10.2)
    assert backlog.tokens == 200
    # By its first token the other one is done, too.
    assert backlog.spoke("ours", 11.6) is None
    assert backlog.wait(11.6) == 0
    assert backlog.tokens == 0


def test_call_that_is_heard_of_late_fills_a_pause_first() -> None:
    """Another's was sent while the server had nothing to do: only what ran into ours delays it."""
    backlog = Backlog()
    backlog.add("ours", call(1, 10.0, 1.0), 10.0)
    backlog.add_late("theirs", call(0, 9.2, 1.0, stream=False))
    assert backlog.wait(10.1) == pytest.approx(10.2 + 1.0 - 10.1)
    backlog.add_late("behind", call(0, 10.05, 1.0, stream=False))
    assert backlog.wait(10.1) == pytest.approx(10.2 + 2.0 - 10.1)


def test_call_that_is_heard_of_when_a_later_one_has_answered_is_over() -> None:
    backlog = Backlog()
    backlog.add("ours", call(1, 10.0, 1.0), 10.0)
    backlog.spoke("ours", 11.0)
    backlog.add_late("theirs", call(0, 9.9, 1.0, stream=False))
    assert len(backlog) == 0
    assert backlog.wait(11.0) == 0


def test_first_token_that_is_heard_of_late_does_not_turn_the_clock_back() -> None:
    """Another's came at 10.5, ours at 10.6; of the first we hear at last: the next call took 0.4 s by itself."""
    backlog = Backlog()
    backlog.add("ours", call(1, 9.0, 0.5), 9.0)
    backlog.add_late("theirs", call(0, 9.1, 0.5, stream=False))
    backlog.add("next", call(2, 9.2, 0.5), 9.2)
    assert backlog.spoke("ours", 10.6) == pytest.approx(1.6)
    backlog.spoke("theirs", 10.5)
    assert backlog.spoke("next", 11.0) == pytest.approx(0.4)


def test_dropped_call_was_never_there() -> None:
    backlog = Backlog()
    backlog.add("a", call(1, 0.0, 1.0), 0.0)
    backlog.add("b", call(2, 0.0, 2.0), 0.0)
    backlog.drop("b", 0.5)
    assert backlog.wait(0.5) == pytest.approx(0.5)
    backlog.drop("a", 0.5)
    backlog.drop("a", 0.5)
    assert backlog.wait(0.5) == 0
    assert backlog.tokens == 0
