"""An experiment on the dashboard, in a real browser: both arms, their figures as they grow, and its end."""

from __future__ import annotations

import itertools
import logging

import pytest

import fast_router
from fast_router.observe import process_status
from tests.support.browser import Page, dashboard
from tests.support.plugin import MESSAGES, entry, router

pytestmark = pytest.mark.usefixtures("plugin")
logging.getLogger("LiteLLM Router").setLevel(logging.CRITICAL)

ARM, REQUESTS, FAILED, RETRIES, P50, P95, FIRST = range(7)


def cells(page):
    """The table's rows as the page shows them."""
    return [row.split("\t") for row in page.text("#rollouts tbody tr").splitlines()]


@pytest.mark.browser
def test_an_operator_sees_an_experiment_begin_grow_and_end(servers, runtime, browser):
    made = router(*(entry(f"d{n}", server.api_base) for n, server in enumerate(servers)), routing_strategy="least-busy")

    sessions = itertools.count()  # each in the arm that its name has for ever

    def ask(times):
        for _ in range(times):
            made.completion(model="m", messages=MESSAGES, metadata={"session_id": f"s{next(sessions)}"})

    def arms():
        return {arm["arm"]: arm["requests"] for arm in fast_router.status()["experiment"]["arms"]}

    def shown():
        return {row[ARM]: int(row[REQUESTS]) for row in cells(page)}

    ask(1)
    process_status.start()
    page = Page(browser)
    with dashboard() as address:
        browser.get(address)
        page.until(lambda: "127.0.0.1" in page.text("#models"))
        assert page.text("#rollouts") == ""

        fast_router.configure(experiment={"strategy": "peak_ewma", "share": 40})
        title = "Experiment: 40 % of the requests by peak_ewma, the others by least_busy"
        ask(1)
        page.until(lambda: title in page.text("#rollouts h2"))
        ask(11)
        page.until(lambda: shown() == arms())
        assert sum(shown().values()) == 12
        assert all(shown().values())
        for row in cells(page):
            assert row[FAILED] == row[RETRIES] == "0"
            assert row[P50].endswith(("ms", " s"))
            assert row[P95].endswith(("ms", " s"))
        said = page.text("#rollouts p")
        assert said.startswith("by latency: too few requests to compare latency (both arms share the servers: ")

        before = shown()
        ask(3)
        page.until(lambda: sum(shown().values()) == 15)
        assert all(shown()[arm] >= count for arm, count in before.items())

        fast_router.configure(experiment=None)
        page.until(lambda: page.text("#rollouts") == "")
        assert page.severe() == []
