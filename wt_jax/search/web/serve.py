"""Runs the page of an index."""

import logging
import socket
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from wt_jax.errors import SearchError
from wt_jax.search.engine import Engine
from wt_jax.search.web.app import Limits, create_app
from wt_jax.search.web.security import Tokens

log = logging.getLogger(__name__)

LOCAL = "127.0.0.1"


def host_names(host: str) -> list[str]:
    """What requests may call a server that listens at `host`: its address and, for all addresses, this machine's names."""
    names = [host, "127.0.0.1", "localhost", "::1"]
    if host in ("0.0.0.0", "::"):
        names += [socket.gethostname(), socket.getfqdn()]
        names += {str(entry[4][0]) for entry in _addresses(socket.gethostname())}
    return names


def _addresses(name: str) -> Sequence[tuple]:
    try:
        return socket.getaddrinfo(name, None)
    except OSError:
        return ()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any that is free.

    Raises:
      SearchError: there is no such address, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        server = socket.socket(family, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen(128)
    except OSError as error:
        raise SearchError(f"--host={host} --port={port}: {error.strerror or error}") from None
    return server


def serve(folder: Path, *, host: str = LOCAL, port: int = 0, open_page: bool = True, limits: Limits | None = None) -> None:
    """Serve the index in a folder until Ctrl-C.

    Args:
      folder: of the index.
      host: address to listen at.
      port: 0 takes any that is free.
      open_page: open the page in this machine's browser.
      limits: see `wt_jax.search.web.app.Limits`.

    Raises:
      SearchError: there is no index, or the address cannot be had.
    """
    engine, tokens = Engine(folder), Tokens()
    server = listen(host, port)
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    link = f"http://{shown}:{server.getsockname()[1]}/?token={tokens.token}"
    print(
        f"{len(engine.scan):,} moments of {len(engine.scan.snapshot.videos):,} videos. Open this link:\n\n  {link}\n",
        flush=True,
    )
    if host != LOCAL:
        print("It is not encrypted: on a network that others read, use an SSH tunnel or a proxy with TLS.", flush=True)
    app = create_app(engine, tokens, host_names(host), limits)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2, limit_concurrency=512
    )
    if open_page:
        webbrowser.open(link)
    uvicorn.Server(config).run(sockets=[server])
