"""`fast-router dashboard`: the live page in a browser."""

from __future__ import annotations

import ipaddress
import socket

import click
import uvicorn

from fast_router.errors import ConfigurationError
from fast_router.observe.dashboard import Access, app

__all__ = ["dashboard"]

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@click.command()
@click.option("--port", default=8787, show_default=True, help="0 takes a free one.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--host", "names", multiple=True, help="Another name that it is reached by, as a tunnel's or a proxy's.")
@click.option("--token", help="The token of the address, 16 characters or more; else a random one.")
@click.option("--read-only", is_flag=True, help="Nobody can rest, drain or wake anything.")
def dashboard(port: int, address: str, names: tuple[str, ...], token: str | None, read_only: bool) -> None:
    """Show all workers of this user on a web page, live, until Ctrl-C; the printed address holds its token.

    From another machine, a tunnel is best: ssh -L 8787:127.0.0.1:8787 HOST.
    """
    if token is not None and len(token) < 16:
        msg = "--token needs 16 characters or more; leave it out for a random one"
        raise ConfigurationError(msg)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError as error:
            msg = f"cannot listen at {address}:{port}: {error.strerror}; give --port, 0 for a free one"
            raise ConfigurationError(msg) from None
        listener.listen(64)  # before the address is printed: somebody may be quick
        bound = listener.getsockname()[1]
        own = f"[{address}]" if ":" in address else address
        hosts = {f"{name}:{bound}".lower() for name in (*_LOOPBACK, own)}
        hosts |= {word for name in names for word in (name.lower(), f"{name}:{bound}".lower())}
        access = Access(hosts, **({} if token is None else {"token": token}), read_only=read_only)
        shown = own if not _everywhere(address) else socket.gethostname()
        if _everywhere(address):
            access = Access({*hosts, f"{shown}:{bound}".lower()}, token=access.token, read_only=read_only)
        click.echo(f"http://{shown}:{bound}/#token={access.token}")
        server = uvicorn.Server(uvicorn.Config(app(access), log_level="warning", access_log=False, server_header=False))
        server.run(sockets=[listener])


def _everywhere(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_unspecified
    except ValueError:
        return False
