"""`fast-router run`: the command as it is, with fast_router in each of its Pythons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from fast_router.errors import ConfigurationError
from fast_router.launch import environment

RUN = [sys.executable, "-m", "fast_router.cli", "run"]
LOADED = (
    "import json, sys\n"
    "print(json.dumps({'ours': 'fast_router.auto' in sys.modules, 'litellm': 'litellm' in sys.modules}))"
)


def run(*command, env=None, **more):
    environ = {key: value for key, value in os.environ.items() if not key.startswith("FAST_ROUTER_")}
    return subprocess.run(
        [*RUN, *command],
        env={**environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        **more,
    )


def test_fast_router_is_there_before_the_program_begins_and_litellm_is_not():
    done = run("--", sys.executable, "-c", LOADED)
    assert json.loads(done.stdout) == {"ours": True, "litellm": False}
    assert done.stderr == ""


def test_children_of_the_program_have_it_too():
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LOADED!r}])"
    assert json.loads(run("--", sys.executable, "-c", code).stdout)["ours"]


def test_spawned_workers_have_it_too(tmp_path):
    script = tmp_path / "spawns.py"
    script.write_text(
        textwrap.dedent("""
            import multiprocessing, sys

            def work(answers):
                answers.put("fast_router.auto" in sys.modules)

            if __name__ == "__main__":
                context = multiprocessing.get_context("spawn")
                answers = context.Queue()
                worker = context.Process(target=work, args=(answers,))
                worker.start()
                print(answers.get(timeout=250))
                worker.join()
        """)
    )
    assert run("--", sys.executable, str(script)).stdout.strip() == "True"


def test_the_users_own_sitecustomize_runs_as_before(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os; os.environ['THEIRS'] = 'ran'\n")
    code = (
        "import os, sys, sitecustomize\n"
        "print(os.environ['THEIRS'], sitecustomize.__file__, 'fast_router.auto' in sys.modules)"
    )
    done = run("--", sys.executable, "-c", code, env={"PYTHONPATH": str(tmp_path)})
    assert done.stdout.split() == ["ran", str(tmp_path / "sitecustomize.py"), "True"]


def test_a_broken_sitecustomize_of_the_user_does_not_keep_us_out(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("raise RuntimeError('theirs')\n")
    done = run("--", sys.executable, "-c", LOADED, env={"PYTHONPATH": str(tmp_path)})
    assert json.loads(done.stdout)["ours"]
    assert "theirs" in done.stderr


def test_pythonpath_keeps_its_entries_and_gets_ours_once(tmp_path):
    env = environment.environment(["x"], environ={"PYTHONPATH": f"{tmp_path}{os.pathsep}{environment.BOOTSTRAP}"})
    assert env["PYTHONPATH"].split(os.pathsep) == [str(environment.BOOTSTRAP), str(tmp_path)]
    assert environment.environment(["x"], environ={})["PYTHONPATH"] == str(environment.BOOTSTRAP)


def test_exit_code_and_streams_are_the_commands_own():
    done = run("--", sys.executable, "-c", "import sys; print(sys.stdin.read()); sys.exit(7)", input="hello")
    assert done.returncode == 7
    assert done.stdout.strip() == "hello"


def test_options_of_the_command_are_not_ours():
    done = run(sys.executable, "-c", "import sys; print(sys.argv[1:])", "--settings", "x", "--help")
    assert done.stdout.strip() == "['--settings', 'x', '--help']"


def test_off_means_off():
    code = "import fast_router, json; s = fast_router.status(); print(s['enabled'], s['waiting_for_litellm'])"
    done = run("--", sys.executable, "-c", code, env={"FAST_ROUTER_ENABLED": "0"})
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("spelling", [["--config", "{}"], ["--config={}"], ["-c", "{}"]])
def test_a_section_in_the_proxys_own_configuration_is_found(tmp_path, spelling):
    config = tmp_path / "config.yaml"
    config.write_text("model_list: []\nfast_router: {max_wait: 4}\n")
    command = ["litellm", *(word.format(config) for word in spelling)]
    assert environment.environment(command, environ={})["FAST_ROUTER_CONFIG"] == str(config)
    other = {"FAST_ROUTER_CONFIG": str(config)}
    assert environment.environment(
        ["litellm", "--config", "else.yaml"], environ=other
    ) | other == environment.environment(["litellm"], environ=other)


def test_a_configuration_without_our_section_is_not_ours(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("model_list: []\n")
    assert "FAST_ROUTER_CONFIG" not in environment.environment(["litellm", "--config", str(config)], environ={})
    assert "FAST_ROUTER_CONFIG" not in environment.environment(["python", "-c", "print(1)"], environ={})


def test_wrong_options_are_told_before_the_command_starts(tmp_path):
    options = tmp_path / "options.yaml"
    options.write_text("max_wait: soon\n")
    with pytest.raises(ConfigurationError, match=r"options.yaml: max_wait: 'soon'"):
        environment.environment(["x"], options=str(options), environ={})
    done = run("--settings", str(options), "--", sys.executable, "-c", "print('started')")
    assert done.returncode == 2
    assert done.stdout == ""


def test_errors_have_the_exit_codes_of_a_shell(tmp_path):
    done = run("--", "no-such-command-of-ours")
    assert done.returncode == 127
    assert "no-such-command-of-ours: not found" in done.stderr
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x00\x01 no program")
    broken.chmod(0o755)
    done = run("--", str(broken))
    assert done.returncode == 126
    done = run()
    assert done.returncode == 2
    assert "fast-router run -- litellm" in done.stderr
