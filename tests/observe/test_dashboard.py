"""The dashboard: who may look, who may act, and the page itself in a real browser."""

from __future__ import annotations

import json
import random
import re
import time

import httpx
import pytest

from fast_router import AdvancedRouter
from fast_router.engine.failover.breaker import BreakerOptions
from fast_router.engine.rollout.arms import Arms
from fast_router.engine.rollout.assignment import Assignment
from fast_router.litellm_plugin import report
from fast_router.litellm_plugin.tally import tally
from fast_router.observe import process_status
from fast_router.observe.dashboard import Access, app
from fast_router.observe.dashboard.live import merge
from fast_router.observe.history import EVERY, GROUP_SERIES, SAMPLES, History
from fast_router.stats import groups_of
from tests.support.browser import Page, dashboard

HOST = "127.0.0.1:8787"
KEY = "sk-secret-of-the-test"


def router_of(models=("m", "n"), count=3, **options):
    return AdvancedRouter(
        "least_busy",
        model_list=[
            {
                "model_name": model,
                "model_info": {"id": f"{model}{i}"},
                "litellm_params": {"model": "openai/x", "api_base": f"http://gpu{i}:8000/v1?k={KEY}", "api_key": KEY},
            }
            for model in models
            for i in range(count)
        ],
        **options,
    )


@pytest.fixture
def router(runtime):
    made = router_of()
    process_status.start()
    return made


def client(access, **headers):
    headers = {"X-Fast-Router-Token": access.token, "Host": HOST, **headers}
    headers = {name: value for name, value in headers.items() if value is not None}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app(access)), base_url=f"http://{HOST}", headers=headers)


ACCESS = Access({HOST}, token="the-right-token-of-the-test")
ORDER = {"action": "rest", "target": "m1", "model": "m"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"X-Fast-Router-Token": None}, 401),
        ({"X-Fast-Router-Token": "wrong"}, 401),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1:1"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"http://{HOST}"}, 200),
    ],
)
async def test_numbers_and_orders_need_token_host_and_origin(router, headers, status):
    async with client(ACCESS, **headers) as asking:
        assert (await asking.get("/api/state")).status_code == status
        assert (await asking.get("/api/history")).status_code == status
        assert (await asking.post("/api/order", json=ORDER)).status_code == status
    held = [row["id"] for row in router.stats()["models"]["m"]["deployments"] if row["state"] == "held"]
    assert held == (["m1"] if status == 200 else [])


async def test_an_order_by_get_or_with_the_token_in_the_address_is_none(router):
    async with client(ACCESS, **{"X-Fast-Router-Token": None}) as asking:
        assert (await asking.get(f"/api/order?token={ACCESS.token}&action=rest&target=m1")).status_code == 401
        assert (await asking.post(f"/api/order?token={ACCESS.token}", json=ORDER)).status_code == 401
    async with client(ACCESS) as asking:
        assert (await asking.get("/api/order")).status_code == 405


async def test_read_only_shows_and_does_nothing(router):
    access = Access({HOST}, token="another-token-of-the-test", read_only=True)
    async with client(access) as asking:
        assert (await asking.get("/api/state")).json()["read_only"] is True
        answer = await asking.post("/api/order", json=ORDER)
    assert (answer.status_code, answer.json()["error"]) == (403, "this dashboard is read only")
    assert all(row["state"] == "up" for row in router.stats()["models"]["m"]["deployments"])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{" * 9000, 400),
        (json.dumps({**ORDER, "action": "weight"}).encode(), 400),
        (json.dumps({**ORDER, "target": 7}).encode(), 400),
        (json.dumps({**ORDER, "seconds": -1}).encode(), 400),
        (json.dumps({**ORDER, "target": "gpu9:1"}).encode(), 422),
    ],
)
async def test_what_is_no_order_is_refused_in_words(router, body, status):
    async with client(ACCESS) as asking:
        answer = await asking.post("/api/order", content=body)
    assert answer.status_code == status
    assert answer.json()["error"]


