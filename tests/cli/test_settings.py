"""The option table: precedence, errors that teach, and what it shows."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import textwrap

import pytest
import yaml
from click.testing import CliRunner

import fast_router
from fast_router import environment_switch, settings
from fast_router.cli import main
from fast_router.errors import ConfigurationError

PASSWORD = "hunter2-of-the-test"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    for row in settings.rows():
        monkeypatch.delenv(row.env, raising=False)
    settings.reset()
    yield
    settings.reset()


def test_arguments_win_over_environment_over_file_over_default(tmp_path, monkeypatch):
    file = tmp_path / "options.yaml"
    assert settings.current().max_wait == 0.0
    file.write_text("max_wait: 1\n")
    settings.reset()
    monkeypatch.setenv("FAST_ROUTER_CONFIG", str(file))
    assert settings.current().max_wait == 1.0
    settings.reset()
    monkeypatch.setenv("FAST_ROUTER_MAX_WAIT", "2.5")
    assert settings.current().max_wait == 2.5
    assert fast_router.configure(max_wait=3).max_wait == 3.0
    assert settings.current().max_wait == 3.0
    assert settings.sources()["max_wait"].startswith("configure")
    assert fast_router.configure(max_wait=None).max_wait == 2.5


def test_a_section_of_litellms_own_file_is_read_and_the_rest_is_left_alone(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("model_list: []\nfast_router:\n  strategy: peak_ewma\n")
    assert settings.has_section(str(file))
    assert settings.load(environ={"FAST_ROUTER_CONFIG": str(file)})[0].strategy == "peak_ewma"
    file.write_text("model_list: []\nlitellm_settings: {}\n")
    assert not settings.has_section(str(file))
    assert settings.load(environ={"FAST_ROUTER_CONFIG": str(file)})[0].strategy is None


def test_environment_strings_become_values():
    environ = {
        "FAST_ROUTER_DISABLED_FEATURES": "Hedging, trace-spans,",
        "FAST_ROUTER_ROUTER_SETTINGS": "{num_retries: 3}",
        "FAST_ROUTER_LOG_LEVEL": "debug",
        "FAST_ROUTER_STATUS": "yes",
        "FAST_ROUTER_STRATEGY": "least-busy",
        "FAST_ROUTER_MAX_WAIT": " ",
    }
    loaded, _ = settings.load(environ=environ)
    assert loaded.disabled_features == ("hedging", "trace_spans")
    assert loaded.router_settings == {"num_retries": 3}
    assert loaded.log_level == "DEBUG"
    assert loaded.status is True
    assert loaded.strategy == "least-busy"
    assert loaded.max_wait == 0.0


@pytest.mark.parametrize(
    ("environ", "arguments", "complaint"),
    [
        ({"FAST_ROUTER_MAX_WAIT": "-1"}, {}, r"FAST_ROUTER_MAX_WAIT: '-1': .*greater than or equal to 0.*seconds"),
        ({"FAST_ROUTER_LOG_LEVEL": "loud"}, {}, r"FAST_ROUTER_LOG_LEVEL: 'LOUD': .*'DEBUG'"),
        ({}, {"max_wiat": 1}, r"configure\(max_wiat=…\): no such option; did you mean 'max_wait'\?"),
        ({"FAST_ROUTER_STRATEGY": "best"}, {}, r"FAST_ROUTER_STRATEGY: unknown strategy 'best'; known"),
        (
            {"FAST_ROUTER_DISABLED_FEATURES": "waiting,hedgin"},
            {},
            r"^FAST_ROUTER_DISABLED_FEATURES: there is no feature 'hedgin'; did you mean 'hedging'\?$",
        ),
        (
            {},
            {"disabled_features": ("zzz",)},
            r"no feature 'zzz'; there are: absent_modules, .*, hedging, .*, wildcards$",
        ),
        ({"FAST_ROUTER_CONFIG": "/nowhere.yaml"}, {}, r"/nowhere.yaml: cannot be read"),
        ({}, {"redis_url": {"password": PASSWORD}}, r"kept out of this message"),
        ({"FAST_ROUTER_REDIS_URL": f"http://u:{PASSWORD}@h"}, {}, r"FAST_ROUTER_REDIS_URL: .*redis_url.* redis://, re"),
        ({"FAST_ROUTER_REDIS_URL": f"redis.{PASSWORD}.org:6379"}, {}, r"FAST_ROUTER_REDIS_URL: .*unix://"),
        ({}, {"celery_broker_url": f"http://u:{PASSWORD}@h"}, r"configure\(celery_broker_url=…\): .*amqp://, amqps://"),
        ({"FAST_ROUTER_ROUTER_SETTINGS": f"{{redis_password: {PASSWORD}"}, {}, r"kept out of this message"),
    ],
)
def test_wrong_values_are_one_error_that_names_source_and_remedy(environ, arguments, complaint):
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        settings.load(arguments, environ)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("redis_url", ""),
        ("redis_url", "REDIS://host"),
        ("redis_url", "rediss://:pw@host:6379/1"),
        ("redis_url", "unix:///run/redis.sock"),
        ("redis_url", "redis+cluster://host"),
        ("celery_broker_url", "amqps://u:pw@host//"),
        ("celery_broker_url", "redis://host"),
    ],
)
def test_urls_that_can_be_used(name, url):
    assert getattr(settings.load({name: url}, {})[0], name) == url


def test_several_problems_are_told_at_once(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("max_wait: soon\nnonsense: 1\n")
    with pytest.raises(ConfigurationError) as caught:
        settings.load({"log_level": "loud"}, {"FAST_ROUTER_CONFIG": str(file)})
    assert [word in str(caught.value) for word in ("max_wait", "nonsense", "log_level")] == [True] * 3


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list\n"])
def test_a_broken_file_is_a_clear_error(tmp_path, text):
    file = tmp_path / "options.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"options\.yaml: "):
        settings.load(environ={"FAST_ROUTER_CONFIG": str(file)})


def test_configure_changes_nothing_if_a_value_is_wrong_and_tells_listeners_otherwise():
    heard = []
    stop = settings.on_change(heard.append)
    before = settings.current()
    with pytest.raises(ConfigurationError):
        fast_router.configure(max_wait=1, log_level="loud")
    assert settings.current() is before
    assert heard == []
    fast_router.configure(max_wait=1)
    assert [each.max_wait for each in heard] == [1.0]
    stop()
    fast_router.configure(max_wait=2)
    assert len(heard) == 1


def test_settings_are_immutable_and_show_no_secrets():
    loaded, _ = settings.load({"redis_url": f"redis://:{PASSWORD}@host"}, {})
    assert PASSWORD not in repr(loaded)
    with pytest.raises(AttributeError, match="configure"):
        loaded.max_wait = 3


@pytest.mark.parametrize(
    ("text", "answer"), [("", True), ("1", True), ("on", True), ("0", False), ("No", False), ("Never", False)]
)
def test_enabled_reads_the_environment(text, answer):
    environ = {"FAST_ROUTER_ENABLED": text}
    assert settings.load(environ=environ)[0].enabled is answer
    assert environment_switch.off(environ) is not answer


def test_variables_that_are_no_options_are_named_but_not_those_of_our_own_tools():
    environ = {"FAST_ROUTER_MAXWAIT": "3", "FAST_ROUTER_MAX_WAIT": "3", "FAST_ROUTER_NONSENSE": "x", "OTHER": "1"}
    own = {"FAST_ROUTER_TEST_REDIS_URL": "redis://x", "FAST_ROUTER_ALBERT_CONFIG": "x.yml"}
    assert settings.unknown_variables(environ | own) == [
        "FAST_ROUTER_MAXWAIT is set, but there is no such option; did you mean 'FAST_ROUTER_MAX_WAIT'?",
        "FAST_ROUTER_NONSENSE is set, but there is no such option; `fast-router settings` lists the options",
    ]
    assert settings.unknown_variables({**own, "OTHER": "1"}) == []


def test_enabled_refuses_what_is_neither_yes_nor_no():
    with pytest.raises(ConfigurationError, match="FAST_ROUTER_ENABLED: 'maybe'"):
        settings.load(environ={"FAST_ROUTER_ENABLED": "maybe"})


@pytest.mark.parametrize(
    ("level", "setup", "shown"),
    [
        ("INFO", "", ["told", "warned"]),
        ("INFO", "logging.basicConfig(level='INFO', format='%(message)s')", ["told", "warned"]),
        ("INFO", "logging.getLogger('fast_router').addHandler(logging.NullHandler())", []),
        ("WARNING", "", ["warned"]),
        (None, "", ["warned"]),
    ],
)
def test_lines_of_the_level_asked_for_are_seen_once(level, setup, shown):
    program = (
        "import logging, fast_router\nfrom fast_router import settings\n"
        f"settings.current(); settings.configure(max_wait=1)\n{setup}\n"
        "log = logging.getLogger('fast_router')\nlog.info('told')\nlog.warning('warned')"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FAST_ROUTER_")}
    environment |= {} if level is None else {"FAST_ROUTER_LOG_LEVEL": level}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=250, check=True
    )
    # With its time, level and logger in front where the program has set up no logging.
    assert [line.split(": ")[-1] for line in done.stderr.splitlines()] == shown


def test_the_log_level_is_set_only_if_somebody_asks_for_one():
    logger = logging.getLogger("fast_router")
    before = logger.level
    try:
        logger.setLevel(logging.ERROR)
        settings.current()
        assert logger.level == logging.ERROR
        fast_router.configure(log_level="DEBUG")
        assert logger.level == logging.DEBUG
    finally:
        logger.setLevel(before)


def test_every_row_is_complete_and_every_default_passes_its_own_check():
    names = [row.name for row in settings.rows()]
    assert len(names) == len(set(names))
    for row in settings.rows():
        assert row.sentence.endswith("."), row.name
        assert f"`{row.env}`" in settings.markdown()
        assert row.secret or not any(word in row.name for word in ("url", "password", "secret")), row.name
    defaults = {row.name: getattr(settings.load(environ={})[0], row.name) for row in settings.rows()}
    settings.load(defaults, {})


def test_every_default_is_shown_and_those_of_celery_are_its_own():
    from dataclasses import fields

    from fast_router.celery_routing.settings import CelerySettings

    theirs = {f"celery_{each.name}": each.default for each in fields(CelerySettings)}
    for row in settings.rows():
        assert row.default not in ("–", ""), row.name
        if row.name in theirs and not row.secret:
            assert row.default == settings.shown(theirs[row.name]), row.name


def test_importing_the_table_imports_nothing_heavy():
    code = (
        "import sys, fast_router.settings; print(*sorted({'pydantic', 'yaml', 'litellm', 'wrapt'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_command_lists_values_sources_and_strangers(monkeypatch):
    monkeypatch.setenv("FAST_ROUTER_MAX_WAIT", "2")
    monkeypatch.setenv("FAST_ROUTER_REDIS_URL", f"redis://:{PASSWORD}@host")
    monkeypatch.setenv("FAST_ROUTER_MAXWAIT", "2")
    done = CliRunner().invoke(main, ["settings"])
    assert done.output.startswith("Of this shell.")
    assert done.exit_code == 0
    assert "FAST_ROUTER_MAX_WAIT = 2 seconds  (FAST_ROUTER_MAX_WAIT)" in done.output
    assert "FAST_ROUTER_REDIS_URL = redis://***@host  (FAST_ROUTER_REDIS_URL)" in done.output
    assert "FAST_ROUTER_MAXWAIT is set, but there is no such option" in done.output
    assert PASSWORD not in done.output


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"redis://:{PASSWORD}@10.0.0.5:6379/1", "redis://***@10.0.0.5:6379/1"),
        (f"rediss://user:{PASSWORD}@host/0?ssl_cert_reqs=none", "rediss://***@host/0"),
        ("redis://host:6379", "redis://host:6379"),
        # Characters that end a password, in the eyes of whoever takes the URL apart.
        *((f"redis://:{PASSWORD}{mark}{PASSWORD}@host/0", "set, not shown") for mark in "/?#@"),
        (f"redis://{PASSWORD}:1/{PASSWORD}@host", "set, not shown"),
        (f"unix:///run/redis.sock?password={PASSWORD}", "set, not shown"),
        (f"redis://host/0?password={PASSWORD}", "redis://host/0"),
    ],
)
def test_of_a_url_only_the_place_is_told(url, told):
    row = next(row for row in settings.rows() if row.name == "redis_url")
    assert row.told(settings.load({"redis_url": url}, {})[0].redis_url) == told


RUNS = """
    import sys
    import fast_router
    from fast_router.observe import process_status
    fast_router.configure(**eval(sys.argv[1]))
    assert process_status.start()
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def two(runtime, tmp_path):
    """Two processes with a file, an environment and arguments of their own, and their pids."""
    file = tmp_path / "config.yaml"
    file.write_text("model_list: []\nfast_router:\n  max_wait: 3\n")
    environment = {
        **os.environ,
        "FAST_ROUTER_CONFIG": str(file),
        "FAST_ROUTER_REDIS_URL": f"redis://:{PASSWORD}@10.0.0.5/0",
        "FAST_ROUTER_MAXWAIT": "1",
    }
    with contextlib.ExitStack() as running:
        found = []
        for arguments in ({}, {"max_wait": 5}):
            each = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(RUNS), repr(arguments)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            running.enter_context(each)
            running.callback(each.stdin.close)
            assert each.stdout.readline() == "ready\n"
            found.append(each.pid)
        # What it says from now on counts at their next start.
        file.write_text("fast_router: {max_wait: 7, hedge_percent: 1}")
        yield file, *found


