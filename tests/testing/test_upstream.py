"""The upstreams over real HTTP: every format they speak, every fault they can be ordered to have."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import socket
import struct
import subprocess
import sys
import wave
from io import BytesIO

import httpx
import pytest

from fast_router.errors import ConfigurationError
from fast_router.testing import SHAPES, Behaviour, Fleet, Rule, Spec, Upstream
from fast_router.testing.server import UpstreamServer

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello there"}]}


@pytest.fixture
def client():
    with httpx.Client(timeout=20, trust_env=False) as one:
        yield one


def post(client, upstream, path="/v1/chat/completions", **body):
    return client.post(upstream.url + path, json={**CHAT, **body})


def events(text: str) -> list:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_chat_answers_with_text_and_usage(client):
    with Upstream(tokens=3) as upstream:
        body = post(client, upstream).json()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "route every request"}
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert body["model"] == "m"


def test_chat_streams_one_event_a_token_then_the_usage(client):
    with Upstream(tokens=3) as upstream:
        answer = post(client, upstream, stream=True, stream_options={"include_usage": True})
        records = upstream.wait_for(lambda seen: seen.in_flight == 0)
    assert answer.headers["content-type"].startswith("text/event-stream")
    chunks = events(answer.text)
    assert [c["choices"][0]["delta"].get("content") for c in chunks[:3]] == ["route", " every", " request"]
    assert chunks[3]["choices"][0]["finish_reason"] == "stop"
    assert chunks[4]["choices"] == []
    assert chunks[4]["usage"]["completion_tokens"] == 3
    assert (records.tokens, records.served) == (3, 1)


def test_a_smaller_max_tokens_wins(client):
    with Upstream(tokens=8) as upstream:
        assert post(client, upstream, max_tokens=2).json()["usage"]["completion_tokens"] == 2
        assert post(client, upstream, max_tokens=99).json()["usage"]["completion_tokens"] == 8


def test_completions_embeddings_responses(client):
    with Upstream() as upstream:
        assert (
            post(client, upstream, "/v1/completions", prompt="a", max_tokens=1).json()["choices"][0]["text"] == "route"
        )
        streamed = post(client, upstream, "/v1/completions", prompt="a", stream=True, max_tokens=2)
        assert "".join(c["choices"][0]["text"] for c in events(streamed.text)) == "route every"

        plain = post(client, upstream, "/v1/embeddings", input=["a", "b", "a"]).json()["data"]
        assert plain[0]["embedding"] == plain[2]["embedding"] != plain[1]["embedding"]
        packed = post(client, upstream, "/v1/embeddings", input="a", encoding_format="base64", dimensions=4)
        assert len(struct.unpack("<4f", base64.b64decode(packed.json()["data"][0]["embedding"]))) == 4

        assert post(client, upstream, "/v1/responses", input="a").json()["status"] == "completed"
        streamed = post(client, upstream, "/v1/responses", input="a", stream=True, max_output_tokens=2).text
        kinds = [line[7:] for line in streamed.splitlines() if line.startswith("event: ")]
        assert kinds == [
            "response.created",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.completed",
        ]


def test_audio_and_images(client):
    with Upstream() as upstream:
        heard = client.post(
            upstream.url + "/v1/audio/transcriptions", data={"model": "w"}, files={"file": ("a.wav", b"x")}
        )
        assert heard.json()["text"].startswith("route")
        assert upstream.records.seen[-1].model == "w"
        spoken = post(client, upstream, "/v1/audio/speech", input="a")
        with wave.open(BytesIO(spoken.content)) as sound:
            assert sound.getnframes() == 800
        pictures = post(client, upstream, "/v1/images/generations", n=2).json()["data"]
        assert [base64.b64decode(one["b64_json"])[:4] for one in pictures] == [b"\x89PNG"] * 2


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_vllm_reranks_like_cohere(client, path):
    with Upstream("vllm") as upstream:
        asked = {"query": "blue sky", "documents": ["red", "blue sky", "blue"], "top_n": 2}
        results = post(client, upstream, path, **asked).json()["results"]
    assert [(one["index"], one["relevance_score"]) for one in results] == [(1, 1.0), (2, 0.5)]
    assert results[0]["document"] == {"text": "blue sky"}


def test_tei_reranks_to_a_bare_list_and_tells_about_itself(client):
    with Upstream("tei", models=["bge"]) as upstream:
        results = post(client, upstream, "/rerank", query="blue sky", texts=["red", "blue sky"]).json()
        assert results == [{"index": 1, "score": 1.0}, {"index": 0, "score": 0.0}]
        assert client.get(upstream.url + "/info").json()["model_id"] == "bge"
        assert post(client, upstream).status_code == 404  # no chat here


def test_albert_reranks_in_both_of_its_ways_and_is_too_busy_with_503(client):
    with Upstream("albert", slots=1, queue=0, hold=True) as upstream, concurrent.futures.ThreadPoolExecutor() as pool:
        held = pool.submit(post, client, upstream)
        upstream.wait_for(lambda seen: seen.serving == 1)
        busy = post(client, upstream)
        upstream.order(hold=False)
        assert held.result().status_code == 200
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "10")
        assert busy.json()["error"]["message"] == "Model is too busy, please try again later."
        old = post(client, upstream, "/v1/rerank", prompt="blue", input=["red", "blue"]).json()
        assert [one["index"] for one in old["data"]] == [1, 0]
        new = post(client, upstream, "/v1/rerank", query="blue", documents=["red", "blue"]).json()
        assert [one["index"] for one in new["results"]] == [1, 0]


def test_mistral_reads_pages(client):
    with Upstream("mistral") as upstream:
        assert post(client, upstream, "/v1/ocr").json()["pages"][0]["markdown"].startswith("route")


def test_every_shape_is_healthy_and_lists_its_models_if_its_kind_does(client):
    for name, shape in SHAPES.items():
        with Upstream(name, models=["a", "b"]) as upstream:
            assert client.get(upstream.url + "/health").status_code == 200
            models = client.get(upstream.url + "/v1/models")
            assert (models.status_code == 200) is shape.models
            if shape.models:
                listed = models.json()["data"]
                assert [one["id"] for one in listed] == ["a", "b"]
                assert listed[0].get("max_model_len") == shape.max_model_len
            upstream.order(healthy=False)
            assert client.get(upstream.url + "/health").status_code == 503


def gauges(client, upstream) -> dict[str, float]:
    text = client.get(upstream.url + "/metrics").text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.split("{")[0].split()[0]: float(line.split()[-1]) for line in lines}


def test_vllm_metrics_follow_the_load(client):
    with Upstream("vllm", slots=2, hold=True) as upstream, concurrent.futures.ThreadPoolExecutor() as pool:
        calls = [pool.submit(post, client, upstream) for _ in range(3)]
        upstream.wait_for(lambda seen: seen.in_flight == 3 and seen.waiting == 1)
        shown = gauges(client, upstream)
        assert shown == {
            "vllm:num_requests_running": 2,
            "vllm:num_requests_waiting": 1,
            "vllm:kv_cache_usage_perc": 1,
        }
        upstream.order(hold=False, kv_cache_usage=0.25, background_running=7, background_waiting=5)
        assert [call.result().status_code for call in calls] == [200] * 3
        assert list(gauges(client, upstream).values()) == [7, 5, 0.25]


# -- faults ---------------------------------------------------------------------------------------------


def test_errors_and_429_carry_what_was_ordered(client):
    with Upstream(script=("error", "throttle", "ok"), error_status=503, retry_after=7) as upstream:
        answers = [post(client, upstream) for _ in range(3)]
        assert [one.status_code for one in answers] == [503, 429, 200]
        assert [one.headers.get("retry-after") for one in answers] == ["7", "7", None]
        assert upstream.records.faults == {"error": 1, "throttle": 1, "ok": 1}
        assert upstream.records.statuses == {"503": 1, "429": 1, "200": 1}


def test_a_reset_is_a_reset(client):
    with Upstream(script=("reset",)) as upstream:
        with pytest.raises(httpx.ReadError):
            post(client, upstream)
        with socket.create_connection(("127.0.0.1", upstream.port)) as raw:
            upstream.order(script=("reset",))
            raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
            with pytest.raises(ConnectionResetError):
                raw.recv(1)


def test_a_cut_ends_the_answer_in_the_middle(client):
    with Upstream(script=("cut", "cut"), tokens=5, cut_after=2) as upstream:
        with pytest.raises(httpx.HTTPError):
            post(client, upstream)
        got = []
        with (
            pytest.raises(httpx.HTTPError),
            client.stream("POST", upstream.url + "/v1/chat/completions", json={**CHAT, "stream": True}) as answer,
        ):
            got.extend(answer.iter_lines())
        assert upstream.wait_for(lambda seen: seen.in_flight == 0).tokens == 2
        assert not any("[DONE]" in line for line in got)


def test_garbage_is_no_json(client):
    with Upstream(script=("garbage", "garbage"), tokens=2) as upstream:
        answer = post(client, upstream)
        assert answer.status_code == 200
        with pytest.raises(json.JSONDecodeError):
            answer.json()
        assert "<html>" in post(client, upstream, stream=True).text


def test_a_rule_orders_for_the_requests_it_covers_alone(client):
    rules = [
        Rule({"error_rate": 1.0, "error_status": 503}, contains="poison"),
        Rule({"error_rate": 1.0, "error_status": 401}, key="mine"),
        Rule({"throttle_rate": 1.0, "retry_after": 600}, user="eve", header="x-end-user"),
    ]
    key = {"authorization": "Bearer mine"}
    with Upstream(rules=rules) as upstream:
        assert post(client, upstream).status_code == 200
        assert post(client, upstream, messages=[{"role": "user", "content": "a poison prompt"}]).status_code == 503
        url = upstream.url + "/v1/chat/completions"
        assert client.post(url, json=CHAT, headers=key).status_code == 401
        assert post(client, upstream, user="eve").status_code == 200
        throttled = client.post(url, json={**CHAT, "user": "eve"}, headers={"x-end-user": "1"})
        assert (throttled.status_code, throttled.headers["retry-after"]) == (429, "600")
        upstream.order(rules=[Rule({"error_rate": 1.0}, other_key="mine")])
        assert [post(client, upstream).status_code, client.post(url, json=CHAT, headers=key).status_code] == [500, 200]


def test_a_rule_holds_some_and_lets_others_pass(client):
    with (
        Upstream(rules=[Rule({"hold": True}, user="slow")]) as upstream,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        held = pool.submit(post, client, upstream, user="slow")
        upstream.wait_for(lambda seen: seen.in_flight == 1)
        assert post(client, upstream, user="quick").status_code == 200
        assert not held.done()
        upstream.order(rules=[])
        assert held.result(10).status_code == 200


@pytest.mark.parametrize("rule", [Rule({"latency": 0.0}), {"orders": {"latency": 0.0}}], ids=["made", "plain"])
def test_a_rule_looks_the_same_as_plain_data(rule):
    assert Behaviour(**json.loads(json.dumps(Behaviour(rules=(rule,)).as_dict()))).rules == (Rule({"latency": 0.0}),)


def test_an_error_inside_a_stream_comes_after_what_was_sent(client):
    with Upstream(stream_error_rate=1.0, error_status=400, error_message="no", cut_after=1) as upstream:
        streamed = post(client, upstream, stream=True)
        whole = post(client, upstream)
    assert streamed.status_code == 200
    token, error = events(streamed.text)
    assert token["choices"][0]["delta"]["content"] == "route"
    assert (error["error"]["code"], error["error"]["message"]) == (400, "no")
    assert whole.status_code == 400


def test_a_hang_lasts_until_the_client_leaves(client):
    with Upstream(script=("hang",)) as upstream:
        with pytest.raises(httpx.ReadTimeout):
            client.post(upstream.url + "/v1/chat/completions", json=CHAT, timeout=0.2)
        records = upstream.wait_for(lambda seen: seen.in_flight == 0)
        assert (records.aborted, records.served, records.serving) == (1, 0, 0)


def test_a_client_that_leaves_a_stream_is_recorded(client):
    with Upstream(per_token=30, tokens=5) as upstream:
        with client.stream("POST", upstream.url + "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
            next(answer.iter_lines())
        records = upstream.wait_for(lambda seen: seen.in_flight == 0)
        assert (records.aborted, records.served) == (1, 0)
        assert records.seen[-1].aborted


def test_a_client_that_leaves_while_it_is_written_to_is_no_error(client, caplog, monkeypatch):
    with Upstream(tokens=5) as upstream:
        serve = UpstreamServer._serve

        async def left_already(self, request, *args, **more):
            request.transport.close()
            return await serve(self, request, *args, **more)

        monkeypatch.setattr(UpstreamServer, "_serve", left_already)
        with pytest.raises(httpx.RemoteProtocolError):
            post(client, upstream, stream=True)
        records = upstream.wait_for(lambda seen: seen.in_flight == 0)
        assert (records.aborted, records.served) == (1, 0)
        monkeypatch.undo()
        assert post(client, upstream).status_code == 200
    assert [record for record in caplog.records if record.name.startswith("aiohttp")] == []


def test_slots_make_a_line_and_widen_while_in_use(client):
    with Upstream(slots=1, hold=True) as upstream, concurrent.futures.ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(post, client, upstream) for _ in range(4)]
        upstream.wait_for(lambda seen: (seen.serving, seen.waiting) == (1, 3))
        upstream.order(slots=3)
        upstream.wait_for(lambda seen: (seen.serving, seen.waiting) == (3, 1))
        upstream.order(hold=False)
        assert [call.result().status_code for call in calls] == [200] * 4
        records = upstream.wait_for(lambda seen: seen.in_flight == 0)
        assert (records.max_in_flight, records.serving, records.waiting) == (4, 0, 0)


def test_a_client_that_leaves_the_line_leaves_no_slot_behind(client):
    with Upstream(slots=1, hold=True) as upstream, concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, client, upstream)
        upstream.wait_for(lambda seen: seen.serving == 1)
        with pytest.raises(httpx.ReadTimeout):
            client.post(upstream.url + "/v1/chat/completions", json=CHAT, timeout=0.2)
        upstream.wait_for(lambda seen: seen.waiting == 0 and seen.in_flight == 1)
        upstream.order(hold=False)
        assert first.result().status_code == 200
        assert post(client, upstream).status_code == 200


def test_the_same_seed_orders_the_same_faults(client):
    def fates(seed):
        with Upstream(seed=seed, error_rate=0.3, throttle_rate=0.3) as upstream:
            return [post(client, upstream).status_code for _ in range(40)]

    first = fates(1)
    assert first == fates(1) != fates(2)
    assert {500, 429, 200} == set(first)


def test_reset_starts_the_faults_over(client):
    with Upstream(error_rate=0.5) as upstream:
        first = [post(client, upstream).status_code for _ in range(20)]
        upstream.reset()
        assert [post(client, upstream).status_code for _ in range(20)] == first
        assert upstream.records.requests == 20


def test_latency_holds_back_the_answer_and_first_token_the_stream():
    # Long orders and short client patience: what is shown is where the wait sits, not how long it is.
    with Upstream(latency=30) as upstream, pytest.raises(httpx.ReadTimeout):
        httpx.post(upstream.api_base + "/chat/completions", json={**CHAT, "stream": True}, timeout=0.2)
    with Upstream(first_token=30) as upstream:
        body = {**CHAT, "stream": True}
        with httpx.stream("POST", upstream.api_base + "/chat/completions", json=body, timeout=0.2) as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.ReadTimeout):
                next(answer.iter_lines())


def test_a_key_is_asked_for_and_never_shown(client):
    with Upstream(api_key="sk-upstream") as upstream:
        assert post(client, upstream).status_code == 401
        right = {"Authorization": "Bearer sk-upstream"}
        assert client.post(upstream.api_base + "/chat/completions", json=CHAT, headers=right).status_code == 200
        assert upstream.records.seen[-1].headers["authorization"] == "Bearer sk-upstream"
        assert "sk-upstream" not in client.get(upstream.url + "/_control").text
        assert "sk-upstream" not in repr(upstream.records.seen[-1])


def test_unknown_models_are_refused_when_ordered(client):
    with Upstream(models=["m"], check_model=True) as upstream:
        assert post(client, upstream).status_code == 200
        assert post(client, upstream, model="other").status_code == 404


def test_a_body_that_is_no_json_is_a_400(client):
    with Upstream() as upstream:
        assert client.post(upstream.api_base + "/chat/completions", content=b"[1").status_code == 400
        assert client.post(upstream.api_base + "/chat/completions", content=b"[1]").status_code == 400


def test_a_stopped_upstream_refuses_and_comes_back_at_its_address(client):
    with Upstream() as upstream:
        assert post(client, upstream).status_code == 200
        address = upstream.url
        upstream.stop()
        with pytest.raises(httpx.ConnectError):
            post(client, upstream)
        upstream.start()
        assert upstream.url == address
        assert post(client, upstream).status_code == 200


# -- orders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orders", "named"),
    [
        ({"latency": -1}, "latency"),
        ({"latency": "fast"}, "latency"),
        ({"latency": float("nan")}, "latency"),
        ({"error_rate": 1.5}, "error_rate"),
        ({"error_rate": 0.6, "hang_rate": 0.6}, "sum"),
        ({"error_status": 200}, "error_status"),
        ({"slots": 0}, "slots"),
        ({"tokens": True}, "tokens"),
        ({"script": ("explode",)}, "explode"),
        ({"speed": 1}, "speed"),
        ({"rules": [{"orders": {"slots": 1}}]}, "slots"),
        ({"rules": [{"orders": {"error_rate": 2}}]}, "error_rate"),
    ],
)
def test_an_order_that_makes_no_sense_changes_nothing(client, orders, named):
    with Upstream(latency=0.0) as upstream:
        before = upstream.behaviour
        with pytest.raises(ConfigurationError, match=named):
            upstream.order(**{"jitter": 1, **orders})
        assert upstream.behaviour is before
        if not any(value != value for value in orders.values()):  # JSON has no NaN
            refused = client.patch(upstream.url + "/_control", json=orders)
            assert refused.status_code == 400
            assert named in refused.json()["error"]
        assert upstream.behaviour is before


def test_unknown_shapes_name_the_known():
    with pytest.raises(ConfigurationError, match="vllm"):
        Upstream("vlm")


@pytest.mark.parametrize("apart", [False, True], ids=["thread", "process"])
def test_a_fleet_looks_the_same_on_a_thread_and_in_a_process(client, apart):
    specs = [Spec(name="plain"), Spec("vllm", name="slow", behaviour=Behaviour(script=("error",)), api_key="k")]
    with Fleet(specs, subprocess=apart) as fleet:
        assert list(fleet) == ["plain", "slow"]
        assert post(client, fleet["plain"]).status_code == 200
        key = {"Authorization": "Bearer k"}
        assert client.post(fleet["slow"].api_base + "/chat/completions", json=CHAT, headers=key).status_code == 500
        fleet["plain"].order(script=["throttle"], retry_after=3)
        assert post(client, fleet["plain"]).headers["retry-after"] == "3"
        assert fleet["plain"].behaviour.retry_after == 3
        with pytest.raises(ConfigurationError, match="tokens"):
            fleet["plain"].order(tokens=-1)
        assert fleet["plain"].records.statuses == {"200": 1, "429": 1}
        assert fleet["slow"].wait_for(lambda seen: seen.in_flight == 0).paths == {"/v1/chat/completions": 1}
        fleet["plain"].order(script=[])
        fleet.reset()
        assert fleet["plain"].records.requests == 0
        with fleet["plain"].held(), concurrent.futures.ThreadPoolExecutor() as pool:
            call = pool.submit(post, client, fleet["plain"])
            fleet["plain"].wait_for(lambda seen: seen.serving == 1)
            fleet["plain"].order(hold=False)
            assert call.result().status_code == 200
        address = fleet["plain"].url
    with pytest.raises(httpx.ConnectError):
        client.get(address + "/health")


def test_two_of_a_fleet_cannot_share_a_name():
    with pytest.raises(ConfigurationError, match="twin"):
        Fleet([Spec(name="twin"), Spec(name="twin")])


def test_the_command_serves_until_it_is_told_to_end(client):
    command = [
        sys.executable,
        "-m",
        "fast_router.testing.serve",
        "--shape",
        "tei",
        "--count",
        "2",
        "--order",
        "tokens=1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        started = json.loads(process.stdout.readline())["upstreams"]
        assert [one["name"] for one in started] == ["tei-0", "tei-1"]
        assert client.get(started[1]["url"] + "/health").status_code == 200
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("order", ["latency=-1", "latency=x", "speed=1"])
def test_the_command_refuses_bad_orders_in_one_line(order):
    command = [sys.executable, "-m", "fast_router.testing.serve", "--order", order]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 2
    assert order.split("=")[0] in done.stderr
    assert "Traceback" not in done.stderr
