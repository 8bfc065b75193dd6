"""Prefect's server behind a door: `python -m flows.prefect_server HOST PORT`, as `prefect server start` otherwise.

It asks nobody who he is, and runs what it is asked to run. So a web page must not reach it: neither one whose name was
bound to 127.0.0.1 (told by its Host header), nor one that sends a form or opens a websocket (told by its Origin).
Prefect itself checks neither. Not for a server that others reach: that takes a proxy which knows them.
"""

import sys
from urllib.parse import urlsplit

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from flows.serve import NAMES

REFUSED = "refused: this server is for programs and pages of this machine, asked for as 127.0.0.1 or localhost"


class Door:
    """Lets in who asks for this machine by its name, from no page or from one of this machine."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _is_from_here(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(code=1008, reason="refused")(scope, receive, send)
        else:
            await PlainTextResponse(REFUSED, status_code=403)(scope, receive, send)


def _is_from_here(headers: Headers) -> bool:
    origin = headers.get("origin")
    return _name(f"//{headers.get('host', '')}") in NAMES and (origin is None or _name(origin) in NAMES)


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def main(host: str, port: int) -> None:
    """Serve until stopped."""
    from prefect.server.api.server import create_app

    uvicorn.run(Door(create_app(final=True)), host=host, port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
