"""`fast-router status`: what each process on this machine says about its picks."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from fast_router.observe import process_status

__all__ = ["status"]

_NOBODY = (
    "no process answers in {directory}. A process is seen if it was started by `fast-router run`, is a proxy with "
    "fast_router in its startup hooks or callbacks, or has FAST_ROUTER_STATUS=1; and only after it imported LiteLLM."
)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="All that the processes say, as one JSON array.")
def status(as_json: bool) -> None:
    """Show how each process on this machine picks; exit code 1 if there is none."""
    found = process_status.processes()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif found:
        for position, document in enumerate(found):
            if position:
                click.echo()
            _show(document)
    if not found:
        click.echo(_NOBODY.format(directory=process_status.directory()), err=True)
        raise SystemExit(1)


def _show(document: dict[str, Any]) -> None:
    name = document.get("program", "process")
    if "status" not in document:
        click.echo(f"{name} (pid {document.get('pid', '?')}): {document.get('error', 'no status')}")
        return
    says = document["status"]
    state = "on" if says.get("enabled") else "off"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(document.get("started", 0)))
    click.echo(f"{name} (pid {document['pid']}): {state}, LiteLLM {says.get('litellm') or '–'}, since {since}")
    picks = says.get("picks") or {}
    click.echo(
        f"  picks: {picks.get('fast', 0)} fast, {picks.get('filtered', 0)} filtered, "
        f"{picks.get('delegated', 0)} delegated"
    )
    for lane in ("filtered", "delegated"):
        for reason, count in (picks.get(f"{lane}_reasons") or {}).items():
            click.echo(f"    {lane}: {count} × {reason}")
    celery = says.get("celery")
    if celery:
        state = "connected" if celery["connected"] else "not connected"
        reasons = ", ".join(f"{count} × {reason}" for reason, count in celery["local_picks"].items())
        click.echo(f"  celery: {state}, {celery['picks']} picks by workers, local: {reasons or 'none'}")
    for shared in says.get("shared_state") or ():
        if "problem" in shared:
            click.echo(f"  {shared['problem']}")
    for router in document.get("routers") or ():
        for model, group in router["models"].items():
            click.echo(f"  {model} ({group['strategy']})")
            for deployment in group["deployments"]:
                click.echo(f"    {_line(deployment)}")
    for feature, reason in (says.get("skipped") or {}).items():
        click.echo(f"  left out: {feature} ({reason})")
    errors = says.get("errors") or {}
    if errors.get("count"):
        click.echo(f"  errors of fast_router, answered by LiteLLM: {errors['count']} (last: {errors.get('last')})")


def _line(deployment: dict[str, Any]) -> str:
    latency = deployment.get("latency")
    parts = [f"{deployment['id'][:16]}: {deployment['in_flight']} in flight"]
    parts += [f"{deployment['picks']} picks", f"{deployment['failures']} failed"]
    if latency is not None:
        parts.append(f"{latency:.3g} s a token")
    breaker = deployment.get("breaker") or {}
    why = breaker.get("reason") or deployment.get("last_failure") or "by order"
    if deployment["resting"]:
        parts.append(f"rests for {deployment['resting']:.1f} s ({why})")
    elif breaker.get("state") in ("open", "half_open"):
        parts.append(f"may come back, its next call is the probe ({why})")
    elif deployment.get("closed"):
        parts.append("closed")
    elif not deployment["eligible"]:
        parts.append("at its limit")
    return ", ".join(parts)