def test_processes_that_run_say_what_counts_in_them_and_where_they_differ(two):
    file, one, other = two
    done = CliRunner().invoke(main, ["settings", "--running"])
    assert done.exit_code == 0
    assert PASSWORD not in done.output
    for line in (
        "The processes differ in: max_wait",
        f"  FAST_ROUTER_MAX_WAIT = 3 seconds  ({file}: max_wait)  in {one}",
        f"                       = 5 seconds  (configure(max_wait=…))  in {other}",
        "  FAST_ROUTER_REDIS_URL = redis://***@10.0.0.5/0  (FAST_ROUTER_REDIS_URL)",
        "  FAST_ROUTER_HEDGE_PERCENT = 0  (default)",
    ):
        assert line in done.output.splitlines()
    assert done.output.count("FAST_ROUTER_MAXWAIT is set, but there is no such option") == 1
    alone = CliRunner().invoke(main, ["settings", "--pid", str(one), "--changed"]).output
    assert f"  FAST_ROUTER_MAX_WAIT = 3 seconds  ({file}: max_wait)\n" in alone
    assert "(default)" not in alone
    assert "differ" not in alone
    document = json.loads(CliRunner().invoke(main, ["settings", "--running", "--json"]).output)
    assert {each["pid"]: each["settings"]["max_wait"]["value"] for each in document} == {
        one: "3 seconds",
        other: "5 seconds",
    }


