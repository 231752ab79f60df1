"""Who may ask the server, and what browsers may do with its answers.

Every request needs the token that the printed link carries, or a session cookie that was given for it: other people's programs
on the same machine, and other sites in the same browser, have neither. Requests that change something also need a header that
only the page's own script knows. The host name must be one of the server's, so that no other site's name can be pointed at it.
"""

import hashlib
import hmac
import secrets
import urllib.parse
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE, CSRF_HEADER = "wt_jax_search", "x-csrf-token"
_SAFE = ("GET", "HEAD")
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "media-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Tokens:
    """The secret of one server, and what is derived from it: sessions, each with its own word against forged requests."""

    def __init__(self, token: str = ""):
        self.token = token or secrets.token_urlsafe(24)

    def new_session(self) -> str:
        """The value of a cookie."""
        name = secrets.token_urlsafe(12)
        return f"{name}.{self._signed('session ' + name)}"

    def session_of(self, cookie: str) -> str | None:
        """The session that a cookie was given for."""
        name, _, signature = cookie.partition(".")
        return name if name and hmac.compare_digest(signature, self._signed("session " + name)) else None

    def csrf(self, session: str) -> str:
        """What requests of a session that change something must carry."""
        return self._signed("csrf " + session)

    def is_token(self, text: str) -> bool:
        """Whether this is the server's secret."""
        return hmac.compare_digest(text.encode(), self.token.encode())

    def _signed(self, text: str) -> str:
        return hmac.new(self.token.encode(), text.encode(), hashlib.sha256).hexdigest()


class Gate:
    """ASGI middleware: lets those in who may come in, and puts the headers on every answer. Sets scope["session"]."""

    def __init__(self, app: ASGIApp, tokens: Tokens, hosts: Sequence[str]):
        self._app, self._tokens = app, tokens
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                # Names of static files change with their content.
                static = scope["path"].startswith("/static/")
                headers.setdefault("cache-control", "private, max-age=86400" if static else "no-store")
            await send(message)

        answer = self._admit(scope)
        await (answer or self._app)(scope, receive, guarded)

    def _admit(self, scope: Scope) -> ASGIApp | None:
        """None where the request may pass, else the answer to it."""
        headers = Headers(scope=scope)
        if _host_name(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("This server does not go by that name.", 400)
        query = urllib.parse.parse_qs(scope["query_string"].decode("latin-1"))
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._tokens.is_token(bearer.strip()):
            scope["session"] = "api"
            return None
        if "token" in query and scope["method"] == "GET":
            return self._welcome(scope, query["token"][0])
        session = self._tokens.session_of(_cookie(headers))
        if session is None:
            return PlainTextResponse("Open the link that the command printed: it carries the token that this page needs.", 401)
        if scope["method"] not in _SAFE:
            given, origin = headers.get(CSRF_HEADER, ""), headers.get("origin")
            foreign = origin is not None and urllib.parse.urlsplit(origin).netloc != headers.get("host")
            if foreign or not hmac.compare_digest(given.encode(), self._tokens.csrf(session).encode()):
                return PlainTextResponse("This request did not come from the page.", 403)
        scope["session"] = session
        return None

    def _welcome(self, scope: Scope, token: str) -> ASGIApp:
        """A cookie for the token, and the address without it."""
        if not self._tokens.is_token(token):
            return PlainTextResponse("The token is of another server; open the link that the command printed last.", 401)
        answer = RedirectResponse("/" + scope["path"].lstrip("/\\"), 303)
        answer.set_cookie(COOKIE, self._tokens.new_session(), httponly=True, samesite="strict", path="/")
        return answer


def _host_name(host: str) -> str:
    """Without the port."""
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[").lower()
    return host.partition(":")[0].lower()


def _cookie(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""
