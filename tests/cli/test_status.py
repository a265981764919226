"""`fast-router status`: processes that want to be seen are, live, and only by their own user."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from fast_router import AdvancedRouter, cluster, settings
from fast_router.cli import main
from fast_router.cli.left_out import left_out
from fast_router.errors import ConfigurationError
from fast_router.observe import asking, process_status
from fast_router.observe.runtime_dir import directory
from fast_router.settings.features import OVERHEAD
from tests.support.waiting import until_sync

KEY = "sk-secret-of-the-test"
LOCAL = {"celery_routing": {"on": False, "why": "routing is local"}}


def status(*options):
    """What the command prints."""
    return CliRunner().invoke(main, ["status", *options]).output


def test_a_listening_process_answers_live_and_leaves_nothing_behind(runtime):
    assert process_status.start()
    assert process_status.start()
    (found,) = asking.processes()
    assert found["pid"] == os.getpid()
    assert set(found["status"]["picks"]) >= {"fast", "filtered", "delegated"}
    assert [path.name for path in runtime.iterdir()] == [f"fast_router-{os.getpid()}.sock"]
    process_status.stop()
    assert asking.processes() == []
    assert list(runtime.iterdir()) == []


SEEN = """
    import os, sys
    from fast_router.observe import asking, process_status
    assert process_status.start()
    if sys.argv[1] == "fork":
        child = os.fork()
        if child == 0:
            os.write(1, b"ready\\n")
            sys.stdin.readline()
            os._exit(0)
    os.write(1, b"ready\\n")
    sys.stdin.readline()
