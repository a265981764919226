"""`python -m fast_router.cli` is `fast-router`."""

from __future__ import annotations

from fast_router.cli.group import main

main(prog_name="fast-router")
