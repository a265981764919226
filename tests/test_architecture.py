"""The house's rules, read off its source: who may import whom, no circles, each name where it says."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

from fast_router.litellm_plugin.bands.rust.band import RustBand
from fast_router.litellm_plugin.feature_table import FEATURES, PARTS
from fast_router.litellm_plugin.layers import stack
from fast_router.settings import features

ROOT = Path(__file__).parents[1]
PACKAGES = ("fast_router", "adapters/fast_router_albert")

# Floor by floor: a module may import from its own floor and from those before it.
HOUSE = [
    {"fast_router.engine"},
    {"fast_router.cluster", "fast_router.celery_routing"},
    {"fast_router.litellm_plugin"},
    {"fast_router.launch", "fast_router.observe", "fast_router.cli"},
]
PLUGIN = [
    {"fast_router.litellm_plugin.bands"},
    {"fast_router.litellm_plugin.picks"},
    {"fast_router.litellm_plugin.rests"},
    {"fast_router.litellm_plugin.layers"},
    {
        "fast_router.litellm_plugin.fleet",
        "fast_router.litellm_plugin.overhead",
        "fast_router.litellm_plugin.model_list",
        "fast_router.litellm_plugin.rollout",
        "fast_router.litellm_plugin.rust_core",
    },
]


def _modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("adapters.")
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = _modules()


def _imports(name: str) -> set[str]:
    """Every module of ours that a module imports, in a function or for typing only as well."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            found.update(f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names)
    return (found & MODULES.keys()) - {name}


GRAPH = {name: _imports(name) for name in MODULES}


def _floor(name: str, floors: list[set[str]]) -> int | None:
    for number, rooms in enumerate(floors):
        if any(name == room or name.startswith(f"{room}.") for room in rooms):
            return number
    return None


def _circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            circle = []
            while not circle or circle[-1] != name:
                circle.append(stack.pop())
            if len(circle) > 1:
                found.append(sorted(circle))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def test_no_module_is_part_of_a_circle():
    assert _circles(GRAPH) == []


@pytest.mark.parametrize("floors", [HOUSE, PLUGIN], ids=["house", "plugin"])
def test_imports_go_one_way(floors):
    wrong = [
        f"{name} imports {other}"
        for name in sorted(GRAPH)
        for other in sorted(GRAPH[name])
        if (mine := _floor(name, floors)) is not None
        and (theirs := _floor(other, floors)) is not None
        and theirs > mine
    ]
    assert wrong == []


def test_no_file_is_longer_than_one_can_keep_in_mind():
    files = [
        path for folder in ("fast_router", "adapters", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ]
    assert [path for path in files if path.read_text().count("\n") > 500] == []


def test_the_engine_needs_the_standard_library_alone():
    allowed = {"fast_router.engine", "fast_router.errors"}
    wrong = {
        name: sorted(other for other in GRAPH[name] if not other.startswith(tuple(allowed)))
        for name in GRAPH
        if name.startswith("fast_router.engine")
    }
    assert {name: others for name, others in wrong.items() if others} == {}


def test_every_name_of_a_feature_is_one_that_installs():
    overhead = import_module("fast_router.litellm_plugin.overhead")
    assert set(features.OVERHEAD) == {feature.name for feature in overhead.FEATURES}
    assert set(features.FEATURES) == {feature.name for feature in FEATURES} | PARTS.keys()


def test_features_name_modules_that_install():
    paths = {feature.name: feature.module for feature in FEATURES}
    assert [name for name, path in (*paths.items(), *RustBand.installers.items()) if path not in MODULES] == []
    assert {*RustBand.installers, *RustBand.within, *RustBand.within.values()} <= paths.keys()


def test_a_plan_is_got_in_one_way():
    """`Binding.plan_for` alone knows whether a plan still holds; the fast lane writes the same out."""
    touching = [name for name, path in MODULES.items() if re.search(r"\.plans\b", path.read_text())]
    assert sorted(touching) == ["fast_router.litellm_plugin.picks.binding", "fast_router.litellm_plugin.picks.lanes"]


# Versions, spellings and members of LiteLLM are an adapter's affair, and that of the floor which only one has.
_ADAPTERS = ("fast_router.litellm_plugin.bands", "fast_router.litellm_plugin.rust_core")
# What is left of it elsewhere:
_STILL = {
    "fast_router.litellm_plugin.layers.first_chunk",
    "fast_router.litellm_plugin.hook",  # whether LiteLLM has been imported to its end
}


def test_only_bands_know_how_versions_of_litellm_differ():
    knowing = re.compile(
        r"(?<!litellm)\b_core_\w|PythonCore|RustCore|router_rust|KNOWN_PIPELINES|\bband\.(?:name|version)\s*(?:[<>=]|in\b)"
        r"|hasattr\((?:module|litellm|core|type\(core\)|band\.\w+)\b"
    )
    found = {}
    for name, path in MODULES.items():
        if name.startswith("fast_router.litellm_plugin.") and not name.startswith(_ADAPTERS):
            lines = [line for line in path.read_text().splitlines() if knowing.search(line)]
            if lines and name not in _STILL:
                found[name] = lines
    assert found == {}


def test_the_page_about_the_house_names_files_that_are_there():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:fast_router|adapters|tests)/[\w/.]+)`", page)
    assert len(named) > 25
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_page_names_the_layers_in_their_order():
    page = (ROOT / "docs" / "architecture.md").read_text()
    for seam in stack.Around:
        layers = ", ".join(f"`{place.name}`" for place in stack.LAYERS if place.around is seam)
        assert re.search(rf"^\| `{seam.name}` \|.* \| {layers} \|$", page, re.MULTILINE), seam


def test_two_context_variables_hold_what_is_running():
    """A fact about a request, or about what is being done for it, is a field of a record that they hold."""
    made = [
        (name, node.args[0].value)
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "ContextVar"
    ]
    module = "fast_router.litellm_plugin.request"
    assert sorted(made) == [(module, "fast_router_here"), (module, "fast_router_request")]


# Attributes and keys of ours on what is LiteLLM's or the caller's, and on what they are.
_HIDDEN = {
    "_fast_router": "a Router",
    "_fast_router_binding": "a store of cooldowns",
    "_fast_router_ended": "an exception",
    "_fast_router_failure": "an exception",
    "_fast_router_judged": "an exception",
    "_fast_router_lists": "the registry of 1.110's core",
    "_fast_router_on_a_loop": "the keyword arguments of a request",
    "_fast_router_{name}": "a stream",
    "_fast_router_{name}_first": "a stream",
}


def test_one_attribute_of_a_router_is_ours():
    """What else is kept about a Router is a field of `RouterState`, not one more attribute."""
    hidden = {
        ast.unparse(node).strip("f'")
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and re.match(r"f?'_fast_router", ast.unparse(node))
    }
    # What an f-string begins with is a constant of its own.
    hidden -= {name for name in hidden if not name.endswith("}") and f"{name}{{name}}" in _HIDDEN}
    assert sorted(hidden) == sorted(_HIDDEN)


def test_every_seam_is_patched_in_one_place():
    """Whatever stands around a request or an attempt is a layer: nothing but a band replaces those methods."""
    seams = [seam.value for seam in stack.Around if seam.value is not None]
    patching = [
        name
        for name, path in MODULES.items()
        if ".bands." not in name
        and any(re.search(rf"replace\([^)]*\"{method}\"", path.read_text()) for method in seams)
    ]
    assert patching == []