@pytest.mark.parametrize("command", [["settings"], ["status"], ["explain", "m"]])
def test_a_process_that_does_not_answer_is_told_with_those_that_do(two, command):
    _, one, other = two
    done = CliRunner().invoke(main, [*command, "--pid", "999999"])
    assert done.exit_code in {1, 2}
    said = done.output.removeprefix("Error: ")
    assert said.startswith("process 999999 does not answer; those that do: ")
    assert f"{one} (python -c)" in said
    assert f"{other} (python -c)" in said


@pytest.mark.parametrize("command", [["settings", "--running"], ["status"], ["explain", "m"]])
def test_where_no_process_answers_each_command_says_what_one_must_have(runtime, command):
    done = CliRunner().invoke(main, command)
    assert done.exit_code in {1, 2}
    assert "no process answers in" in done.output


def test_the_command_prints_the_table_for_the_documentation():
    done = CliRunner().invoke(main, ["settings", "--markdown"])
    assert done.output.strip() == settings.markdown().strip()


def test_a_wrong_setting_ends_the_command_with_one_line_and_exit_code_2(monkeypatch):
    monkeypatch.setenv("FAST_ROUTER_MAX_WAIT", "soon")
    done = CliRunner().invoke(main, ["settings"])
    assert done.exit_code == 2
    assert done.output.startswith("Error: FAST_ROUTER_MAX_WAIT: 'soon'")