"""


def process(kind):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SEEN), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_forked_workers_answer_for_themselves(runtime):
    with process("fork") as parent:
        assert [parent.stdout.readline(), parent.stdout.readline()] == ["ready\n", "ready\n"]
        found = asking.processes()
        parent.communicate("\n\n")
    assert len({each["pid"] for each in found}) == 2
    assert parent.pid in {each["pid"] for each in found}


def test_a_killed_process_is_cleared_away_by_the_next_reader(runtime):
    with process("plain") as killed:
        assert killed.stdout.readline() == "ready\n"
        killed.send_signal(signal.SIGKILL)
    assert [path.name for path in runtime.iterdir()] == [f"fast_router-{killed.pid}.sock"]
    assert asking.processes() == []
    assert list(runtime.iterdir()) == []


def test_the_directory_is_private(runtime):
    runtime.chmod(0o755)
    with pytest.raises(ConfigurationError, match="only you can enter"):
        directory()
    assert process_status.start() is False


def test_the_default_directory_is_made_for_the_user_alone(monkeypatch, tmp_path):
    monkeypatch.delenv("FAST_ROUTER_RUNTIME_DIR", raising=False)
    short = Path(tempfile.mkdtemp(prefix="fr-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    settings.reset()
    try:
        assert directory() == short / "fast_router"
        assert (short / "fast_router").stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(short)


def test_a_name_too_long_for_a_socket_is_told(monkeypatch):
    monkeypatch.setenv("FAST_ROUTER_RUNTIME_DIR", "/tmp/" + "x" * 120)
    settings.reset()
    with pytest.raises(ConfigurationError, match="too long"):
        directory()
    settings.reset()


def test_the_command_shows_each_process_or_says_why_there_is_none(runtime):
    done = CliRunner().invoke(main, ["status"])
    assert done.exit_code == 1
    assert "no process answers in" in done.output
    assert "not while FAST_ROUTER_ENABLED=0" in done.output
    process_status.start()
    done = CliRunner().invoke(main, ["status"])
    assert done.exit_code == 0
    assert f" {os.getpid()} " in done.output
    assert "picks: " in done.output
    document = json.loads(CliRunner().invoke(main, ["status", "--json"]).output)
    assert [each["pid"] for each in document] == [os.getpid()]


def test_deployments_are_shown_without_what_is_secret(runtime):
    entry = {"model_name": "m", "model_info": {"id": "d1"}, "litellm_params": {"model": "openai/x", "api_key": KEY}}
    router = AdvancedRouter(model_list=[entry])
    process_status.start()
    with router.lease("m"):
        done = CliRunner().invoke(main, ["status"])
    assert re.search(r"openai +d1 +up +1 +100 % +1 +0 ", done.output)
    router.rest("d1", 60)
    done = CliRunner().invoke(main, ["status"])
    assert re.search(r"openai +d1 +resting +0 +100 % +1 +0 .*by order, next try in \d+", done.output)
    assert KEY not in CliRunner().invoke(main, ["status", "--json"]).output


def test_a_rest_is_shown_with_its_reason(runtime):
    models = [{"model_name": "m", "model_info": {"id": f"d{i}"}} for i in range(2)]
    router = AdvancedRouter(model_list=models)
    policy = router.enable_failover()
    process_status.start()
    with router.lease("m"):
        policy.trip(router.deployments["d1"], "it stands out", seconds=60)
        done = CliRunner().invoke(main, ["status"])
    assert re.search(r"d1 +resting .* it stands out, since [\d:]+ \(0\.\d s\), next try in \d+ s", done.output)


def test_share_of_cached_prompts_is_shown_where_a_strategy_looks_at_it(runtime):
    entry = {"model_name": "m", "model_info": {"id": "d1"}, "litellm_params": {"model": "openai/x"}}
    router = AdvancedRouter("cache_aware", model_list=[entry])
    process_status.start()
    for _ in range(2):
        lease = router.acquire("m", key="word " * 2000, tokens=2500, stream=True)
        lease.first_token()
        lease.release(prompt_tokens=2500, cached_tokens=1500)
    done = CliRunner().invoke(main, ["status"])
    assert re.search(r"1st token +cached +said", done.output)
    # The first was new, the second wholly known but for the last part of a block; both answers said 1,500 of 2,500.
    assert re.search(r"d1 +up .* (4[5-9]|50) % +60 %", done.output)


def test_no_column_for_cached_prompts_without_such_a_strategy(runtime):
    router = AdvancedRouter("least_busy", model_list=[{"model_name": "m"}], load="tokens")
    process_status.start()
    router.acquire("m").release()
    assert "said" not in CliRunner().invoke(main, ["status"]).output


def test_a_process_under_the_launcher_is_seen_once_it_uses_litellm_and_no_other(runtime):
    code = (
        "from fast_router.observe import asking as p\n"
        "before = len(p.processes())\n"
        "import litellm\n"
        "print(before, len(p.processes()))\n"
    )
    launched = subprocess.run(
        [sys.executable, "-m", "fast_router.cli", "run", "--", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    plain = subprocess.run(
        [sys.executable, "-c", "import fast_router\n" + code], capture_output=True, text=True, check=True
    )
    assert launched.stdout.split() == ["0", "1"]
    assert plain.stdout.split() == ["0", "0"]


def test_features_that_one_reason_leaves_out_are_one_line():
    skipped = {f"feature{number}": "no place" for number in range(30)}
    process = {"skipped": {**skipped, "celery_routing": "not installed", "other": "switched off"}}
    lines = left_out({"processes": [process, process], "capabilities": LOCAL})
    assert list(lines) == [
        "left out: feature0, feature1, feature2, feature3, feature4, feature5 and 24 more (no place)",
        "left out: other (switched off)",
    ]


def test_what_litellm_lacks_is_named_and_savings_that_it_does_not_need_are_counted():
    lacks = "LiteLLM 9.9 does not have such members"
    skipped = {**dict.fromkeys(OVERHEAD[:3], lacks), "celery_routing": lacks, OVERHEAD[3]: "switched off"}
    assert list(left_out({"processes": [{"skipped": skipped}], "capabilities": LOCAL})) == [
        f"left out: celery_routing ({lacks})",
        f"left out: {OVERHEAD[3]} (switched off)",
        "not needed: 3 savings of costs that this LiteLLM does not have; nothing to do",
    ]


def test_a_redis_that_is_away_is_the_first_thing_that_the_status_says(runtime, own_redis):
    router = AdvancedRouter(model_list=[{"model_name": "m"}])
    state = cluster.attach(router, url=own_redis.url)
    process_status.start()
    until_sync(lambda: state.connected)
    where = own_redis.url.partition("//")[2]
    assert "shared state" not in status()
    assert f"fleet: no other worker is known: Redis at {where}" in status("--fleet")
    own_redis.kill()
    until_sync(lambda: not state.connected)
    away = rf"shared state: Redis at {where} is away since [\d:]{{8}}; each process decides alone\n"
    assert re.search(away, status())
    assert re.search("fleet: no other worker is known: " + away, status("--fleet"))
    state.close()


def test_the_fleet_says_why_nothing_is_shared(runtime):
    process_status.start()
    assert "fleet: no other worker is known: shared state is off (" in status("--fleet")


def test_no_word_of_code_that_was_given_on_the_command_line_is_shown():
    code = "from fast_router.observe.identity import identity; print(identity()['program'])  # sk-secret"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "python -c"
