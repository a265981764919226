"""`litellm.model_list` under libraries that call LiteLLM for their users: each against real servers, if it is there.

None of them is a dependency of ours; they hand optional arguments on as None, and some bring streams of their own.
"""

from __future__ import annotations

import asyncio

import litellm
import pytest

import fast_router
from fast_router.testing import Fleet, Spec

SAYS = "route every request where it is answered first"
ASKED = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def fleet():
    with Fleet([Spec(name=name) for name in "ab"]) as running:
        yield running


@pytest.fixture
def servers(fleet, monkeypatch):
    """Two servers behind the name `chat`, the first of which answers 500: no caller may notice."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for server in fleet.values():
        server.order(error_rate=0.0)
        server.reset()
    fleet["a"].order(error_rate=1.0)
    assert fast_router.enable()
    before = litellm.model_list
    litellm.model_list = [
        {
            "model_name": "chat",
            # Whoever forgets what was tried takes the heavy one again, but for once in a million.
            "litellm_params": {
                "model": "openai/test-model",
                "api_base": fleet[name].api_base,
                "api_key": "sk-own",
                "weight": weight,
            },
        }
        for name, weight in (("a", 10**6), ("b", 1))
    ]
    yield fleet
    litellm.model_list = before


def routed(fleet, calls):
    """The first server was asked and has failed, the second one has answered every call with its own key."""
    assert fleet["a"].records.requests
    assert fleet["b"].records.served == calls
    assert {seen.headers.get("authorization") for seen in fleet["b"].records.seen} == {"Bearer sk-own"}


def test_openai_agents_sdk(servers):
    agents = pytest.importorskip("agents")
    model = pytest.importorskip("agents.extensions.models.litellm_model").LitellmModel
    agents.set_tracing_disabled(True)
    agent = agents.Agent(name="one", instructions="answer", model=model(model="chat"))

    async def both():
        whole = await agents.Runner.run(agent, "hello")
        streamed = agents.Runner.run_streamed(agent, "hello")
        async for _ in streamed.stream_events():
            pass
        return whole.final_output, streamed.final_output

    assert asyncio.run(both()) == (SAYS, SAYS)
    routed(servers, 2)


def test_smolagents(servers):
    smolagents = pytest.importorskip("smolagents")
    messages = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    model = smolagents.LiteLLMModel(model_id="chat")
    assert model.generate(messages).content == SAYS
    assert "".join(delta.content or "" for delta in model.generate_stream(messages)) == SAYS
    routed(servers, 2)


def test_smolagents_with_a_router_of_its_own(servers):
    smolagents = pytest.importorskip("smolagents")
    model = smolagents.LiteLLMRouterModel("chat", litellm.model_list, client_kwargs={"num_retries": 2})
    assert model.generate([{"role": "user", "content": [{"type": "text", "text": "hello"}]}]).content == SAYS
    routed(servers, 1)


@pytest.mark.parametrize("router", [False, True], ids=["model list", "router"])
def test_langchain(servers, router):
    wrapper = pytest.importorskip("langchain_litellm")
    if router:
        made = litellm.Router(model_list=litellm.model_list, num_retries=2)
        chat = wrapper.ChatLiteLLMRouter(router=made, model_name="chat")
    else:
        chat = wrapper.ChatLiteLLM(model="chat")

    async def both():
        return (await chat.ainvoke("hello")).content, "".join([part.content async for part in chat.astream("hello")])

    assert chat.invoke("hello").content == SAYS
    assert "".join(part.content for part in chat.stream("hello")) == SAYS
    assert asyncio.run(both()) == (SAYS, SAYS)
    routed(servers, 4)


def test_instructor(servers):
    instructor = pytest.importorskip("instructor")
    pydantic = pytest.importorskip("pydantic")

    class Answer(pydantic.BaseModel):
        text: str

    # The server has no JSON to give: what counts is who was asked.
    asked = {"model": "chat", "messages": ASKED, "response_model": Answer, "max_retries": 0}
    with pytest.raises(Exception, match=r".*"):
        instructor.from_litellm(litellm.completion, mode=instructor.Mode.JSON).chat.completions.create(**asked)
    with pytest.raises(Exception, match=r".*"):
        asyncio.run(
            instructor.from_litellm(litellm.acompletion, mode=instructor.Mode.JSON).chat.completions.create(**asked)
        )
    routed(servers, 2)


def test_dspy(servers):
    dspy = pytest.importorskip("dspy")
    model = dspy.LM("chat", cache=False)
    # It asks for no retries of LiteLLM's: it has its own, after a pause each.
    servers["a"].order(error_rate=0.0)
    assert model("hello") == [SAYS]
    assert asyncio.run(model.acall("hello")) == [SAYS]
    assert [seen.headers.get("authorization") for seen in servers["a"].records.seen] == ["Bearer sk-own"] * 2


def test_crewai(servers, monkeypatch):
    monkeypatch.setenv("CREWAI_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    crewai = pytest.importorskip("crewai")
    assert crewai.LLM(model="chat", is_litellm=True).call("hello") == SAYS
    routed(servers, 1)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["create", "acreate"])
def test_litellms_own_messages_interface(servers, asynchronous):
    messages = litellm.anthropic.messages
    asked = {"model": "chat", "messages": ASKED, "max_tokens": 9}
    answer = asyncio.run(messages.acreate(**asked)) if asynchronous else messages.create(**asked)
    assert answer["content"][0]["text"]
    routed(servers, 1)
