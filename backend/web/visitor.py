"""Who looks at a page: the session cookie, and the token that forms send back.

Pages keep the API's own session (access and refresh token) in one HttpOnly cookie, and renew it as an API
client does. The API takes no cookie: `Authorization: Bearer` stays its only credential.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from backend.api.deps import Caller, address_of, get_rate_limits, get_services, read_body
from backend.domain.errors import Forbidden, Unauthenticated
from backend.domain.ids import Account

if TYPE_CHECKING:
    from fastapi import Response

    from backend.api.services import Services
    from backend.services.accounts.sessions import Tokens

SESSION, FORM = "loraledger_session", "loraledger_form"
FORM_FIELD, FORM_HEADER = "form_token", "x-form-token"
SAFE_METHODS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Visitor:
    """A signed-in wallet. `token`: its access token, as the API's callers send it."""

    account: Account
    token: str

    @property
    def caller(self) -> Caller:
        """As the API's endpoint functions take it."""
        return Caller(self.account, None, self.token)


@dataclass(frozen=True, slots=True)
class Cookies:
    """Writes the cookies of the pages. Over https they are bound to this host by their prefix."""

    is_secure: bool

    def name(self, name: str) -> str:
        return f"__Host-{name}" if self.is_secure else name

    def set(self, response: Response, name: str, value: str, max_age: int | None = None) -> None:
        response.set_cookie(
            self.name(name), value, max_age=max_age, secure=self.is_secure, httponly=True, samesite="lax"
        )


def cookies_of(request: Request) -> Cookies:
    return cast("Cookies", request.app.state.cookies)


def keep_session(request: Request, tokens: Tokens | None) -> None:
    """Have the response set the session's cookie; without tokens, remove it."""
    if tokens is None:
        _set_later(request, SESSION, "", 0)
        return
    seconds = int((tokens.session.ends_at - tokens.session.created_at).total_seconds())
    _set_later(request, SESSION, f"{tokens.access}.{tokens.refresh}", seconds)


def find_visitor(request: Request, services: Services) -> Visitor | None:
    """The signed-in wallet, if any. Renews a session whose access token has expired."""
    kept = request.cookies.get(cookies_of(request).name(SESSION), "")
    if not kept:
        return None
    access, _, refresh = kept.partition(".")
    try:
        return Visitor(services.sessions.of(access).account, access)
    except Unauthenticated:
        try:
            tokens = services.sessions.refresh(refresh)
        except Unauthenticated:
            keep_session(request, None)
            return None
    keep_session(request, tokens)
    return Visitor(tokens.session.account, tokens.access)


async def admit(request: Request) -> None:
    """Before the body of a request to a page is parsed, which holds up all others: rate limits, and the token
    of requests that change something.
    """
    visitor = await run_in_threadpool(find_visitor, request, get_services(request))
    request.state.visitor = visitor
    is_change = request.method not in SAFE_METHODS
    if is_change:
        await read_body(request)  # a large one counts as several requests
    scopes = {"address": address_of(request)} if visitor is None else {"wallet": str(visitor.account)}
    await get_rate_limits(request).admit(request, scopes)
    if is_change:
        sent = request.headers.get(FORM_HEADER) or (await request.form()).get(FORM_FIELD)
        request.state.sent_form = str(sent or "")
        check_form(request, request.state.sent_form)


def get_visitor(request: Request) -> Visitor | None:
    return cast("Visitor | None", getattr(request.state, "visitor", None))


def require_visitor(request: Request) -> Visitor:
    visitor = get_visitor(request)
    if visitor is None:
        raise Unauthenticated("This page is for a signed-in wallet: connect one and sign in.")
    return visitor


VisitorDep = Annotated[Visitor | None, Depends(get_visitor)]
SignedInDep = Annotated[Visitor, Depends(require_visitor)]


def form_token(request: Request) -> str:
    """A new token for the forms of this page, valid as long as the browser keeps its cookie."""
    secret = request.cookies.get(cookies_of(request).name(FORM)) or getattr(request.state, "form_secret", "")
    if not secret:
        secret = request.state.form_secret = secrets.token_hex(32)
        _set_later(request, FORM, secret, None)
    nonce = secrets.token_hex(16)
    return f"{nonce}.{_seal(secret, nonce)}"


def rendered_form(request: Request) -> str:
    """Names the rendering of the form that was sent: the same for a form that is sent again, and no other."""
    return str(request.state.sent_form)


def write_cookies(request: Request, response: Response) -> None:
    for name, (value, max_age) in getattr(request.state, "cookies", {}).items():
        cookies_of(request).set(response, name, value, max_age)


def _set_later(request: Request, name: str, value: str, max_age: int | None) -> None:
    request.state.cookies = getattr(request.state, "cookies", {}) | {name: (value, max_age)}


def check_form(request: Request, sent: str) -> None:
    """Errors: `Forbidden`, unless `sent` is a token of this browser's pages."""
    secret = request.cookies.get(cookies_of(request).name(FORM), "")
    nonce, _, seal = sent.partition(".")
    if not secret or not hmac.compare_digest(_seal(secret, nonce).encode(), seal.encode()):
        raise Forbidden(
            "This form does not come from a page that this browser has open, or its cookies were deleted. "
            "Nothing was changed: reload the page and try again."
        )


def _seal(secret: str, nonce: str) -> str:
    return hmac.digest(secret.encode(), nonce.encode(), "sha256").hex()