async def test_the_last_of_a_model_is_asked_about_first(router):
    async with client(ACCESS) as asking:
        for id_ in ("m0", "m1"):
            assert (await asking.post("/api/order", json={**ORDER, "target": id_})).status_code == 200
        answer = await asking.post("/api/order", json={**ORDER, "target": "m2"})
        assert (answer.status_code, answer.json()["error"]) == (409, "rest would leave 'm' without any deployment")
        forced = await asking.post("/api/order", json={**ORDER, "target": "m2", "force": True})
        assert forced.json() == {"targets": 1, "told": 1, "silent": []}
        woken = await asking.post("/api/order", json={"action": "wake", "target": "gpu2:8000", "model": None})
        assert woken.json()["targets"] == 2
    assert {d.id for d in router.deployments.values() if d.held} == {"m0", "m1"}


async def test_the_page_is_self_contained_and_holds_nothing(router):
    async with client(ACCESS, **{"X-Fast-Router-Token": None}) as asking:
        for path in ("/", "/page.js", "/explain.js", "/plots.js", "/page.css"):
            answer = await asking.get(path)
            assert answer.status_code == 200
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            outside = [url for url in re.findall(r"https?://[^\s'\"`)]+", answer.text) if "w3.org" not in url]
            assert outside == []
            assert KEY not in answer.text
        assert (await asking.get("/favicon.ico")).status_code == 404


async def test_the_state_holds_no_secret(router):
    router.acquire("m").release(ConnectionError(KEY))
    async with client(ACCESS) as asking:
        text = (await asking.get("/api/state")).text + (await asking.get("/api/history")).text
    assert KEY not in text
    assert '"server":"gpu1:8000"' in text


# -- history ------------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_the_last_hour_is_kept_in_ten_second_steps_and_no_longer():
    clock = Clock()
    router = router_of(("m",), clock=clock)
    history = History()
    for step in range(SAMPLES + 5):
        for _ in range(20 if step == SAMPLES + 4 else 10):
            lease = router.acquire("m")
            clock.now += 0.5
            lease.release()
        router.acquire("m").release(ValueError())
        history.sample([router])
    read = history.read("m")
    ok, failed, *_ = columns = read["groups"]["m"]
    assert [len(column) for column in columns] == [SAMPLES] * len(GROUP_SERIES)
    assert ok[:-1] == [1.0] * (SAMPLES - 1)
    assert (ok[-1], failed[-1]) == (2.0, 0.1)
    assert 0.4 < columns[GROUP_SERIES.index("p50")][-1] <= 0.6
    assert history.total()["groups"][""][0][-1] == 2.0


def test_what_is_gone_is_forgotten_and_what_is_idle_costs_nothing():
    history = History()
    router = router_of(("m", "idle"))
    router.acquire("m").release()
    history.sample([router])
    assert set(history.read()["groups"]) == {"m"}
    history.sample([])
    assert history.read()["groups"] == {}
    assert not history._seen
    assert not history._rings


