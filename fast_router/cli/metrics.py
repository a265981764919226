"""`fast-router metrics`: Prometheus' view of all processes of this user, on one address."""

from __future__ import annotations

import click

from fast_router.errors import ConfigurationError
from fast_router.observe.metrics import serve

__all__ = ["metrics"]


@click.command()
@click.option("--port", default=9464, show_default=True, help="Where Prometheus scrapes; 0 takes a free one.")
@click.option("--address", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--once", is_flag=True, help="Print them once instead.")
def metrics(port: int, address: str, once: bool) -> None:
    """Answer Prometheus for every process of this user until Ctrl-C; the option `metrics` does it inside a proxy."""
    if once:
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - an extra

        from fast_router.observe.metrics import RouterCollector  # noqa: PLC0415

        registry = CollectorRegistry()
        registry.register(RouterCollector(everybody=True))
        click.echo(generate_latest(registry).decode(), nl=False)
        return
    try:
        server, thread = serve(port, address)
    except OSError as error:
        msg = f"cannot listen at {address}:{port}: {error.strerror}"
        raise ConfigurationError(msg) from None
    click.echo(f"http://{address}:{server.server_port}/metrics")
    try:
        thread.join()
    except KeyboardInterrupt:
        server.shutdown()
