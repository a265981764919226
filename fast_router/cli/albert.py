"""`fast-router albert`: check and convert configuration files of the Albert API and OpenGateLLM."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from fast_router_albert import AlbertConfig
    from fast_router_albert.schema import Model, Provider

__all__ = ["albert"]

_config = click.argument("config", type=click.Path(path_type=Path), envvar="CONFIG_FILE", default="config.yml")
_strict = click.option(
    "--strict/--no-strict",
    default=True,
    help="An unset environment variable is an error (default), or is left as it stands with a warning.",
)
_offline = click.option(
    "--offline", is_flag=True, help="Do not ask the servers of a flat (D0) file for the names of their models."
)


@click.group()
def albert() -> None:
    """Use a configuration file of the Albert API or OpenGateLLM, of any dialect.

    CONFIG is the file; by default what the environment variable CONFIG_FILE names, else config.yml.
    """


@albert.command()
@_config
@_strict
@_offline
@click.option("--probe", is_flag=True, help="Also ask each server whether it is there and how long a context it takes.")
def check(config: Path, strict: bool, offline: bool, probe: bool) -> None:
    """Say what the file means, or everything that is wrong with it (exit code 1)."""
    loaded = _load(config, strict=strict, offline=offline)
    for line in _describe(loaded):
        click.echo(line)
    for warning in loaded.describe_warnings():
        click.echo(f"warning: {warning}")
    unreachable = _probe(loaded) if probe else 0
    providers = sum(len(model.providers) for model in loaded.models)
    click.echo(
        f"{config}: {_count(len(loaded.models), 'model')}, {_count(providers, 'provider')}, "
        f"{_count(len(loaded.warnings), 'warning')}, dialect {'/'.join(loaded.dialects)}: it can be used"
    )
    if unreachable:
        click.echo(f"{_count(unreachable, 'provider')} cannot be reached", err=True)
        sys.exit(1)


@albert.command()
@_config
@_strict
@_offline
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write here (mode 0600), not to stdout."
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["proxy", "model-list"]),
    default="proxy",
    show_default=True,
    help="A whole YAML for the LiteLLM proxy, or the model list alone.",
)
def convert(config: Path, strict: bool, offline: bool, output: Path | None, kind: str) -> None:
    """Write what LiteLLM needs; keys from variables stay os.environ/NAME."""
    import yaml  # noqa: PLC0415 - `fast-router --help` need not wait for it
    from fast_router_albert import AlbertConfigError  # noqa: PLC0415
    from fast_router_albert.proxy import write_private  # noqa: PLC0415

    loaded = _load(config, strict=strict, offline=offline)
    try:
        content = loaded.proxy_config()
    except AlbertConfigError as error:
        _fail(error)
    chosen: Any = content if kind == "proxy" else content["model_list"]
    text = yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True)
    if output is None:
        click.echo(text, nl=False)
    else:
        try:
            write_private(output, text)
        except OSError as error:
            click.echo(f"{output}: cannot be written: {error.strerror}", err=True)
            sys.exit(1)
    for warning in loaded.describe_warnings():
        click.echo(f"warning: {warning}", err=True)
    literal = sum(1 for model in loaded.models for p in model.providers if p.key is not None and not p.key.variable)
    if literal:
        what = "key stands" if literal == 1 else "keys stand"
        click.echo(
            f"note: {literal} {what} in the output, as in the file itself; a ${{NAME}} there keeps it out", err=True
        )


def _load(config: Path, *, strict: bool, offline: bool) -> AlbertConfig:
    from fast_router_albert import AlbertConfigError, load_config  # noqa: PLC0415

    try:
        return load_config(config, strict=strict, discover=not offline)
    except AlbertConfigError as error:
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    click.echo(str(error), err=True)
    sys.exit(1)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _describe(config: AlbertConfig) -> Iterable[str]:
    for model in config.models:
        aliases = f" (also {', '.join(model.aliases)})" if model.aliases else ""
        yield f"{model.id}{aliases}: {model.type.value}, {model.strategy}, dialect {model.dialect}"
        for provider in model.providers:
            yield f"  {provider.type.value:8} {provider.url}  {provider.model_name}  {_details(model, provider)}"


def _details(model: Model, provider: Provider) -> str:
    said = [f"timeout {provider.timeout:g} s", _key(provider)]
    costs = model.costs(provider)
    if costs is not None:
        said.append(f"costs {costs[0]:g}/{costs[1]:g} per million tokens")
    if provider.closed:
        said.append("closed")
    elif provider.qos_metric is not None and provider.qos_limit is not None:
        note = "" if provider.qos_enforced else " (not enforced)"
        said.append(f"{provider.qos_metric.value} at most {provider.qos_limit:g}{note}")
    return ", ".join(said)


def _key(provider: Provider) -> str:
    if provider.basic_auth is not None:
        return "basic_auth ****"
    if provider.key is None:
        return "no key"
    return f"key ${{{provider.key.variable}}}" if provider.key.variable else "key ****"


def _probe(config: AlbertConfig) -> int:
    from fast_router_albert import ModelRegistry  # noqa: PLC0415

    async def ask() -> list[tuple[str, Sequence[Any]]]:
        registry = ModelRegistry.from_config(config)
        try:
            return list((await registry.probe()).items())
        finally:
            await registry.aclose()

    unreachable = 0
    urls = {model.id: [provider.url for provider in model.providers] for model in config.models}
    for name, probes in asyncio.run(ask()):
        for url, found in zip(urls[name], probes, strict=True):
            if found.reachable:
                length = f", {found.max_context_length} tokens" if found.max_context_length else ""
                size = f", vectors of {found.vector_size}" if found.vector_size else ""
                click.echo(f"probe: {name} at {url}: reachable{length}{size}")
            else:
                unreachable += 1
                click.echo(f"probe: {name} at {url}: not reachable: {found.problem}")
    return unreachable
