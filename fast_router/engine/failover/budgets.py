"""How many retries there may be: an outage is not multiplied by them, and no caller spends those of others.

`RetryBudget` belongs to one model group, or to one caller in it (Finagle's rule: a share of the requests plus a floor
per second). `RetryBudgets` has those of an engine.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING

from fast_router.engine.failover.windows import SlidingCounts

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["BudgetOptions", "CallersPart", "CallersShares", "RetryBudget", "RetryBudgets"]


@dataclass(frozen=True)
class BudgetOptions:
    """How many retries a group may make.

    Attributes:
        share: Retries per request (0.2 = 20 %).
        per_second: Retries that are always allowed, so that a quiet group can retry at all.
        window: Seconds over which both are counted.
    """

    share: float = 0.2
    per_second: float = 10.0
    window: float = 10.0

    def __post_init__(self) -> None:
        if self.share < 0 or self.per_second < 0 or self.window <= 0:
            raise ValueError("a retry budget needs a share ≥ 0, retries/second ≥ 0 and a window > 0 seconds")


_REQUEST, _RETRY = 0, 1


class RetryBudget:
    """Retries in proportion to requests: at most ``share`` of them plus ``per_second``, over ``window`` seconds.

    Args:
        options: The proportions.
    """

    __slots__ = ("_counts", "_options", "refused")

    def __init__(self, options: BudgetOptions | None = None) -> None:
        self._options = options or BudgetOptions()
        self._counts = SlidingCounts(self._options.window)
        self.refused = 0

    def request(self, now: float) -> None:
        """Count a request's first attempt."""
        self._counts.add(now, _REQUEST)

    def retry(self, now: float) -> bool:
        """Ask for one retry; True if there is budget, which is then spent."""
        requests, retries = self._counts.read(now)
        if retries + 1 > self._options.share * requests + self._options.per_second * self._options.window:
            self.refused += 1
            return False
        self._counts.add(now, _RETRY)
        return True

    def refuse(self) -> None:
        """Count a refusal."""
        self.refused += 1

    def left(self, now: float) -> float:
        """Give the retries that would be allowed right now."""
        requests, retries = self._counts.read(now)
        options = self._options
        return max(0.0, options.share * requests + options.per_second * options.window - retries)


_CALLERS_SHARE = 0.25
"""One caller's part of a group's retries per second, for retries that no deployment is to blame for."""
_CALLERS = 1_000
"""Callers whose shares are kept; the one that retried longest ago is forgotten."""


class CallersPart:
    """A group's budget as one known caller spends it.

    A caller that fails all the time would leave the others none. So whoever has had less than their share may draw on a
    reserve when the group's budget is spent: of the group's floor per second, over all callers.

    Args:
        group: The group's budget.
        own: The caller's share.
        reserve: What is left to those who have had little.
    """

    __slots__ = ("_group", "_own", "_reserve")

    def __init__(self, group: RetryBudget, own: RetryBudget, reserve: RetryBudget) -> None:
        self._group = group
        self._own = own
        self._reserve = reserve

    def left(self, now: float) -> float:
        """Give the retries that would be allowed right now."""
        return max(self._group.left(now), min(self._own.left(now), self._reserve.left(now)))

    def retry(self, now: float) -> bool:
        """Ask for one retry; True if there is budget, which is then spent."""
        little = self._own.left(now) >= 1 and self._own.retry(now)
        if self._group.left(now) < 1 and little and self._reserve.left(now) >= 1:
            return self._reserve.retry(now)
        return self._group.retry(now)

    def refuse(self) -> None:
        """Count a refusal."""
        self._group.refuse()


class CallersShares:
    """The budgets of single callers. Safe from several threads."""

    __slots__ = ("_budgets", "_lock")

    def __init__(self) -> None:
        self._budgets: OrderedDict[tuple[str, Hashable], RetryBudget] = OrderedDict()
        self._lock = Lock()

    def of(self, name: str, caller: Hashable, options: BudgetOptions) -> RetryBudget:
        """Give the share of a caller in the retries of the group `name`."""
        key = (name, caller)
        with self._lock:
            found = self._budgets.get(key)
            if found is None:
                own = replace(options, share=0.0, per_second=_CALLERS_SHARE * options.per_second)
                found = self._budgets[key] = RetryBudget(own)
                if len(self._budgets) > _CALLERS:
                    self._budgets.popitem(last=False)
            else:
                self._budgets.move_to_end(key)
            return found


class RetryBudgets:
    """The retry budgets of an engine's groups. Safe from several threads.

    Args:
        options: Their proportions, None for no bound.
    """

    __slots__ = ("_groups", "_options", "_reserves", "_shares")

    def __init__(self, options: BudgetOptions | None) -> None:
        self._options = options
        self._groups: dict[str, RetryBudget] = {}
        self._reserves: dict[str, RetryBudget] = {}
        self._shares = CallersShares()

    def of(self, name: str, caller: Hashable | None = None) -> RetryBudget | None:
        """Give a group's retry budget, or the share of one caller in retries that no deployment is to blame for.

        Args:
            name: The group.
            caller: Whose share, None for the group's own budget.

        Returns:
            The budget, None if retries are not bounded.
        """
        options = self._options
        if options is None:
            return None
        if caller is not None:
            return self._shares.of(name, caller, options)
        found = self._groups.get(name)
        if found is None:
            found = self._groups.setdefault(name, RetryBudget(options))
        return found

    def spent_by(self, name: str, caller: Hashable) -> CallersPart | None:
        """Give a group's retry budget as a known caller spends it, None if retries are not bounded."""
        options, group = self._options, self.of(name)
        if options is None or group is None:
            return None
        reserve = self._reserves.get(name)
        if reserve is None:
            reserve = self._reserves.setdefault(name, RetryBudget(replace(options, share=0.0)))
        return CallersPart(group, self._shares.of(name, caller, options), reserve)
