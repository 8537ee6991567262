"""The explorer as a web application: its page, its answers, and who may ask.

Who asks shows the token of the printed URL, or the cookie that its page sets; scripts and style are for everybody.
"""

from __future__ import annotations

import secrets
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from analyzer.explorer.answers import Explorer
from analyzer.explorer.exporting import page_of

STATIC = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


def application(explorer: Explorer, token: str, hosts: frozenset[str], ancestors: str = "'none'") -> ASGIApp:
    """The guarded application.

    Args:
        token: what the printed URL carries.
        hosts: what the Host of a request may be, with the port.
        ancestors: who may show the page in a frame, as in a Content-Security-Policy.
    """
    files = {path.name: path.read_bytes() for path in resources.files("analyzer.explorer").joinpath("static").iterdir()}

    def page(request: Request) -> Response:
        return Response(files["index.html"], media_type=STATIC[".html"])

    def static(request: Request) -> Response:
        name = request.path_params["name"]
        kind = STATIC.get("." + name.rpartition(".")[2])
        if name not in files or kind is None:
            return Response("not found", 404)
        return Response(files[name], media_type=kind)

    def icon(request: Request) -> Response:
        return Response(files["icon.svg"], media_type=STATIC[".svg"])

    def saved(request: Request) -> Response:
        """The picture and the layer of the address as a page that needs no server."""
        picture = explorer.pictures[request.path_params["picture"]]
        html = page_of(explorer, picture.key, request.path_params["layer"])
        return Response(html, media_type=STATIC[".html"], headers={"Content-Disposition": "attachment"})

    routes = [Route("/", page), Route("/static/{name}", static), Route("/favicon.ico", icon), *explorer.routes()]
    routes.append(Route("/api/page/{picture}/{layer:int}", explorer.endpoint(saved)))
    return Guard(Starlette(routes=routes), token, hosts, ancestors)


class Guard:
    """Lets a request through if it comes from this page: Host, Origin, and token or cookie are right.

    In a frame of another site the page has no cookie: it sends the token as a header, and in addresses of pictures.
    A wrong Host (DNS rebinding) is answered with 421, a wrong Origin, token or cookie with 403.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: frozenset[str], ancestors: str) -> None:
        self.app, self.token, self.hosts, self.ancestors = app, token, hosts, ancestors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        refused = self._refused(request)
        headers = self._headers(request, refused is None)

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        await (refused or self.app)(scope, receive, sending)

    def _refused(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if host not in self.hosts:
            return Response("this host is not served here", 421)
        origin = request.headers.get("origin")
        if origin is not None and origin not in {f"http://{name}" for name in self.hosts}:
            return Response("requests from other pages are not answered", 403)
        if request.url.path.startswith("/static/"):
            return None  # the same for everybody
        asked = request.query_params.get("token") or request.headers.get("x-explorer-token")
        shown = asked or request.cookies.get(self._cookie(request), "")
        if not secrets.compare_digest(shown.encode(), self.token.encode()):
            return Response("open the URL that onnx-analyzer explore printed: it has a token", 403)
        return None

    def _cookie(self, request: Request) -> str:
        """Of this port, since browsers keep cookies by host alone."""
        return f"explorer-{request.url.port or 80}"

    def _headers(self, request: Request, known: bool) -> list[tuple[bytes, bytes]]:
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
            f"media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors {self.ancestors}"
        )
        found = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-store",
            "cross-origin-resource-policy": "same-origin",
        }
        if known and "token" in request.query_params:
            found["set-cookie"] = f"{self._cookie(request)}={self.token}; Path=/; HttpOnly; SameSite=Strict"
        return [(name.encode(), value.encode()) for name, value in found.items()]
