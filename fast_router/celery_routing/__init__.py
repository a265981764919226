"""Deployments chosen by routing workers: the client that asks them through Celery."""
