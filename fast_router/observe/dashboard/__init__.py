"""`fast-router dashboard`: a web page over every worker of this user."""

from __future__ import annotations

from fast_router.observe.dashboard.server import Access, app

__all__ = ["Access", "app"]
