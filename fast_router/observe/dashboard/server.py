"""The dashboard's server: one page, its files, and an API that wants a token.

Who may ask: the page itself holds nothing, so anybody may have it; every number and every order needs the token, in a
header that no foreign page can send without leave. `Host` must be a name that was given, so that no name made to point
here (DNS rebinding) is answered; `Origin`, where there is one, must be this server. Orders are POST alone.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fast_router.errors import FastRouterError
from fast_router.observe.dashboard.live import Live
from fast_router.observe.orders import LONGEST_HOLD, EmptyGroupError, give

__all__ = ["TOKEN_HEADER", "Access", "app"]

TOKEN_HEADER = "X-Fast-Router-Token"
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/explain.js": ("explain.js", "text/javascript; charset=utf-8"),
    "/plots.js": ("plots.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_MOST = 4096
_ACTIONS = ("rest", "drain", "wake")


@dataclass(frozen=True)
class Access:
    """Who may look and act.

    Attributes:
        hosts: What a request's `Host` may be, port included.
        token: What it must send in `X-Fast-Router-Token`.
        read_only: Refuse every order.
    """

    hosts: Collection[str]
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    read_only: bool = False


def app(access: Access) -> Starlette:
    """The application.

    Args:
        access: Who may look and act.
    """
    live = Live()

    async def state(request: Request) -> Response:  # noqa: ARG001 - starlette's signature
        return JSONResponse({**await run_in_threadpool(live.state), "read_only": access.read_only})

    async def past(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(live.history, request.query_params.get("model") or None))

    async def explain(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(live.explain, request.query_params.get("model") or ""))

    async def order(request: Request) -> Response:
        if access.read_only:
            return _refused(403, "this dashboard is read only")
        wanted = _order(await _body(request))
        if wanted is None:
            return _refused(400, "an order is {action, target, model, seconds, force}")
        try:
            live.forget()
            done = await run_in_threadpool(lambda: give(**wanted, documents=live.documents()))
        except EmptyGroupError as error:
            return _refused(409, str(error).partition(";")[0])
        except FastRouterError as error:
            return _refused(422, str(error))
        live.forget()
        return JSONResponse({"targets": len(done.targets), "told": done.told, "silent": done.silent})

    routes = [Route(path, _file(*each), methods=["GET"]) for path, each in _FILES.items()]
    routes += [
        Route("/api/state", state, methods=["GET"]),
        Route("/api/history", past, methods=["GET"]),
        Route("/api/explain", explain, methods=["GET"]),
        Route("/api/order", order, methods=["POST"]),
    ]

    async def guard(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        problem = _problem(request, access)
        answer = await call(request) if problem is None else problem
        answer.headers.update(_HEADERS)
        return answer

    return Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)])


def _file(name: str, kind: str) -> Callable[[Request], Response]:
    content = (Path(__file__).parent / name).read_bytes()

    def answer(request: Request) -> Response:  # noqa: ARG001 - starlette's signature
        return Response(content, media_type=kind)

    return answer


def _refused(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status_code=status)


def _problem(request: Request, access: Access) -> Response | None:
    """Why a request is not answered, None if it is."""
    host = request.headers.get("host", "").lower()
    if host not in access.hosts:
        return _refused(421, "this name is none of the dashboard's; `--host NAME` would make it one")
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() not in {f"http://{host}", f"https://{host}"}:
        return _refused(403, "asked by a page from elsewhere")
    if not request.url.path.startswith("/api/"):
        return None
    given = request.headers.get(TOKEN_HEADER, "")
    if not hmac.compare_digest(given.encode(), access.token.encode()):
        return _refused(401, "the token is missing or wrong; `fast-router dashboard` printed the address with it")
    return None


async def _body(request: Request) -> bytes:
    """A request's body, no more of it than an order may have and a byte."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST:
            break
    return body


def _order(body: bytes) -> dict[str, Any] | None:
    """The order in a request's body, None if it is none."""
    try:
        found = json.loads(body) if len(body) <= _MOST else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("action") not in _ACTIONS:
        return None
    target, model, seconds = found.get("target"), found.get("model"), found.get("seconds")
    if not isinstance(target, str) or not target or not isinstance(model, (str, type(None))):
        return None
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, (int, float))):
        return None
    if seconds is not None and not 0 < seconds <= LONGEST_HOLD:
        return None
    return {
        "action": found["action"],
        "word": target,
        "model": model,
        "seconds": seconds,
        "force": found.get("force") is True,
    }
