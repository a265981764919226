"""One retry after a failure that was handed over, without the core's looks at the whole Router.

After a failure LiteLLM's core asks twice who of the Router cools down, each time with a key per deployment, before it
sleeps and has the retry made; from there to the answer it asks for nothing that depends on who the others are. What it
says on that way is the same for each failure of a kind, so it is rehearsed once per kind with the real core (as
`rehearsal` does it for a pick), and said from memory after that. A deployment whose failures of a kind are known to be
counted and no more spares it the first of the two questions as well. Where a retry takes another way than the one that
was rehearsed (nobody could be picked here, it failed as well, it counts towards limits) the core is told what happened
meanwhile, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from time import perf_counter
from typing import Any, Protocol

from fast_router.litellm_plugin.rust_core import cooldown_reads
from fast_router.litellm_plugin.tally import tally

__all__ = ["Retries", "Walked"]

_MOST_KINDS = 256  # of failures, per group
_MOST_SILENT = 20_000
# The core's answers up to a failure, and to the one counter that it may add it to.
_COUNTED = 4
_VERY_MANY = 10**6
_Kind = tuple[str, str]
_OK = {"ok": True, "total_tokens": 7, "blocked": None, "deferred": False, "tracks_usage": False}
_PLAIN_OK = {name: value for name, value in _OK.items() if name != "total_tokens"}
# With so many deployments of the group that are well the core never waits, and none of its rules is about the last one.
_ENOUGH = 3
# LiteLLM heeds a Retry-After of up to so many seconds.
_LONGEST_RETRY_AFTER = 60


class Remembered:
    """What the core says from a failure to the answer of its retry.

    Args:
        sleep: Its step before the retry; it does not wait.
        pick: Its question whom to take.
        attempt: The retry.
        count: How it counts the success.
        done: Its last step.

    Attributes:
        ends_in_a_count: Whether it goes on from one counter of the failure, whatever the count.
    """

    __slots__ = ("_attempt", "_count", "_done", "_pick", "_sleep", "ends_in_a_count")

    def __init__(
        self,
        sleep: Mapping[str, Any],
        pick: Mapping[str, Any],
        attempt: Mapping[str, Any],
        count: Mapping[str, Any],
        done: Mapping[str, Any],
    ) -> None:
        self._sleep, self._pick, self._attempt, self._count, self._done = sleep, pick, attempt, count, done
        self.ends_in_a_count = False

    def sleep(self) -> Mapping[str, Any]:
        """The step before the retry."""
        return _fresh(self._sleep)

    def pick(self) -> Mapping[str, Any]:
        """The question whom to take."""
        return _fresh(self._pick)

    def attempt(self, id_: str, deployment: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        """The retry on a deployment, whose pick has taken so long."""
        selected = {"kind": "selected", "deployment_id": id_, "pick_seconds": seconds}
        return {
            **self._attempt,
            "deployment_id": id_,
            "deployment": deployment,
            "candidate_ids": [id_],
            "events": [selected],
        }

    def count(self, id_: str) -> Mapping[str, Any]:
        """How a deployment's success is counted."""
        return {**_fresh(self._count), "key": f"{id_}:successes"}

    def done(self, id_: str, tokens: Any) -> Mapping[str, Any]:
        """The end, after a deployment's answer of so many tokens."""
        return {**_fresh(self._done), "deployment_id": id_, "total_tokens": tokens}


def _fresh(step: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**step, "events": [dict(event) for event in step["events"]]}


class Retries:
    """How the core retries in one group.

    Attributes:
        kinds: What it says, by the kind of failure; None for a way that is not known here.
        asked: Its question who cools down, None before the first.
        silent: The deployments and kinds of failure after which that question comes, whatever else it is told.
    """

    __slots__ = ("asked", "kinds", "silent")

    def __init__(self) -> None:
        self.kinds: dict[_Kind, Remembered | None] = {}
        self.asked: Mapping[str, Any] | None = None
        self.silent: set[tuple[str, _Kind]] = set()

    def forget(self) -> None:
        """Make room: what comes again is rehearsed again."""
        self.kinds.clear()
        self.silent.clear()


