"""The `fast-router` command. Each subcommand lives in a module of its own that is imported when it is called."""

from __future__ import annotations

from fast_router.cli.group import main

__all__ = ["main"]
