"""`fast-router worker`: a routing worker for Celery routing."""

from __future__ import annotations

import sys

import click

from fast_router import extras
from fast_router.errors import FastRouterError

__all__ = ["worker"]


@click.command()
@click.option(
    "--config",
    "-c",
    type=click.Path(exists=True, dir_okay=False),
    help="LiteLLM config.yaml, Albert / OpenGateLLM file, or a file of our options; its models are served.",
)
@click.option("--models", "-m", multiple=True, help="Serve only these models (repeat, or a comma list; * matches).")
@click.option(
    "--concurrency", "-n", type=click.IntRange(1), default=1, show_default=True, help="Processes (or threads)."
)
@click.option("--pool", default="inline", show_default=True, help="inline, prefork, or threads (needs kombu 5.7).")
@click.option("--broker-url", help="RabbitMQ (amqp://…) or Redis (redis://…) with the queues.")
@click.option("--redis-url", help="Redis with metrics, reservations and replies.")
@click.option(
    "--loglevel",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="WARNING",
    show_default=True,
)
def worker(
    config: str | None,
    models: tuple[str, ...],
    concurrency: int,
    pool: str,
    broker_url: str | None,
    redis_url: str | None,
    loglevel: str,
) -> None:
    """Decide which provider takes a request, for API processes with FAST_ROUTER_ROUTING=celery.

    Without --models it serves the models of the file and those that API processes announce, new ones too
    while it runs. SIGTERM finishes what has been taken.
    """
    try:
        # Here: Celery is an extra, and the other commands must work without it.
        from fast_router_albert.celery_files import load_settings, models_of  # noqa: PLC0415

        from fast_router.celery_routing.envelope import Keys  # noqa: PLC0415
        from fast_router.celery_routing.worker.app import check_pool, run_worker, worker_redis  # noqa: PLC0415
        from fast_router.celery_routing.worker.models import ModelWatch  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise click.ClickException(extras.needs("fast-router worker", error.name, "celery")) from None
    try:
        check_pool(pool)
        settings = load_settings(config, broker_url=broker_url, redis_url=redis_url)
        if config is not None:
            models_of(config)  # a wrong file stops the start; later changes to a wrong one are only reported
        if assumed := settings.assumed():
            # Celery itself only says, again and again, that nobody answers there.
            click.echo(f"fast-router worker: {assumed}", err=True)
        watch = ModelWatch(
            [name.strip() for entry in models for name in entry.split(",") if name.strip()],
            path=config,
            read=models_of,
            redis=worker_redis(settings),
            key=Keys(settings).models,
            keep=settings.queue_expires,
        )
        code = run_worker(settings, watch, concurrency=concurrency, pool=pool, loglevel=loglevel.upper())
    except FastRouterError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(code)