class Served(Protocol):
    """How a group is served, as far as its retries go; `guard.Open` is one.

    Attributes:
        handle: LiteLLM's handle of its core.
        ids: The members.
        retries: What is known of its retries.
    """

    handle: Any
    ids: Sequence[str]
    retries: Retries

    def holds(self, core: Any) -> bool:
        """Whether the Router is still as it was."""
        ...


class Walked:
    """A call of LiteLLM's core, as its driver sees it: `next` gives the next step.

    Args:
        call: The core's own.
        core: The core.
        found: How the group of the request is served.
        op: The endpoint.
        inputs: What the core was started with.
        failed_id: The deployment whose failure is handed over.
    """

    __slots__ = ("_steps",)

    def __init__(self, call: Any, core: Any, found: Served, op: str, inputs: Mapping[str, Any], failed_id: str) -> None:
        self._steps = _steps(call, core, found, op, inputs, failed_id)
        next(self._steps)

    def next(self, answer: Any) -> Any:
        """The step after this answer to the one before."""
        return self._steps.send(answer)


_Steps = Generator[Any, Any, None]


def _steps(call: Any, core: Any, found: Served, op: str, inputs: Mapping[str, Any], failed_id: str) -> _Steps:
    retries = found.retries
    answers: list[Any] = []
    attempted, kind, counted = False, None, None
    # What the core has yet to be told, should it be asked again: the kind of its step, and the answer.
    owed: list[tuple[str, Any]] = []
    answer = yield None
    while True:
        answers.append(answer)
        if attempted and kind is None:
            kind = _kind_of(inputs, answer, failed_id)
        elif len(answers) == _COUNTED and (failed_id, kind) in retries.silent and found.holds(core):
            owed.append(("cache", answer))
            step = _fresh(retries.asked or {})
            break
        step = call.next(answer)
        name = step["kind"]
        if name == "cache" and kind is not None:
            if step["op"] == "batch_get":
                break
            counted = step["key"] if step["op"] == "increment" else None
        if name == "attempt" and not attempted and step["deployment_id"] == failed_id:
            attempted = True
        elif name not in ("pre_route", "cache") or (attempted and kind is None):
            yield from _onwards(call, step)
        answer = yield step
    cooling = yield step
    owed.append(("cache", cooling))
    known = None
    if kind is not None and found.holds(core):
        known = _remembered(found, op, inputs, answers, step, cooling, failed_id, kind, counted)
    if known is None:
        yield from _onwards(call, _told(call, step, owed))
        return
    yield known.sleep()
    deployment = yield known.pick()
    since = perf_counter()
    owed += (("cache", cooling), ("sleep", None), ("pre_route", deployment))
    id_ = _id_of(found, deployment)
    if id_ is None:
        yield from _onwards(call, _told(call, step, owed))
        return
    outcome = yield known.attempt(id_, deployment, perf_counter() - since)
    if not _is_plain(outcome):
        yield from _onwards(call, _told(call, step, [*owed, ("attempt", outcome)]))
        return
    yield known.count(id_)
    yield known.done(id_, outcome["total_tokens"])


def _onwards(call: Any, step: Any) -> _Steps:
    """All that follows, as the core says it."""
    while True:
        step = call.next((yield step))


def _told(call: Any, asked: Mapping[str, Any], owed: Sequence[tuple[str, Any]]) -> Any:
    """Tell the core what happened while it was not asked; its next step."""
    step = None
    for kind, answer in owed:
        if step is not None and (step["kind"] != kind or (type(answer) is list and step["keys"] != asked["keys"])):
            return step  # it takes another way, or its deployments have changed: its driver goes along
        step = call.next(answer)
    return step


def _id_of(found: Served, deployment: Any) -> str | None:
    if type(deployment) is not dict:
        return None
    id_ = (deployment.get("model_info") or {}).get("id")
    return id_ if type(id_) is str and found.handle.has_model_id(id_) else None


def _is_plain(outcome: Mapping[str, Any]) -> bool:
    return outcome.keys() == _OK.keys() and all(outcome[name] == value for name, value in _PLAIN_OK.items())


