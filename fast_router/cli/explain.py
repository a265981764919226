"""`fast-router explain MODEL`: for each deployment, whether it may be picked now, and exactly why not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from fast_router.cli.asked import named, nobody
from fast_router.cli.columns import Column, figure, show
from fast_router.errors import ConfigurationError
from fast_router.observe import asking
from fast_router.observe.orders import targets

__all__ = ["explain"]


@click.command()
@click.argument("model")
@click.option(
    "--request",
    "facts",
    multiple=True,
    metavar="KEY=VALUE",
    help="tokens=900, exclude=ID (or its beginning, or a server); may be given again.",
)
@click.option("--pid", type=int, help="This process only; else each.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON array.")
def explain(model: str, facts: Sequence[str], pid: int | None, as_json: bool) -> None:
    """Say for each deployment of MODEL whether it would be picked now, why not, and what the strategy compares."""
    request = _request(facts)
    request["exclude"] = _ids(request["exclude"], model, pid)
    question = {"do": "explain", "model": model, **request}
    everybody = asking.ask_all(question)
    answers = [each for each in everybody if pid in (None, each.get("pid"))]
    found = [each for each in answers if each.get("explained")]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    if not answers:
        raise ConfigurationError(nobody(pid, everybody))
    if not found:
        known = sorted({name for each in answers for name in each.get("models") or ()})
        if not known:
            msg = f"no Router was made yet in process {', '.join(map(named, answers))}"
            raise ConfigurationError(msg)
        msg = f"no process has a model {model!r}; there are: {', '.join(known[:20])}"
        raise ConfigurationError(msg)
    if as_json:
        return
    for answer in found:
        for each in answer["explained"]:
            _show(answer, each)


def _request(facts: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"exclude": []}
    for fact in facts:
        key, equals, value = fact.partition("=")
        if not equals or key not in {"tokens", "exclude"}:
            msg = f"--request {fact!r}: write tokens=NUMBER or exclude=ID"
            raise ConfigurationError(msg)
        if key == "exclude":
            found["exclude"].append(value)
            continue
        try:
            found["tokens"] = float(value)
        except ValueError:
            msg = f"--request {fact!r}: tokens is a number"
            raise ConfigurationError(msg) from None
    return found


def _ids(words: Sequence[str], model: str, pid: int | None) -> list[str]:
    """The whole ids of those that a request leaves out; where nobody has the model, the question itself tells so."""
    if not words:
        return []
    # Not of the status: a Router that nobody has asked yet may be missing there.
    answers = asking.ask_all({"do": "explain", "model": model})
    rows = [
        {"id": row["full_id"], "server": row["server"], "short": row["id"]}
        for answer in answers
        if pid in (None, answer.get("pid"))
        for each in answer.get("explained") or ()
        for row in each["deployments"]
    ]
    document = {"routers": [{"models": {model: {"deployments": rows}}}]}
    found: list[str] = []
    for word in words if rows else ():
        try:
            found += [target.id for target in targets([document], word)]
        except ConfigurationError as error:
            msg = f"--request exclude={word}: {error}"
            raise ConfigurationError(msg) from None
    return found


def _show(answer: dict[str, Any], each: dict[str, Any]) -> None:
    rows = each["deployments"]
    keys = list(rows[0]["compared"]) if rows else []
    columns = [Column("server"), Column("id"), Column("may be picked")]
    columns += [Column(key.replace("_", " "), number=True) for key in keys]
    columns.append(Column("why not"))
    title = (
        f"{each['model']} by {each['strategy']} in process {answer['pid']}: "
        f"{each['eligible']} of {len(rows)} may be picked; compared: {', '.join(k.replace('_', ' ') for k in keys)}"
    )
    cells = [
        [
            row["server"],
            row["id"],
            "yes" if row["eligible"] else "no",
            *(figure(row["compared"][key]) for key in keys),
            "; ".join(row["why"]),
        ]
        for row in rows
    ]
    show(columns, cells, title=title)
    if each.get("lane"):
        click.echo(f"lane: {each['lane']}")