@pytest.mark.parametrize(
    ("given", "read"),
    [("observe", "observe"), (" Observe ", "observe"), (10, 10.0), ("12.5", 12.5), (0, 0.0), (100, 100.0)],
)
def test_a_rollout_is_a_share_in_percent_or_observe(given, read, tmp_path):
    assert settings.load(arguments={"rollout": given}, environ={})[0].rollout == read
    assert settings.load(environ={"FAST_ROUTER_ROLLOUT": str(given)})[0].rollout == read
    file = tmp_path / "options.yaml"
    file.write_text(f"fast_router: {{rollout: {given}}}")
    assert settings.load(environ={"FAST_ROUTER_CONFIG": str(file)})[0].rollout == read


@pytest.mark.parametrize("given", [-1, 101, "half", True, [10], float("nan")])
def test_a_wrong_rollout_is_one_error_that_says_what_is_right(given):
    with pytest.raises(
        ConfigurationError, match=r"^configure\(rollout=…\): .*from 0 to 100, or observe \(rollout: .*\)$"
    ):
        settings.load(arguments={"rollout": given}, environ={})
    with pytest.raises(ConfigurationError, match="'latency', 'first_token' or 'failures'"):
        settings.load(arguments={"rollout_measure": "speed"}, environ={})


TRIED = {"strategy": "cache_aware", "share": 20.0}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"strategy": "cache-aware", "share": "20"}, TRIED),
        ({"strategy": "prefix_affinity", "share": 20}, TRIED),
        ({"strategy": "least-busy", "share": 0}, {"strategy": "least_busy", "share": 0.0}),
        (
            {"strategy": "peak_ewma", "share": 100, "options": {"decay": 3}},
            {"strategy": "peak_ewma", "share": 100.0, "options": {"decay": 3}},
        ),
        ({}, {}),
    ],
)
def test_an_experiment_is_a_strategy_and_its_share(given, read, tmp_path):
    assert settings.load(arguments={"experiment": given}, environ={})[0].experiment == read
    assert settings.load(environ={"FAST_ROUTER_EXPERIMENT": yaml.safe_dump(given)})[0].experiment == read
    file = tmp_path / "options.yaml"
    file.write_text(yaml.safe_dump({"fast_router": {"experiment": given}}))
    assert settings.load(environ={"FAST_ROUTER_CONFIG": str(file)})[0].experiment == read


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("cache_aware", "expected a mapping, not str; an experiment is written as {strategy: cache_aware, share: 20}"),
        ({"strategy": "cach_aware", "share": 20}, "unknown strategy 'cach_aware'; did you mean 'cache_aware'?"),
        ({"strategy": "cache_aware"}, "share must be given"),
        ({"share": 20}, "strategy must be given"),
        ({"strategy": "cache_aware", "shares": 20}, "there is no key 'shares'; did you mean 'share'?"),
        ({"strategy": "cache_aware", "share": 101}, "share: 101: expected a share in percent from 0 to 100"),
        ({"strategy": "cache_aware", "share": True}, "expected a share in percent from 0 to 100"),
        ({"strategy": "lar1", "share": 20}, "'lar1' is LiteLLM's alone"),
        ({"strategy": "peak_ewma", "share": 20, "options": {"decai": 1}}, "no option 'decai'; did you mean 'decay'?"),
        ({"strategy": "peak_ewma", "share": 20, "options": 3}, "options: expected a mapping, not int"),
    ],
)
def test_a_wrong_experiment_is_one_error_in_the_same_words_everywhere(given, said, tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text(yaml.safe_dump({"fast_router": {"experiment": given}}))
    for source, read in (
        ("configure(experiment=…)", {"arguments": {"experiment": given}, "environ": {}}),
        ("FAST_ROUTER_EXPERIMENT", {"environ": {"FAST_ROUTER_EXPERIMENT": yaml.safe_dump(given)}}),
        (f"{file}: experiment", {"environ": {"FAST_ROUTER_CONFIG": str(file)}}),
    ):
        with pytest.raises(ConfigurationError) as raised:
            settings.load(**read)
        assert str(raised.value).startswith(f"{source}: ")
        assert said in str(raised.value)


@pytest.mark.parametrize("rollout", [10, 0, "observe"])
def test_an_experiment_beside_a_rollout_is_one_error_that_names_both(rollout):
    with pytest.raises(ConfigurationError) as raised:
        settings.load({"experiment": TRIED}, {"FAST_ROUTER_ROLLOUT": str(rollout)})
    assert str(raised.value) == (
        "configure(experiment=…): an experiment needs every request to be picked by fast_router, and rollout is "
        f"{rollout} (FAST_ROUTER_ROLLOUT); set rollout to 100, or leave out experiment"
    )
    assert settings.load({"experiment": TRIED, "rollout": 100}, {})[0].experiment == TRIED
