"""Whatever arrives at the socket, the page, the file of holds or Redis: nothing breaks, and nothing is executed."""

from __future__ import annotations

import gc
import json
import shutil
import socket
import tempfile
import time
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fast_router
from fast_router import AdvancedRouter, operator_holds
from fast_router.errors import ConfigurationError
from fast_router.observe import process_status
from fast_router.observe.dashboard import Access, app
from fast_router.observe.orders import seconds_of

KEY = "sk-secret-of-the-test"
HOST = "127.0.0.1:8787"
ACCESS = Access({HOST}, token="the-right-token-of-the-test")
FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

numbers = st.one_of(st.integers(), st.floats(), st.just(10**400), st.just(1e300), st.just(-1e300))
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)
questions = st.fixed_dictionaries(
    {
        "do": st.one_of(
            st.sampled_from(["status", "holds", "wake", "explain", "trace", "history", "metrics", "settings"]),
            json_values,
        )
    },
    optional=dict.fromkeys(
        ("lift", "ids", "by", "model", "tokens", "exclude", "on", "off", "sum", "problem"), json_values
    ),
)
rows = st.fixed_dictionaries(
    {"action": st.one_of(st.sampled_from(["rest", "drain", "weight"]), json_values)},
    optional={
        **{key: st.one_of(st.sampled_from(["gpu0:8000", "d1", "m"]), json_values) for key in ("id", "server", "model")},
        **{key: st.one_of(numbers, json_values) for key in ("weight", "at", "until")},
        "by": st.one_of(st.text(), json_values),
    },
)


@pytest.fixture(scope="module")
def router():
    path = Path(tempfile.mkdtemp(prefix="fr-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAST_ROUTER_RUNTIME_DIR", str(path))
        patch.setenv("FAST_ROUTER_CELERY_BROKER_URL", f"amqp://user:{KEY}@broker//")
        patch.setenv("FAST_ROUTER_ROUTER_SETTINGS", f"{{redis_password: {KEY}}}")
        fast_router.settings.reset()
        gc.collect()
        made = AdvancedRouter(
            "least_busy",
            model_list=[
                {
                    "model_name": "m",
                    "model_info": {"id": f"d{i}"},
                    "litellm_params": {
                        "model": "openai/x",
                        "api_base": f"http://gpu{i}:8000/v1?k={KEY}",
                        "api_key": KEY,
                    },
                }
                for i in range(3)
            ],
        )
        assert process_status.start()
        yield made
        process_status.stop()
        operator_holds.replace("file", [])
    fast_router.settings.reset()
    shutil.rmtree(path, ignore_errors=True)


def send(raw: bytes) -> dict:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(60)
        connection.connect(str(process_status._state.path))
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        parts = []
        while part := connection.recv(1 << 20):
            parts.append(part)
    answer = b"".join(parts)
    assert KEY.encode() not in answer
    found = json.loads(answer)
    assert isinstance(found, dict)
    return found


def assert_well(router):
    found = send(b"")
    assert "error" not in found
    assert [len(group["deployments"]) for each in found["routers"] for group in each["models"].values()] == [3]
    assert all(deployment.held == 0 for deployment in router.deployments.values())


@FEW
@given(question=questions)
def test_every_question_is_answered_with_an_object(router, question):
    send(json.dumps(question).encode() + b"\n")
    send(json.dumps({"do": "trace", "off": True}).encode() + b"\n")
    assert_well(router)


@FEW
@given(raw=st.one_of(st.binary(max_size=300), json_values.map(lambda value: json.dumps(value).encode())))
def test_what_is_no_question_is_told_so(router, raw):
    answer = send(raw)
    try:
        is_question = isinstance(json.loads(raw.partition(b"\n")[0] or b"{}"), dict)
    except (ValueError, RecursionError):
        is_question = False
    if not is_question:
        assert answer["error"] == "a question is one line of JSON, an object"


def test_settings_are_answered_without_the_secrets_in_them(router):
    answer = send(b'{"do": "settings"}')
    assert answer["settings"]["router_settings"] == {"value": "set, not shown", "from": "FAST_ROUTER_ROUTER_SETTINGS"}
    assert answer["settings"]["celery_broker_url"]["from"] == "FAST_ROUTER_CELERY_BROKER_URL"


@pytest.mark.parametrize("raw", [b"[" * 60_000, b'{"do":' * 9000, b"x" * 60_000, b'{"do": [1]}', b'{"do": {}}'])
def test_deep_long_and_wrong_questions_are_refused(router, raw):
    assert send(raw + b"\n")["error"]
    assert_well(router)


def test_a_slow_asker_keeps_the_others_waiting_for_a_second_at_the_most(router):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow:
        slow.connect(str(process_status._state.path))
        slow.settimeout(60)
        slow.setblocking(False)
        end = time.monotonic() + 60
        answer = b""
        while not answer:
            assert time.monotonic() < end
            try:
                slow.send(b" ")
                answer = slow.recv(65536)
            except BlockingIOError:
                time.sleep(0.2)
            except OSError:
                break  # it was shown the door
    assert_well(router)


@FEW
@given(found=st.lists(rows, max_size=3))
def test_no_order_breaks_the_status_wherever_it_came_from(router, found):
    fields = {f"f{number}": json.dumps(row) for number, row in enumerate(found)}
    holds, _ = operator_holds.from_fields(fields)
    assert operator_holds.parse({"holds": found}) == holds
    operator_holds.replace("fleet of the test", holds)
    try:
        answer = send(b"")
        assert "error" not in answer
        shown = [row["reason"] or "" for each in answer["routers"] for row in each["models"]["m"]["deployments"]]
        assert all(reason.isprintable() for reason in shown)
    finally:
        operator_holds.replace("fleet of the test", [])
    assert_well(router)


@pytest.mark.parametrize("field", ["1", "[" * 100_000, b"\xff", None, "nonsense"])
def test_a_broken_field_of_redis_is_passed_over(field):
    good = operator_holds.Hold("rest", id="d1", by="an operator", at=1.0)
    holds, over = operator_holds.from_fields({"a": field, "b": operator_holds.row_of(good)})
    assert (holds, over) == ([good], [])


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 4000,
        b"{" * 100_000,
        json.dumps({"action": "rest", "target": "d1", "seconds": float("nan")}).encode(),
        json.dumps({"action": "rest", "target": "d1", "seconds": 1e300}).encode(),
        json.dumps({"action": "rest", "target": "d1", "seconds": 10**400}).encode(),
        json.dumps({"action": ["rest"], "target": "d1"}).encode(),
        json.dumps({"action": {}, "target": "d1"}).encode(),
    ],
)
async def test_the_page_takes_no_wild_order(router, body):
    headers = {"X-Fast-Router-Token": ACCESS.token, "Host": HOST}
    transport = httpx.ASGITransport(app(ACCESS))
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}", headers=headers) as asking:
        assert (await asking.post("/api/order", content=body)).status_code == 400
        strange = await asking.get("/api/explain", params={"model": "\x00" * 2000})
    assert strange.json() == {"explained": []}
    assert_well(router)


def test_a_hold_ends_within_ten_years_or_never():
    assert seconds_of("3650d") == 3650 * 86400
    with pytest.raises(ConfigurationError, match="longer than ten years"):
        seconds_of("99999999999d")
