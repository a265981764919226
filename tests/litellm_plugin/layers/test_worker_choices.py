"""Celery routing around the requests of a Router, on every LiteLLM: a real worker, real servers, real requests."""

from __future__ import annotations

import asyncio
import gc

import pytest
import redis

import fast_router
from fast_router import settings
from fast_router.celery_routing import process
from fast_router.celery_routing.envelope import Keys
from fast_router.celery_routing.settings import Candidate
from fast_router.litellm_plugin.bands.contract import Seam
from fast_router.litellm_plugin.bands.methods import litellm_version, numbers_of
from fast_router.litellm_plugin.switch import switch
from fast_router.testing import Fleet, Spec
from tests.celery_routing.help import Worker, settings_for
from tests.litellm_plugin.layers.test_every_endpoint import CALLS, IDS, arguments
from tests.support.plugin import MESSAGES, asynchronous, calm, core_of, discard, entry, in_flight, picks, router
from tests.support.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.slow]

IDS_OF = ("d0", "d1", "d2")
ONE_EACH = {"max_parallel_requests": 1}

# Synchronous embeddings and images tell their pick nothing of the request before 1.100.
SYNC_PICKS_KNOW_THE_REQUEST = numbers_of(litellm_version()) >= (1, 100)


@pytest.fixture(scope="module")
def fleet():
    kinds = ("openai", "vllm", "mistral")
    with Fleet([Spec(name=f"{kind}-{n}", kind=kind) for kind in kinds for n in range(3)]) as running:
        yield running


def servers_of(fleet, kind="openai"):
    return calm(fleet[f"{kind}-{n}"] for n in range(3))


class Asking:
    """The process's Celery routing, and what became of the reservations."""

    def __init__(self, settings):
        self.settings = settings
        self.client = redis.Redis.from_url(settings.redis_url)

    @property
    def routing(self):
        return process.process_routing()

    def stats(self):
        return self.routing.stats()

    def reserved(self, ids=IDS_OF):
        return sum(self.client.zcard(Keys(self.settings).load(id_)) for id_ in ids)

    async def others_take(self, *ids):
        """Let other processes of the fleet have the only slots of these: nobody here knows."""
        return [await self.routing.decide("elsewhere", [Candidate(id_)]) for id_ in ids]

    async def nothing_left(self, *routers):
        """Every slot came back, here and in the fleet."""

        def none():
            gc.collect()
            return self.stats()["held"] == self.reserved() == sum(map(in_flight, routers)) == 0

        await until(none, told=lambda: f"{self.stats()}, {self.reserved()} reserved, {list(map(in_flight, routers))}")


@pytest.fixture(scope="module")
def celery(rabbit_server, redis_server):
    """Settings of their own, a worker that goes by them, and the plugin with Celery routing."""
    own = settings_for(rabbit_server.url, redis_server.url)
    with Worker(own):
        fast_router.disable()
        settings.reset()
        fast_router.configure(**options_for(own))
        assert fast_router.enable()
        yield own
        fast_router.disable()
        settings.reset()
        fast_router.enable()


def options_for(own, **options):
    return {
        "routing": "celery",
        "celery_broker_url": own.broker_url,
        "redis_url": own.redis_url,
        "celery_queue_prefix": own.queue_prefix,
        "celery_key_prefix": own.key_prefix,
        "shared_state": False,
        # A slow machine may take a while to give a slot back.
        "celery_max_retries": 1000,
        "celery_deadline": 60.0,
        "celery_retry_countdown": 0.01,
        **options,
    }


@pytest.fixture
async def ask(request, celery, monkeypatch):
    """A routing of the test's own; `@pytest.mark.parametrize("ask", [{…}], indirect=True)` gives it options."""
    settings.reset()
    fast_router.configure(**options_for(celery, **getattr(request, "param", {})))
    monkeypatch.setattr(process, "_routing", None)
    found = Asking(celery)
    for key in found.client.keys(Keys(celery).load("*")):
        found.client.delete(key)
    assert await found.routing.start(60)
    before = fast_router.status()["errors"]["count"]
    yield found
    await found.routing.close()
    found.client.close()
    discard()
    assert fast_router.status()["errors"]["count"] == before, fast_router.status()["errors"]


