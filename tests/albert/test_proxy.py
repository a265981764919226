"""The real LiteLLM proxy on Albert files: every dialect in turn, answers as documented, limits under load."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from fast_router.testing import Upstream
from tests.albert.conftest import EXAMPLES, KEY

pytestmark = [pytest.mark.proxy, pytest.mark.timeout(400)]
MESSAGES = [{"role": "user", "content": "Who answers?"}]
MASTER = "sk-master-of-this-test"


class Proxy:
    """`fast-router run --albert FILE -- litellm --port N` in a process of its own."""

    def __init__(self, path: Path, environ: Mapping[str, str], folder: Path) -> None:
        self.path = path
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = folder / "proxy.log"
        runtime = folder / "runtime"
        runtime.mkdir()
        env = {
            **os.environ,
            **environ,
            "XDG_RUNTIME_DIR": str(runtime),
            "LITELLM_MASTER_KEY": MASTER,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        scripts = Path(sys.executable).parent
        command = [scripts / "fast-router", "run", "--albert", path, "--", scripts / "litellm"]
        arguments = ["--host", "127.0.0.1", "--port", str(self.port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*map(str, command), *arguments], env=env, stdout=log, stderr=subprocess.STDOUT
            )
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {MASTER}"}, timeout=60
        )

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while True:
            assert self.process.poll() is None, f"the proxy ended:\n{self.text()[-3000:]}"
            try:
                if condition():
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"{what} did not come about:\n{self.text()[-3000:]}"
            time.sleep(0.1)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def ids(self) -> set[str]:
        return {model["id"] for model in self.client.get("/v1/models").json()["data"]}

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def chat(self, model: str, **more: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", model=model, messages=MESSAGES, **more)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.client.close()


@pytest.fixture(scope="module")
def environment(_servers: dict[str, Upstream]) -> dict[str, str]:
    urls = {f"{kind.upper()}_URL": upstream.url for kind, upstream in _servers.items()}
    return {**urls, **{f"{kind.upper()}_KEY": KEY for kind in _servers}, "GATEWAY_PASSWORD": "hidden-password"}


@pytest.fixture(scope="module")
def proxy(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    path = folder / "config.yml"
    shutil.copy(EXAMPLES / "d0.yml", path)
    started = Proxy(path, environment, folder)
    try:
        started.wait(lambda: started.client.get("/health/liveliness").status_code == 200, "the start", 300)
        yield started
    finally:
        started.stop()


def switch(proxy: Proxy, text: str, wanted: set[str]) -> None:
    """Replace the file as an editor does, and wait until the proxy serves the new models."""
    new = proxy.path.with_suffix(".new")
    new.write_text(text)
    new.replace(proxy.path)
    proxy.wait(lambda: proxy.ids() == wanted, f"the reload to {wanted}")


SERVES = {
    "d0": {"served-model": "chat", "served-embeddings": "embeddings"},
    "d1": {"language": "chat", "language-latest": "chat", "chat": "chat", "embeddings": "embeddings"},
    "d2": {"language": "chat", "chat": "chat", "embeddings": "embeddings", "reranker": "rerank"},
    "d3": {"language": "chat", "chat": "chat", "embeddings": "embeddings", "speech": "audio"},
    "d3b": {"language": "chat", "chat": "chat"},
    "d4": {"language": "chat", "chat": "chat", "reranker": "rerank"},
    "d5": {"language": "chat", "chat": "chat", "documents": "ocr", "speech": "audio", "audio": "audio"},
    "d6": {"language": "chat", "chat": "chat", "embeddings": "embeddings"},
    "mixed": {"language": "chat", "chat": "chat", "embeddings": "embeddings", "reranker": "rerank"},
}


@pytest.mark.parametrize("name", SERVES)
def test_a_file_of_each_dialect(name: str, proxy: Proxy, servers) -> None:
    switch(proxy, (EXAMPLES / f"{name}.yml").read_text(), set(SERVES[name]))
    for model, what in SERVES[name].items():
        if what == "chat":
            answer = proxy.chat(model)
            assert answer.status_code == 200, answer.text
            with proxy.client.stream(
                "POST", "/v1/chat/completions", json={"model": model, "messages": MESSAGES, "stream": True}
            ) as stream:
                lines = [line for line in stream.iter_lines() if line]
            assert lines[-1] == "data: [DONE]"
            assert len(lines) > 3
        elif what == "embeddings":
            data = proxy.post("/v1/embeddings", model=model, input=["one", "two"]).json()["data"]
            assert [len(row["embedding"]) for row in data] == [8, 8]
        elif what == "rerank":
            answer = proxy.post("/v1/rerank", model=model, query="one", documents=["zero", "one"])
            assert sorted(row["index"] for row in answer.json()["results"]) == [0, 1]
        elif what == "audio":
            files = {"file": ("a.wav", b"RIFF0000", "audio/wav")}
            answer = proxy.client.post("/v1/audio/transcriptions", data={"model": model}, files=files)
            assert answer.json()["text"]
        else:
            document = {"type": "document_url", "document_url": "https://example.org/a.pdf"}
            assert len(proxy.post("/v1/ocr", model=model, document=document).json()["pages"]) == 1
    unknown = proxy.chat("nobody")
    assert (unknown.status_code, unknown.json()["error"]["message"]) == (404, "Model not found")


def test_answers_as_documented(proxy: Proxy, servers) -> None:
    switch(proxy, (EXAMPLES / "d3.yml").read_text(), set(SERVES["d3"]))
    wrong = proxy.chat("embeddings")
    assert wrong.status_code == 422
    assert "Wrong model type" in wrong.text
    assert proxy.post("/v1/embeddings", model="nobody", input="x").status_code == 404
    info = {row["model_name"]: row["model_info"] for row in proxy.client.get("/model/info").json()["data"]}
    assert info["language"]["albert"]["owned_by"] == "Ministry"
    assert info["language"]["mode"] == "chat"
    assert info["speech"]["albert"]["type"] == "automatic-speech-recognition"


def test_round_robin_takes_turns(proxy: Proxy, servers) -> None:
    switch(proxy, (EXAMPLES / "d1.yml").read_text(), set(SERVES["d1"]))
    for number in range(8):
        assert proxy.chat("chat" if number % 2 else "language").status_code == 200
    assert [servers[kind].records.requests for kind in ("vllm", "openai")] == [4, 4]


def limited(servers: Mapping[str, Upstream], name: str, **extra: Any) -> str:
    providers = "".join(
        f"      - {{type: {kind}, url: {servers[kind].url}, model_name: served-model, "
        "qos_metric: inflight, qos_limit: 2}\n"
        for kind in ("vllm", "openai")
    )
    more = "".join(f"    {key}: {value}\n" for key, value in extra.items())
    return f"models:\n  - name: {name}\n    type: text-generation\n{more}    providers:\n{providers}"


def test_limits_hold_under_load_and_then_the_model_is_busy(proxy: Proxy, servers) -> None:
    switch(proxy, limited(servers, "capped", load_balancing_strategy="least_busy"), {"capped"})
    with ThreadPoolExecutor(8) as pool, servers["vllm"].held(), servers["openai"].held():
        running = [pool.submit(proxy.chat, "capped") for _ in range(4)]
        for kind in ("vllm", "openai"):
            servers[kind].wait_for(lambda seen: seen.in_flight == 2, timeout=30)
        refused = proxy.chat("capped")
        servers["vllm"].order(hold=False)
        servers["openai"].order(hold=False)
        assert [answer.result().status_code for answer in running] == [200] * 4
    assert refused.status_code == 503, refused.text
    assert "Model is too busy, please try again later." in refused.text
    assert float(refused.headers["retry-after"]) > 0
    assert [servers[kind].records.max_in_flight for kind in ("vllm", "openai")] == [2, 2]


def test_a_busy_model_waits_as_configured(proxy: Proxy, servers) -> None:
    switch(proxy, limited(servers, "patient", qos_retries_before_reject=40), {"patient"})
    with ThreadPoolExecutor(8) as pool, servers["vllm"].held(), servers["openai"].held():
        running = [pool.submit(proxy.chat, "patient") for _ in range(4)]
        for kind in ("vllm", "openai"):
            servers[kind].wait_for(lambda seen: seen.in_flight == 2, timeout=30)
        waiting = pool.submit(proxy.chat, "patient")
        threading.Event().wait(1.0)
        assert not waiting.done()
        servers["vllm"].order(hold=False)
        servers["openai"].order(hold=False)
        assert [answer.result().status_code for answer in [*running, waiting]] == [200] * 5


def test_a_bad_file_changes_nothing_and_says_why_and_sighup_reads_anew(proxy: Proxy, servers) -> None:
    good = (EXAMPLES / "d2.yml").read_text()
    switch(proxy, good, set(SERVES["d2"]))
    proxy.path.write_text(good.replace("text-generation", "text-genration"))
    proxy.wait(lambda: "did you mean 'text-generation'?" in proxy.text(), "the reason in the log")
    assert proxy.ids() == set(SERVES["d2"])
    assert proxy.chat("chat").status_code == 200
    switch(proxy, (EXAMPLES / "d3.yml").read_text(), set(SERVES["d3"]))
    # The same file, but a server has changed its mind about its name: only SIGHUP asks again.
    switch(proxy, (EXAMPLES / "d0.yml").read_text(), set(SERVES["d0"]))
    before = proxy.text().count("config.yml: taken over")
    proxy.process.send_signal(signal.SIGHUP)
    proxy.wait(lambda: proxy.chat("served-model").status_code == 200, "an answer after SIGHUP")
    assert proxy.process.poll() is None
    assert proxy.text().count("config.yml: taken over") >= before


def test_no_secret_in_the_log(proxy: Proxy) -> None:
    for secret in (KEY, "hidden-password", "aGlkZGVuLXBhc3N3b3Jk"):
        assert secret not in proxy.text()
