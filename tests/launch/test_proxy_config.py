"""A mistake in a proxy's YAML is one line before the proxy starts, and what may be no mistake is left to LiteLLM."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from fast_router.cli import main
from fast_router.errors import ConfigurationError
from fast_router.launch.environment import environment
from fast_router.settings import proxy_file

ENTRY = "model_list: [{model_name: m, litellm_params: {model: openai/x}, model_info: {fast_router: {%s}}}]"
WRONG = {
    "router_settings: {routing_strategy: peak_ewmaa}": (
        "router_settings.routing_strategy: unknown strategy 'peak_ewmaa'; did you mean 'peak_ewma'? known strategies: "
    ),
    "router_settings: {routing_strategy: leastbusy}": "unknown strategy 'leastbusy'; did you mean 'least_busy'?",
    "router_settings: {routing_groups: [{routing_strategy: round_robbin}]}": (
        "router_settings.routing_groups[0].routing_strategy: unknown strategy 'round_robbin'; did you mean 'round_robi"
    ),
    "router_settings: {routing_strategy: peak-ewma, routing_strategy_args: {decai: 3}}": (
        "router_settings.routing_strategy_args: peak_ewma has no option 'decai'; did you mean 'decay'?"
    ),
    "router_settings: {routing_strategy: cache_aware, routing_strategy_args: [1]}": (
        "router_settings.routing_strategy_args: expected a mapping, not list"
    ),
    "router_settings: {routing_groups: [{routing_strategy: round_robin, routing_strategy_args: {ttl: 3}}]}": (
        "router_settings.routing_groups[0].routing_strategy_args: round_robin has no option 'ttl'; it has none"
    ),
    ENTRY % "strategy: power_of_too": (
        "model_list[0]: model_info.fast_router.strategy: unknown strategy 'power_of_too'; did you mean 'power_of_two'?"
    ),
    ENTRY % "qos_metric: inflght": "'qos_metric' must be one of inflight, ttft, latency, performance; did you mean",
    ENTRY % "capacity: many": "model_list[0]: model_info.fast_router: 'capacity' must be a number, not 'many'",
    ENTRY % "max_parallel: lots, stratgy: peak_ewma": (
        "model_list[0]: model_info.fast_router: 'max_parallel' must be a number, not 'lots'; "
        "'stratgy' means nothing; did you mean 'strategy'?"
    ),
    "litellm_settings: {callbacks: [prometheus, fast_router.handlr]}": (
        "litellm_settings.callbacks: there is no 'fast_router.handlr'; did you mean 'fast_router.handler'?"
    ),
    "litellm_settings: {success_callback: fast-router.handler}": "did you mean 'fast_router.handler'?",
    "fast_router: {max_weit: 2}": "max_weit: no such option; did you mean 'max_wait'?",
}


@pytest.fixture
def config(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text + "\n")
        return str(path)

    return write


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_is_one_line(config, text):
    path = config(text)
    done = CliRunner().invoke(main, ["run", "--", "litellm", "--config", path])
    assert done.exit_code == 2
    (line,) = done.output.strip().splitlines()
    assert path in line
    assert WRONG[text] in line


@pytest.mark.parametrize(
    "text",
    [
        "router_settings: {routing_strategy: latency-based-routing}",
        "router_settings: {routing_strategy: provider-budget-routing}",  # LiteLLM's alone
        "router_settings: {routing_strategy: my_own}",  # a callback may register it
        "router_settings: {routing_strategy: my_own, routing_strategy_args: {any: 1}}",
        "router_settings: {routing_strategy: latency-based-routing, routing_strategy_args: {ttl: 10, any: 1}}",
        "router_settings: {routing_strategy: peak_ewma, routing_strategy_args: {decay: os.environ/DECAY}}",
        "router_settings: {routing_strategy: peak_ewma, routing_strategy_args: {decay: 4}}",
        "router_settings: {routing_strategy: [1]}",
        "router_settings: 5",
        "model_list: routing_strategy",
        "model_list: [5, {model_info: fast_router}]",
        ENTRY % "strategy: my_own",
        "litellm_settings: {callbacks: [fast_router.handler, fast_router_callback.handler, my_callbacks.handler, 5]}",
        "litellm_settings: {callbacks: fast_router.handler.handler}",
        "litellm_settings: [fast_router]",
        ENTRY % "capacity: os.environ/CAPACITY",
        "routing_strategy: {",
        "\x00 routing_strategy",
    ],
)
def test_what_may_be_no_mistake_is_left_to_litellm(config, text):
    environment(["litellm", "--config", config(text)], environ={})


NO_YAML = {
    "!!int ten": "not valid YAML: a value is not what it is tagged as",
    "!!float ''": "not valid YAML: a value is not what it is tagged as",
    "!!bool so": "not valid YAML: a value is not what it is tagged as",
    "!!timestamp soon": "not valid YAML: a value is not what it is tagged as",
    "2026-99-99": "or no date or number that there can be",
    "9" * 5000: "or no date or number that there can be",
    "[" * 900 + "]" * 900: "not valid YAML: it is nested too deeply",
    "[": "not valid YAML in line 1: ",
    "\udcff": "is no text in UTF-8; save it as such",
}


@pytest.mark.parametrize("value", NO_YAML, ids=lambda value: value[:20].encode("unicode_escape").decode())
def test_what_no_loader_can_read_is_litellms_to_say_or_one_line_about_our_own_file(tmp_path, value):
    path = tmp_path / "config.yaml"
    path.write_bytes(f"fast_router: {{max_wait: {value}}}\n".encode(errors="surrogateescape"))
    environment(["litellm", "--config", str(path)], environ={})
    done = CliRunner().invoke(main, ["run", "--settings", str(path), "--", "litellm"])
    assert done.exit_code == 2
    (line,) = done.output.strip().splitlines()
    assert line.startswith(f"Error: {path}: ")
    assert NO_YAML[value] in line
    assert len(line) < 300


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (ENTRY % f"capacity: {'9' * 400}", "'capacity' must be a number"),
        (ENTRY % f"breaker_growth: {'9' * 400}", "'breaker_growth' must be a number"),
        (
            "router_settings: {routing_strategy: peak_ewma, routing_strategy_args: {decay: %s}}" % ("9" * 400),
            "peak_ewma: an option has a wrong value: ",
        ),
        (f"fast_router: {{rollout: {'9' * 400}}}", "rollout: "),
    ],
)
def test_a_number_that_no_float_can_hold_is_one_line(config, text, told):
    with pytest.raises(ConfigurationError, match=told):
        environment(["litellm", "--config", config(text)], environ={})


SECRET = "sk-never-to-be-shown-4711"


@pytest.mark.parametrize(
    "text",
    [
        f"router_settings: {{routing_strategy: peak_ewma, routing_strategy_args: {{load: {SECRET}}}}}",
        f"router_settings: {{routing_strategy: power_of_two, routing_strategy_args: {{load: [{SECRET}]}}}}",
        f"fast_router: {{disabled_features: [{SECRET}]}}",
        ENTRY % f"capacity: x, {SECRET}: 1",
        ENTRY % f"capacity: x, strategy: peak_ewma, options: {{{SECRET}: 1}}",
    ],
)
def test_a_key_at_a_wrong_place_is_not_shown(config, text):
    with pytest.raises(ConfigurationError) as caught:
        environment(["litellm", "--config", config(text)], environ={})
    told = str(caught.value).lower().replace("_", "-")
    assert not [SECRET[at : at + 6] for at in range(len(SECRET) - 5) if SECRET[at : at + 6] in told]


def test_aliases_that_repeat_or_contain_each_other_are_followed_once(config):
    many = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
    text = f"a0: &a0 [x]\n{many}\n{ENTRY % 'strategy: peak_ewma, options: {load: *a11}'}"
    with pytest.raises(ConfigurationError, match="did you mean 'peak_ewma'"):
        environment(["litellm", "--config", config(text.replace("peak_ewma", "peak_ewmaa"))], environ={})
    environment(["litellm", "--config", config(ENTRY % "strategy: os.environ/X, options: &a {load: *a}")], environ={})


def test_a_callback_of_the_users_own_may_be_called_nearly_as_ours(config, tmp_path):
    path = config("litellm_settings: {callbacks: [fastrouter.handler]}")
    with pytest.raises(ConfigurationError, match=r"there is no 'fastrouter\.handler'; did you mean"):
        environment(["litellm", "--config", path], environ={})
    (tmp_path / "fastrouter.py").touch()
    environment(["litellm", "--config", path], environ={})


def test_several_mistakes_are_a_line_each(config):
    entries = ", ".join(f"{{model_name: m{i}, model_info: {{fast_router: {{capacity: x}}}}}}" for i in range(12))
    path = config(f"router_settings: {{routing_strategy: peak_ewmaa}}\nmodel_list: [{entries}]")
    done = CliRunner().invoke(main, ["run", "--", "litellm", "--config", path])
    assert done.exit_code == 2
    first, *lines = done.output.splitlines()
    assert first == f"Error: {path}:"
    assert lines[0].startswith("  router_settings.routing_strategy: unknown strategy 'peak_ewmaa'")
    assert lines[9] == "  model_list[8]: model_info.fast_router: 'capacity' must be a number, not 'x'"
    assert lines[10:] == ["  … and 3 more"]


@pytest.mark.parametrize(
    ("command", "environ", "told"),
    [
        (["litellm", "--config", "{}/confg.yaml"], {}, "--config: there is no file confg.yaml in {}; did you mean"),
        (["/bin/litellm", "-c", "{}/x/config.yaml"], {}, "--config: there is no folder {}/x"),
        (["uvicorn", "fast_router.asgi:app"], {"CONFIG_FILE_PATH": "{}/z"}, "CONFIG_FILE_PATH: there is no file z in"),
        (["litellm", "--config", "{}/config.yaml"], {}, ""),
        (["litellm", "--port", "4000"], {}, ""),
        (["python", "-c", "print(1)"], {}, ""),
        (["gunicorn", "-c", "nowhere.py", "app:app"], {"CONFIG_FILE_PATH": "{}/z"}, ""),
        (["litellm", "--config", "{}/confg.yaml"], {"LITELLM_CONFIG_BUCKET_NAME": "b"}, ""),
    ],
)
def test_a_yaml_that_is_not_there_is_one_line(config, tmp_path, command, environ, told):
    config("model_list: []")
    command = [word.replace("{}", str(tmp_path)) for word in command]
    environ = {name: value.replace("{}", str(tmp_path)) for name, value in environ.items()}
    found = proxy_file.missing(command, environ)
    assert found.startswith(told.replace("{}", str(tmp_path)))
    assert bool(found) is bool(told)


def test_a_folder_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    def refused(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.listdir", refused)
    found = proxy_file.missing(["litellm", "--config", str(tmp_path / "config.yaml")], {})
    assert found == f"--config: {tmp_path} cannot be read (Permission denied)"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["litellm", "--config", "a.yaml"], "a.yaml"),
        (["litellm", "--config=a.yaml"], "a.yaml"),
        (["litellm", "-c", "a.yaml"], "a.yaml"),
        (["litellm", "--config", "a.yaml", "--port", "1", "--config=b.yaml"], "b.yaml"),
        (["litellm", "-c", "a.yaml", "-c", "b.yaml"], "b.yaml"),
        (["litellm", "--config=", "--port", "1"], None),
        (["litellm", "--config"], None),
        (["python", "-m", "litellm.proxy.proxy_cli", "--config", "a.yaml"], "a.yaml"),
        # gunicorn's and hypercorn's own.
        (["gunicorn", "-c", "gunicorn.conf.py", "litellm.proxy.proxy_server:app"], None),
        (["hypercorn", "fast_router.asgi:app", "--config", "hypercorn.toml"], None),
    ],
)
def test_which_file_a_command_names(command, named):
    assert proxy_file.named_by_command(command) == named


def test_a_servers_own_configuration_does_not_hide_the_proxys(config):
    path = config("router_settings: {routing_strategy: peak_ewmaa}")
    command = ["gunicorn", "-c", "gunicorn.conf.py", "litellm.proxy.proxy_server:app"]
    with pytest.raises(ConfigurationError, match="did you mean 'peak_ewma'"):
        environment(command, environ={"CONFIG_FILE_PATH": path})


def test_of_two_files_the_one_that_litellm_will_serve_is_read(config, tmp_path):
    path = config("router_settings: {routing_strategy: peak_ewmaa}")
    (tmp_path / "other.yaml").write_text("fast_router: {max_wait: 3}")
    command = ["litellm", "--config", str(tmp_path / "other.yaml")]
    with pytest.raises(ConfigurationError, match="did you mean 'peak_ewma'"):
        environment(command, environ={"CONFIG_FILE_PATH": path})
    config("fast_router: {max_wait: 5}")
    assert environment(command, environ={"CONFIG_FILE_PATH": path})["FAST_ROUTER_CONFIG"] == path


def test_a_missing_yaml_ends_the_command(tmp_path):
    done = CliRunner().invoke(main, ["run", "--", "litellm", "--config", str(tmp_path / "config.yml")])
    assert done.exit_code == 2
    told = f"Error: --config: there is no file config.yml in {tmp_path}; give the path of the YAML\n"
    assert done.output == told


def test_off_always_starts_and_the_environment_names_the_file_too(config):
    path = config("router_settings: {routing_strategy: peak_ewmaa}")
    environment(["litellm", "--config", path], environ={"FAST_ROUTER_ENABLED": "0"})
    with pytest.raises(ConfigurationError, match="did you mean 'peak_ewma'"):
        environment(["gunicorn", "litellm.proxy.proxy_server:app"], environ={"CONFIG_FILE_PATH": path})


def test_a_name_that_litellm_has_is_its_own_however_near_to_one_of_ours(config, monkeypatch, tmp_path):
    (tmp_path / "litellm").mkdir()
    (tmp_path / "litellm" / "__init__.py").touch()
    (tmp_path / "litellm" / "router.py").write_text("NAMES = ['peak_ewmaa']")
    monkeypatch.setattr("fast_router.launch.proxy_config.find_spec", lambda _: spec(tmp_path / "litellm/__init__.py"))
    environment(["litellm", "-c", config("router_settings: {routing_strategy: peak_ewmaa}")], environ={})


def spec(path):
    from importlib.machinery import ModuleSpec

    return ModuleSpec("litellm", None, origin=str(path))
