"""A `litellm.Router`: a key or an address that is None is not given, for every endpoint.

For `litellm.model_list` see `model_list/test_arguments.py`.
"""

from __future__ import annotations

import pytest

import fast_router
from fast_router.litellm_plugin.callers import OWN
from fast_router.testing import Fleet, Spec
from tests.litellm_plugin.layers.test_every_endpoint import CALLS, IDS, LITELLM, asked
from tests.support.plugin import MESSAGES, calm, entry, over, refused, router

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture(autouse=True)
def _nobody_at_the_default_address(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "HOSTED_VLLM_API_BASE"):
        monkeypatch.setenv(name, refused())
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def fleets():
    with Fleet([Spec(name=kind, kind=kind) for kind in ("openai", "vllm", "mistral")]) as fleet:
        yield fleet


@pytest.mark.parametrize(("endpoint", "sync"), CALLS, ids=IDS)
def test_the_deployments_own_are_used(fleets, endpoint, sync):
    if endpoint.name == "aspeech" and LITELLM < (1, 91):
        pytest.skip("this LiteLLM hands the arguments on as they are")
    (server,) = calm([fleets[endpoint.kind]])
    made = router(entry("a", server.api_base, model=f"{endpoint.provider}/test-model"))
    for given in ({"api_key": None}, {"api_base": None}, {"base_url": None, "organization": None}, dict.fromkeys(OWN)):
        assert asked(made, endpoint, sync, **given)
    assert {seen.headers.get("authorization") for seen in server.records.seen} == {"Bearer sk-test"}


async def test_one_that_is_given_is_the_callers(servers):
    made = over(servers[:1], num_retries=0)
    await made.acompletion(model="m", messages=MESSAGES, api_base=servers[1].api_base, api_key="sk-own")
    assert servers[0].records.requests == 0
    assert servers[1].records.seen[-1].headers["authorization"] == "Bearer sk-own"


async def test_what_a_caller_leaves_out_rests_nobody(servers):
    made = over(servers[:2], num_retries=0)
    for _ in range(6):
        await made.acompletion(model="m", messages=MESSAGES, api_base=None)
    assert not [d.id for d in fast_router.advanced_router(made).engine.deployments.values() if d.held]
