"""LiteLLM's real proxy answers as without us, and is left alone where the environment switches us off."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from tests.launch.wrapped import MASTER_KEY, ONE, UPSTREAM_KEY, WAYS, chat

pytestmark = [pytest.mark.proxy, pytest.mark.slow, pytest.mark.timeout(500)]

OURS = """
router_settings:
  routing_strategy: peak_ewma
fast_router: {max_wait: soon}
"""


@pytest.mark.parametrize("way", ["launcher", "callback in the YAML"])
def test_off_by_environment_leaves_the_proxy_alone(start, way):
    """It starts with a strategy that LiteLLM lacks, and with an option of ours that is wrong."""
    _, extra, environment = WAYS[way]
    proxy = start(ONE[way], extra=extra + OURS, **environment, FAST_ROUTER_ENABLED="0")
    proxy.until(proxy.alive, "it never became alive")
    assert chat(proxy).status_code == 200
    assert proxy.statuses() == []
    assert list(proxy.runtime.glob("*")) == []


def answers(proxy):
    """What a proxy says to all sorts of requests, without what differs between any two answers."""

    def told(answer):
        names = {name for name in answer.headers if not name.startswith(("x-ratelimit", "llm_provider"))}
        try:
            body = json.loads(re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>", answer.text))
        except ValueError:
            body = [line for line in answer.text.splitlines() if line in ("data: [DONE]", "")]
        for changing in ("id", "created", "system_fingerprint"):
            if isinstance(body, dict):
                body.pop(changing, None)
        return answer.status_code, body, sorted(names)

    def get(path):
        return httpx.get(f"{proxy.url}{path}", headers={"Authorization": f"Bearer {MASTER_KEY}"}, timeout=60)

    wrong_key = httpx.post(
        f"{proxy.url}/v1/chat/completions",
        json={"model": "group", "messages": []},
        headers={"Authorization": "Bearer sk-wrong"},
        timeout=60,
    )
    said = [told(chat(proxy)) for _ in range(3)]
    said += [told(chat(proxy, stream=True)), told(chat(proxy, model="limited")), told(chat(proxy, model="limited"))]
    said += [told(chat(proxy, model="limited")), told(chat(proxy, model="in-a-group")), told(chat(proxy, model="gone"))]
    said += [told(chat(proxy, messages=None)), told(chat(proxy, model=5)), (wrong_key.status_code,)]
    return [*said, told(get("/v1/models")), told(get("/model_group/info"))]


def test_the_proxy_says_what_it_says_without_fast_router(start, upstreams):
    """Its questions to the fleet are answered from what is known, some deployments having what it asks for."""
    params = {"model": "openai/m", "api_base": upstreams[0].api_base, "api_key": UPSTREAM_KEY}
    entries = [
        {"model_name": "group", "litellm_params": params, "model_info": {"id": "first"}},
        {
            "model_name": "limited",
            "litellm_params": {**params, "default_api_key_rpm_limit": 2},
            "model_info": {"id": "second"},
        },
        {
            "model_name": "in-a-group",
            "litellm_params": params,
            "model_info": {"id": "third", "access_groups": ["beta"]},
        },
    ]
    proxies = []
    for enabled in ("0", "1"):
        _, _, environment = WAYS["launcher"]
        extra = f"model_list: {json.dumps(entries)}\n"
        proxies.append(start(ONE["launcher"], extra=extra, **environment, FAST_ROUTER_ENABLED=enabled))
    runs = []
    for proxy in proxies:
        proxy.until(proxy.alive, "it never became alive")
        runs.append(answers(proxy))
    statuses = proxies[1].statuses()
    (status,) = [each["status"] for each in statuses]
    assert {"proxy_questions", "absent_modules", "startup_heap"} <= set(status["features"])
    assert [run[0][0] for run in runs] == [200, 200]
    for without, ours in zip(*runs, strict=True):
        assert ours == without