def _kind_of(inputs: Mapping[str, Any], outcome: Any, failed_id: str) -> _Kind | None:
    """A failure, but for its text, for whose it is, and for how long exactly it asks to wait; None if it is none."""
    if not isinstance(outcome, Mapping) or outcome.get("ok") is not False:
        return None
    named = outcome.get("failed_deployment_id")
    if named not in (None, failed_id):
        return None
    after = outcome.get("retry_after")
    told = None if after is None else (after > 0, after > _LONGEST_RETRY_AFTER)
    plain = {**outcome, "detail": None, "failed_deployment_id": named is not None, "retry_after": told}
    return repr(sorted(inputs.items())), repr(sorted(plain.items()))


def _remembered(
    found: Served,
    op: str,
    inputs: Mapping[str, Any],
    answers: Sequence[Any],
    asked: Mapping[str, Any],
    cooling: Any,
    failed_id: str,
    kind: _Kind,
    counted: Any,
) -> Remembered | None:
    """What the core will say, if that is known or can be rehearsed."""
    retries = found.retries
    try:
        # The question is about the whole Router; whoever it is that cools down may be of this group.
        if type(cooling) is not list or len(found.ids) - (len(cooling) - cooling.count(None)) < _ENOUGH:
            return None
        if kind in retries.kinds:
            known = retries.kinds[kind]
            if known is None or (failed_id, kind) in retries.silent:
                return known
        else:
            if len(retries.kinds) >= _MOST_KINDS:
                # A caller may send what makes kinds of its own; the others' must not stay without room for good.
                retries.forget()
            known = _rehearsed(found, op, inputs, answers, asked, cooling, failed_id)
            retries.kinds[kind] = known
        if known is not None and len(answers) == _COUNTED:
            if len(retries.silent) >= _MOST_SILENT:
                retries.silent.clear()
            if retries.asked is None:
                retries.asked = _fresh(asked)
            if known.ends_in_a_count and _is_of(counted, failed_id) and asked == retries.asked:
                retries.silent.add((failed_id, kind))
    except Exception as error:  # noqa: BLE001 - the core itself goes on
        tally.failed(error, "a retry from memory")
        return None
    return known


def _is_of(counter: Any, id_: str) -> bool:
    """Whether it is the counter of a deployment's requests."""
    return str(counter).startswith(f"global_router:{id_}:")


def _makes_nothing_of(
    found: Served, op: str, inputs: Mapping[str, Any], answers: Sequence[Any], asked: Mapping[str, Any]
) -> bool:
    """Whether the core goes on as it did, whatever the last answer, a count."""
    call = found.handle.start(op, inputs)
    for answer in answers[:-1]:
        call.next(answer)
    return bool(call.next(_VERY_MANY) == asked)


def _rehearsed(
    found: Served,
    op: str,
    inputs: Mapping[str, Any],
    answers: Sequence[Any],
    asked: Mapping[str, Any],
    cooling: Sequence[Any],
    failed_id: str,
) -> Remembered | None:
    """Go the way with the core up to a retry's answer; None if it is another one than is known here."""
    id_ = next(id_ for id_ in found.ids if id_ != failed_id)
    deployment = found.handle.deployment(id_)
    call = found.handle.start(op, inputs)
    for answer in answers:
        step = call.next(answer)
    if cooldown_reads.ids_of(asked) is None or step != asked or call.next(cooling) != asked:
        return None
    steps = [call.next(cooling)]
    for kind, answer in (("sleep", None), ("pre_route", deployment), ("attempt", _OK), ("cache", 1)):
        if steps[-1]["kind"] != kind:
            return None
        steps.append(call.next(answer))
    sleep, _, attempt, count, done = steps
    if sleep["seconds"] != 0 or done["kind"] != "done":
        return None
    known = Remembered(*steps)
    seconds = attempt["events"][0]["pick_seconds"]
    same = (
        known.attempt(id_, deployment, seconds) == attempt
        and known.count(id_) == count
        and known.done(id_, _OK["total_tokens"]) == done
    )
    if not same:
        return None
    known.ends_in_a_count = len(answers) == _COUNTED and _makes_nothing_of(found, op, inputs, answers, asked)
    return known
