"""A LiteLLM newer than the last one tested: a copy of the one that is here, with another version and other text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import litellm
import pytest

if not (Path(litellm.__file__).parent / "router_rust").is_dir():
    pytest.skip("the self-test is that of a core written in Rust", allow_module_level=True)

from litellm import Router

from fast_router.litellm_plugin.bands.rust import self_test

CHAT = """
import asyncio, json, logging
said = []
class Keep(logging.Handler):
    def emit(self, record): said.append(record.getMessage())
logging.getLogger("fast_router").addHandler(Keep())
import fast_router, litellm
litellm.Router
%s
early = fast_router.status()
entry = lambda id_: {"model_name": "m", "litellm_params": {"model": "openai/x", "api_key": "sk", "mock_response": "hi"},
                     "model_info": {"id": id_}}
router = litellm.Router(model_list=[entry("a"), entry("b")], num_retries=0)
async def chat():
    answers = [await router.acompletion(model="m", messages=[{"role": "user", "content": "x"}]) for _ in range(4)]
    return [answer.choices[0].message.content for answer in answers]
answers = asyncio.run(chat())
status = fast_router.status()
keys = ("litellm", "band", "features", "skipped", "lane", "picks", "errors", "patched")
print(json.dumps({"answers": answers, "early": early["features"], "said": said,
                  **{key: status.get(key) for key in keys}}))
"""


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """A folder with LiteLLM as it is here, but called 1.111.0, and with one module's text changed."""
    here = Path(litellm.__file__).parent
    folder = tmp_path_factory.mktemp("newer")
    _mirror(here, folder / "litellm", leave="router_rust")
    _mirror(here / "router_rust", folder / "litellm" / "router_rust", leave="core.py")
    text = (here / "router_rust" / "core.py").read_text()
    changed = text.replace("class RustCore", "_A_NEW_CONSTANT = 1\n\n\nclass RustCore", 1)
    assert changed != text
    (folder / "litellm" / "router_rust" / "core.py").write_text(changed)
    about = folder / "litellm-1.111.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: litellm\nVersion: 1.111.0\n")
    return folder


def _mirror(source: Path, target: Path, *, leave: str) -> None:
    target.mkdir()
    for each in source.iterdir():
        if each.name not in (leave, "__pycache__"):
            (target / each.name).symlink_to(each)


def chat(folder: Path, before: str = "") -> dict:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHAT % before],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_one_that_walks_as_it_did_keeps_steering_and_lane(newer):
    found = chat(newer)
    assert found["litellm"] == "1.111.0"
    assert found["answers"] == ["hi"] * 4
    assert {"attempts", "selection", "failover", "lane"} <= set(found["features"])
    assert found["lane"]["requests"] == 4
    assert found["errors"]["count"] == 0
    assert len([line for line in found["said"] if "1.111.0 is newer" in line]) == 1


def test_one_that_records_otherwise_loses_the_lane_alone(newer):
    found = chat(
        newer, "from fast_router.litellm_plugin.bands.rust import self_test; self_test._SUCCESS = ('attempt', 'done')"
    )
    assert found["answers"] == ["hi"] * 4
    assert "selection" in found["features"]
    assert found["lane"]["requests"] == 0
    assert found["lane"]["left_reasons"] == {"a self-test: another order of a success": 4}
    assert found["errors"]["count"] == 0


def test_one_that_walks_otherwise_is_given_back(newer):
    found = chat(
        newer,
        "from fast_router.litellm_plugin.bands.rust import self_test; self_test._PICK = ('attempt', 'cache batch_get')",
    )
    assert found["answers"] == ["hi"] * 4
    assert "selection" in found["early"], "nothing is tried before the first request"
    assert found["features"] == ["public hook"]
    assert found["band"] is None
    assert found["patched"] == []
    assert "a self-test: another order of a pick" in found["skipped"]["steering"]
    assert "a self-test: another order of a pick" in found["picks"]["delegated_reasons"]
    assert found["errors"]["count"] == 0


def test_without_the_members_only_the_public_hook_is_left(newer, tmp_path):
    folder = tmp_path / "copy"
    _mirror(newer, folder, leave="litellm")
    _mirror(newer / "litellm", folder / "litellm", leave="router_rust")
    _mirror(newer / "litellm" / "router_rust", folder / "litellm" / "router_rust", leave="core.py")
    text = (newer / "litellm" / "router_rust" / "core.py").read_text()
    (folder / "litellm" / "router_rust" / "core.py").write_text(text.replace("_answer_select_sync", "_answer_choice"))
    found = chat(folder)
    assert found["answers"] == ["hi"] * 4
    assert found["features"] == ["public hook"]
    assert any("1.111.0 has no RustCore._answer_select_sync" in line for line in found["said"])


# -- the test itself ---------------------------------------------------------------------------------------


def made():
    params = {"model": "openai/x", "api_key": "sk-x", "mock_response": "hi"}
    router = Router(model_list=[{"model_name": "m", "litellm_params": params}], num_retries=0)
    core = vars(router)["_core"]
    return router, core, self_test.SelfTest()


def test_it_is_held_once_a_process_and_again_in_a_child(monkeypatch):
    router, core, test = made()
    assert test.why(core) is None
    assert test.passed
    monkeypatch.setattr(self_test, "_SUCCESS", ("attempt", "done"))
    assert test.why(core) is None
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:  # no assertion here: nothing of pytest's may run twice
        os.write(writes, repr((test.passed, test.why(core))).encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as said:
        assert said.read() == repr((False, "a self-test: another order of a success"))
    os.waitpid(child, 0)
    assert test.passed
    router.discard()


def test_it_touches_nothing_of_the_router():
    router, core, test = made()
    handle, version = core._handle, core._handle.registry_version()
    assert test.why_not_steered(core) is None
    assert core._handle is handle
    assert handle.registry_version() == version
    assert handle.deployments()[0]["model_name"] == "m"
    router.discard()