async def answer(made, endpoint, *, sync, **more):
    if not sync:
        found = await getattr(made, endpoint.name)(model="m", **arguments(endpoint), **more)
        return [chunk async for chunk in found] if endpoint.stream else found

    def call():
        found = getattr(made, endpoint.name[1:])(model="m", **arguments(endpoint), **more)
        return list(found) if endpoint.stream else found

    return await asyncio.to_thread(call)


@pytest.fixture
async def imported(celery, fleet, endpoint, sync):
    """What LiteLLM needs for an endpoint: the loop may stand still for that until a broker hangs up."""
    settings.reset()  # nobody is asked
    servers = servers_of(fleet, endpoint.kind)
    assert await answer(three(servers, each={"model": f"{endpoint.provider}/test-model"}), endpoint, sync=sync)
    discard()


def three(servers, *, each=None, **options):
    return router(*(entry(f"d{n}", server.api_base, **(each or {})) for n, server in enumerate(servers)), **options)


async def chat(made, **more):
    return await made.acompletion("m", MESSAGES, **more)


async def called(made, *, sync, **more):
    return await (asyncio.to_thread(made.completion, "m", MESSAGES, **more) if sync else chat(made, **more))


def counted(picks):
    return picks["fast"] + picks["filtered"] + picks["delegated"]


def served(servers):
    return [server.records.requests for server in servers]


@pytest.mark.parametrize(("endpoint", "sync"), CALLS, ids=IDS)
async def test_every_kind_of_request_goes_where_the_worker_says(imported, ask, fleet, endpoint, sync):
    if sync and endpoint.name in {"aembedding", "aimage_generation"} and not SYNC_PICKS_KNOW_THE_REQUEST:
        pytest.skip("a pick of this LiteLLM's that says nothing of its request is made here")
    servers = servers_of(fleet, endpoint.kind)
    made = three(servers, each={"model": f"{endpoint.provider}/test-model", **ONE_EACH})
    busy = await ask.others_take("d0", "d2")
    before, granted = picks(), ask.stats()["granted"]
    for _ in range(2):
        assert await answer(made, endpoint, sync=sync)
    assert served(servers) == [0, 2, 0]
    assert ask.stats()["granted"] == granted + 2
    assert counted(picks()) == counted(before) + 2, "each pick is counted once"
    for grant in busy:
        grant.release()
    await ask.nothing_left(made)