@pytest.mark.parametrize("per_model", [1000, 1])
def test_a_thousand_busy_deployments_stay_below_20_mb(per_model):
    import tracemalloc

    names = [f"m{i}" for i in range(1000 // per_model)]
    router = router_of(names, per_model)
    for _, members in groups_of(router).values():
        for deployment in members:
            router.engine.acquire_deployment(deployment).release(completion_tokens=3)
    tracemalloc.start()
    history = History()
    history.sample([router])
    history.sample([router])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 20e6


def test_workers_add_up():
    def worker(ok, p50):
        part = [[None] * SAMPLES for _ in GROUP_SERIES]
        for name, value in (("ok", ok), ("failed", 1.0), ("in_flight", 2.0), ("p50", p50)):
            part[GROUP_SERIES.index(name)][-1] = value
        return part

    merged = merge([worker(3.0, 1.0), worker(1.0, 2.0)])
    assert (merged["ok"][-1], merged["failed"][-1], merged["in_flight"][-1]) == (4.0, 2.0, 4.0)
    assert merged["p50"][-1] == pytest.approx(1.25)
    assert merged["ok"][0] is None
    assert EVERY * SAMPLES == 3600


# -- in a browser -------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_an_operator_sees_who_is_ill_drains_another_one_and_wakes_it(router, browser):
    policy = router.enable_failover(options=BreakerOptions(cooldown=300, jitter=0))
    for _ in range(2):
        router.acquire("m", exclude=["m0", "m2"]).release(ConnectionError("refused"))
    lease = router.acquire("m", exclude=["m1", "m2"])
    page = Page(browser)
    with dashboard() as address:
        browser.get(address)
        page.until(lambda: "gpu1:8000 · m" in page.text("#trouble"))
        told = page.text("#trouble")
        assert "resting" in told
        assert "since" in told
        assert "2 connection errors or timeouts in a row · meanwhile gpu0:8000, gpu2:8000" in told
        assert re.search(r"next try in (4 min \d+ s|5 min)", page.until(lambda: page.text("#trouble .countdown")))
        assert "token" not in browser.current_url

        page.press("button[aria-label='drain gpu0:8000 in m']")
        page.until(lambda: browser.execute_script("return document.getElementById('ask').open"))
        assert "Drain gpu0:8000?" in page.text("#ask")
        assert router.deployments["m0"].held == 0
        page.press("#ask-yes")
        page.until(lambda: "draining" in page.text("#trouble"))
        lease.release()
        page.until(lambda: "drained" in page.text("#trouble"))
        page.press("#trouble button[aria-label='wake gpu0:8000 in m']")
        page.press("#ask-yes")
        page.until(lambda: "drained" not in page.text("#trouble"))
        assert router.deployments["m0"].held == 0

        policy.wake(router.deployments["m1"], "a test")
        page.until(lambda: page.text("#trouble") == "")
        page.until(lambda: "is back" in page.text("#changes"))
        assert KEY not in browser.page_source
        severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert severe == []


@pytest.mark.browser
def test_a_page_from_elsewhere_or_without_the_token_gets_nothing(router, browser):
    page = Page(browser)
    with dashboard() as address:
        base = address.partition("#")[0]
        browser.get(base)
        page.until(lambda: "needs the address with the token" in page.text("#lost"))
        assert page.text("#models") == ""
        # A foreign page, with the right token even: the browser asks leave for the header first, and gets none.
        browser.get("data:text/html,<title>evil</title>")
        script = """
            const [url, token, done] = arguments;
            fetch(url + "api/order", {method: "POST", headers: {"X-Fast-Router-Token": token},
                  body: JSON.stringify({action: "rest", target: "m1", model: "m"})})
                .then((answer) => done(String(answer.status)), (error) => done("blocked"));
        """
        assert browser.execute_async_script(script, base, address.partition("=")[2]) == "blocked"
        assert router.deployments["m1"].held == 0


@pytest.mark.browser
def test_keys_filter_theme_and_a_narrow_screen(router, browser):
    from selenium.webdriver.common.keys import Keys

    page = Page(browser)
    with dashboard("--read-only") as address:
        browser.get(address)
        page.until(lambda: "gpu2:8000" in page.text("#models"))
        assert page.all("td.act button") == []
        drawn = "return [...document.querySelectorAll('#plots canvas')].map((each) => each.getContext('2d')."
        drawn += "getImageData(0, 0, each.width, each.height).data.some(Boolean))"
        page.until(lambda: browser.execute_script(drawn) == [True] * 4)
        before = browser.execute_script("return document.documentElement.dataset.theme")
        body = browser.find_element("tag name", "body")
        body.send_keys("t")
        page.until(lambda: browser.execute_script("return document.documentElement.dataset.theme") != before)
        body.send_keys("/")
        browser.switch_to.active_element.send_keys("gpu2")
        page.until(lambda: "gpu1:8000" not in page.text("#models"))
        assert "gpu2:8000" in page.text("#models")
        browser.switch_to.active_element.send_keys(Keys.ESCAPE)
        page.until(lambda: "gpu1:8000" in page.text("#models"))
        for width in (1600, 1400, 1300, 1100, 1001, 700, 360):
            browser.set_window_size(width, 900)
            page.until(
                lambda: browser.execute_script(
                    "return document.documentElement.scrollWidth <= document.documentElement.clientWidth + 1"
                ),
                10,
            )
            wide = browser.execute_script("return document.querySelector('#models td.why').clientWidth")
            assert wide >= 160, f"{wide} px are left for the reason at a width of {width}"


@pytest.mark.browser
def test_the_page_says_why_how_long_requests_waited_and_what_caches_held(runtime, browser):
    router = AdvancedRouter(
        "cache_aware",
        model_list=[{"model_name": "why", "id": f"w{i}", "endpoint": f"gpu{i}:8000"} for i in range(3)],
    )
    router.rest("w1", 300)
    tally.waited("why", 0.2, served=True)
    process_status.start()
    page = Page(browser)
    with dashboard() as address:
        browser.get(address)
        page.until(lambda: "why · 1\tp50" in page.text("#waits"))
        page.press("button[aria-label='explain why']")
        page.until(lambda: "2 of 3 may be picked now" in page.text("#explain-text"))
        assert "Chosen by cache aware" in page.text("#explain-text")
        told = page.text("#explain tbody tr")
        assert re.search(r"gpu1:8000\s+w1\s+no\s.*rests for \d+\.\d s more: by order", told, re.DOTALL)
        assert re.search(r"gpu0:8000\s+w0\s+yes", told)
        page.press("#explain button")
        page.until(lambda: not browser.execute_script("return document.getElementById('explain').open"))
        severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert severe == []


def test_a_thousand_deployments_are_shown_cut_and_searched(runtime, browser):
    router = router_of([f"model-{i:02d}" for i in range(20)], 50)
    router.rest("model-073"[:8] + "17", 300)
    process_status.start()
    page = Page(browser)
    with dashboard() as address:
        browser.get(address)
        page.until(lambda: "of 1000" in page.text("#tiles"))
        assert "999" in page.text("#tiles")
        assert "gpu17:8000 · model-07" in page.text("#trouble")
        assert page.text("#models h2").split()[0] == "model-07"
        browser.find_element("id", "filter").send_keys("gpu49")
        page.until(lambda: page.text("#models td.server span").split() == ["gpu49:8000"] * 20)


@pytest.mark.browser
def test_a_rollouts_arms_stand_side_by_side(router, browser, monkeypatch):
    arms = Arms("litellm", "fast_router", Assignment(0.5, "", random.Random(1)), "latency", time.time)
    for number in range(200):
        arms.ended(arms.new if number % 2 else arms.old, 0.1 if number % 2 else 0.4, attempts={"m0": 1})
    monkeypatch.setattr(report, "_rollout", lambda: {"rollout": {"rollout": 50.0, **arms.report()}})
    page = Page(browser)
    with dashboard() as address:
        browser.get(address)
        page.until(lambda: "Rollout: 50 % of the requests" in page.text("#rollouts"))
        rows = [row.split() for row in page.text("#rollouts tbody tr").splitlines()]
        assert [row[:4] for row in rows] == [["litellm", "100", "0", "0"], ["fast_router", "100", "0", "0"]]
        assert "fast_router has less latency than litellm" in page.text("#rollouts p")
        assert "both arms share the servers" in page.text("#rollouts p")
        monkeypatch.undo()
        page.until(lambda: page.text("#rollouts") == "")
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