@pytest.mark.parametrize(
    "options",
    [
        {"routing_strategy": "least-busy"},
        {"routing_strategy": "latency-based-routing"},
        {"routing_strategy": "usage-based-routing-v2"},
        {"routing_strategy": "power_of_two"},
        {"model_group_alias": {"alias": "m"}},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
async def test_whatever_the_strategy_the_worker_chooses(ask, fleet, options):
    servers = servers_of(fleet)
    made = three(servers, each=ONE_EACH, **options)
    busy = await ask.others_take("d1", "d2")
    name = "alias" if "model_group_alias" in options else "m"
    await made.acompletion(name, MESSAGES)
    await asyncio.to_thread(made.completion, name, MESSAGES)
    assert served(servers) == [2, 0, 0]
    for grant in busy:
        grant.release()
    await ask.nothing_left(made)


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("strategy", ["simple-shuffle", "least-busy"])
async def test_a_retry_asks_the_worker_for_somebody_else(ask, fleet, strategy, sync):
    servers = servers_of(fleet)
    for server in servers:
        server.order(error_rate=1.0)
    made = three(servers, num_retries=2, disable_cooldowns=True, routing_strategy=strategy)
    with pytest.raises(Exception, match="Error"):
        await called(made, sync=sync)
    assert served(servers) == [1, 1, 1]
    assert ask.stats()["granted"] == 3
    await ask.nothing_left(made)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_is_cancelled_gives_its_slot_back(ask, fleet, stream):
    servers = servers_of(fleet)
    for server in servers:
        server.order(hold=True)
    made = three(servers)
    asked = [asyncio.create_task(chat(made, stream=stream)) for _ in range(6)]
    await until(lambda: sum(server.records.in_flight for server in servers) == 6)
    assert ask.stats()["held"] == ask.reserved() == in_flight(made) == 6
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await ask.nothing_left(made)


async def test_a_request_that_is_cancelled_while_the_worker_is_asked_holds_nothing(ask, fleet):
    servers = servers_of(fleet)
    made = three(servers, each={"max_parallel_requests": 1})
    taken = [await ask.routing.decide("m", [Candidate(id_)]) for id_ in IDS_OF]
    asked = asyncio.create_task(chat(made))
    await until(lambda: ask.stats()["retries"])
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert served(servers) == [0, 0, 0]
    for grant in taken:
        grant.release()
    await ask.nothing_left(made)


async def test_a_stream_that_is_closed_gives_its_slot_back(ask, fleet):
    servers = servers_of(fleet)
    made = three(servers)
    found = await chat(made, stream=True)
    await anext(aiter(found))
    assert ask.stats()["held"] == 1
    await found.aclose()
    del found
    await ask.nothing_left(made)


@pytest.mark.parametrize("ask", [{"celery_max_retries": 1}], indirect=True)
@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("strategy", ["simple-shuffle", "least-busy"])
async def test_where_the_fleet_is_at_its_limit_the_caller_reads_503(ask, fleet, strategy, sync):
    servers = servers_of(fleet)
    made = three(servers, each={"max_parallel_requests": 1}, routing_strategy=strategy)
    taken = [await ask.routing.decide("m", [Candidate(id_)]) for id_ in IDS_OF]
    with pytest.raises(Exception, match="Model is too busy") as met:
        await called(made, sync=sync)
    assert met.value.status_code == 503
    assert served(servers) == [0, 0, 0]
    for grant in taken:
        grant.release()
    await until(lambda: ask.reserved() == 0)
    await chat(made)  # nobody rests for that
    await ask.nothing_left(made)


@pytest.mark.parametrize("ask", [{"celery_soft_time_limit": 0.05, "celery_max_retries": 1000}], indirect=True)
async def test_whoever_waits_too_long_reads_504(ask, fleet):
    made = three(servers_of(fleet), each={"max_parallel_requests": 1})
    taken = [await ask.routing.decide("m", [Candidate(id_)]) for id_ in IDS_OF]
    with pytest.raises(Exception, match="became free") as met:
        await chat(made)
    assert met.value.status_code == 504
    for grant in taken:
        grant.release()
    await ask.nothing_left(made)


@pytest.mark.parametrize("ask", [{"celery_max_retries": 0}], indirect=True)
@pytest.mark.parametrize("sync", [False, True])
async def test_a_fallback_is_asked_for_where_the_model_is_too_busy(ask, fleet, sync):
    first, second, _ = servers = servers_of(fleet)
    made = router(
        entry("d0", first.api_base, max_parallel_requests=1),
        entry("d1", second.api_base, name="spare"),
        fallbacks=[{"m": ["spare"]}],
    )
    taken = await ask.routing.decide("m", [Candidate("d0")])
    await called(made, sync=sync)
    assert served(servers) == [0, 1, 0]
    assert ask.stats()["granted"] == 2
    taken.release()
    await ask.nothing_left(made)


@pytest.mark.parametrize("sync", [False, True])
async def test_a_choice_that_litellm_filters_out_is_given_back(ask, fleet, sync):
    servers = servers_of(fleet)
    entries = [entry(f"d{n}", server.api_base, tags=["free" if n == 2 else "paid"]) for n, server in enumerate(servers)]
    made = router(*entries, enable_tag_filtering=True)
    for _ in range(6):
        await called(made, sync=sync, metadata={"tags": ["free"]})
    if not sync:  # LiteLLM's tags are of its asynchronous picks alone
        assert served(servers) == [0, 0, 6]
    assert ask.stats()["granted"] == 6
    await ask.nothing_left(made)


async def test_a_pick_without_a_call_is_the_workers_and_holds_nothing(ask, fleet):
    made = three(servers_of(fleet), each=ONE_EACH)
    busy = await ask.others_take("d0", "d1")
    found = await asynchronous(made)(model="m", messages=MESSAGES, request_kwargs={})
    assert found["model_info"]["id"] == "d2"
    alone = core_of(made).get_available_deployment
    found = await asyncio.to_thread(alone, model="m", messages=MESSAGES, request_kwargs={})
    assert found["model_info"]["id"] == "d2"
    for grant in busy:
        grant.release()
    await ask.nothing_left(made)


async def test_a_deployment_that_is_asked_for_by_its_id_is_not_chosen(ask, fleet):
    servers = servers_of(fleet)
    made = three(servers)
    await made.acompletion("d1", MESSAGES)
    assert served(servers) == [0, 1, 0]
    assert ask.stats()["granted"] == 0


@pytest.mark.parametrize("ask", [{"hedge_percent": 100.0, "hedge_delay": 0.01}], indirect=True)
async def test_a_hedge_asks_for_somebody_else_too(ask, fleet):
    servers = servers_of(fleet)
    for server in servers:
        server.order(hold=True)
    made = three(servers)
    asked = asyncio.create_task(chat(made))
    await until(lambda: sum(served(servers)) == 2)
    assert sorted(served(servers)) == [0, 1, 1]
    assert ask.stats()["granted"] == ask.stats()["held"] == 2
    for server in servers:
        server.order(hold=False)
    assert await asked
    await ask.nothing_left(made)


@pytest.mark.parametrize("ask", [{"celery_deadline": 0.3}], indirect=True)
async def test_without_a_worker_for_the_model_each_request_is_picked_here_once(ask, fleet, monkeypatch):
    monkeypatch.setattr(ask.routing, "_announce", lambda *_: None)  # no worker hears of it
    servers = servers_of(fleet)
    made = router(*(entry(f"d{n}", server.api_base, name="unheard") for n, server in enumerate(servers)))
    for _ in range(6):
        await made.acompletion("unheard", MESSAGES)
    await asyncio.to_thread(made.completion, "unheard", MESSAGES)
    assert sum(served(servers)) == 7
    assert sum(ask.stats()["local"].values()) == 7
    assert ask.stats()["granted"] == 0
    await ask.nothing_left(made)


async def test_a_name_that_a_pattern_matches_is_picked_here(ask, fleet):
    server, *_ = servers_of(fleet)
    made = router(entry("w", server.api_base, name="openai/*", model="openai/*"))
    await made.acompletion("openai/anything", MESSAGES)
    assert ask.stats()["granted"] == 0
    assert ask.stats()["local"] == {}


def left_for_celery():
    return fast_router.status()["lane"]["left_reasons"].get("Celery routing", 0)


async def test_no_request_goes_past_the_worker_and_the_reason_is_counted(ask, fleet):
    if Seam.WALK not in switch.band.seams:
        pytest.skip("this LiteLLM has no lane for whole requests")
    made = three(servers_of(fleet))
    before, why = picks()["request_lane"], left_for_celery()
    for sync in (False, True):
        await called(made, sync=sync)
    assert picks()["request_lane"] == before
    assert left_for_celery() == why + 2
    # Switched to local decisions while it runs, requests take the lane again.
    fast_router.configure(routing="local")
    await chat(made)
    assert picks()["request_lane"] == before + 1
    assert ask.routing is None
    fast_router.configure(routing="celery")
    await chat(made)
    assert picks()["request_lane"] == before + 1


def test_it_is_on_and_says_so(ask):
    status = fast_router.status()
    assert "celery_routing" in status["features"]
    assert "celery_routing" not in status["skipped"]
    assert status["celery"]["connected"]


async def test_no_request_is_lost_when_the_worker_and_then_the_broker_die(own_rabbit, celery, fleet, monkeypatch):
    own = settings_for(own_rabbit.url, celery.redis_url)
    settings.reset()
    fast_router.configure(**options_for(own, celery_deadline=2.0))
    monkeypatch.setattr(process, "_routing", None)
    ask = Asking(own)
    made, errors, stop = three(servers_of(fleet)), [], asyncio.Event()

    async def load():
        while not stop.is_set():
            try:
                await chat(made)
            except Exception as error:
                errors.append(error)
            await asyncio.sleep(0.005)

    async def more(what):
        def found():
            stats = ask.stats()
            return stats["granted"] if what == "granted" else sum(stats["local"].values())

        before = found()
        await until(lambda: found() > before + 5)

    first = Worker(own)
    callers = [asyncio.create_task(load()) for _ in range(3)]
    try:
        assert await ask.routing.start(60)
        await more("granted")
        first.kill()
        await more("local")
        with Worker(own):
            await more("granted")
            own_rabbit.kill()
            await more("local")
            await asyncio.to_thread(own_rabbit.start)
            await more("granted")
            stop.set()
            await asyncio.gather(*callers)
            assert errors == []
            await ask.nothing_left(made)
    finally:
        stop.set()
        first.stop()
        await asyncio.gather(*callers)
        await ask.routing.close()
        ask.client.close()
        discard()
